//! The leader's side of proposing: what waits becomes one log entry.

use std::sync::Arc;

use bytes::Bytes;
use openraft::Raft;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::types::{Content, Types};
use crate::clock;
use crate::store::command::{BatchReply, encode_entry};

/// Entries that were handed to Raft and are not applied yet. More would make entries smaller, fewer would let the disks
/// idle while answers travel.
const ENTRIES_IN_FLIGHT: usize = 2;

/// An entry ends after the batch that exceeds this.
const ENTRY_BYTES: usize = 1 << 20;

/// Batches that wait, from all peers.
pub(super) const WAITING_MAX: usize = 256;

/// A batch that is to be in the log.
pub(super) struct Submission {
    pub(super) batch: Bytes,
    /// Dropped when nobody knows whether the batch will be applied.
    pub(super) done: oneshot::Sender<BatchReply>,
}

pub(super) async fn run(raft: Raft<Types>, mut waiting: mpsc::Receiver<Submission>) {
    let room = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT));
    let mut entries = JoinSet::new();
    loop {
        // Room first: what comes while there is none joins the next entry.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Some(first) = waiting.recv().await else { return };
        let mut size = first.batch.len();
        let mut together = vec![first];
        while size < ENTRY_BYTES {
            let Ok(next) = waiting.try_recv() else { break };
            size += next.batch.len();
            together.push(next);
        }
        let (batches, done): (Vec<_>, Vec<_>) = together.into_iter().map(|next| (next.batch, next.done)).unzip();
        let now_ms = clock::unix_millis();
        let content = Content(encode_entry(now_ms, &batches));
        let Ok(written) = raft.client_write_ff(content).await else { return };
        while entries.try_join_next().is_some() {}
        entries.spawn(async move {
            if let Ok(Ok(response)) = written.await {
                for (done, reply) in done.into_iter().zip(response.data.0) {
                    let _gone = done.send(reply).is_err();
                }
            }
            drop(permit);
        });
    }
}
