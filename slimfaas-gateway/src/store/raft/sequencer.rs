//! The leader's side of proposing: what waits becomes one log entry.

use std::sync::Arc;

use bytes::Bytes;
use openraft::Raft;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::shared::Shared;
use super::types::{Content, Types};
use crate::store::command::{BatchReply, encode_entry};

/// Entries that were handed to Raft and are not applied yet. One: everything that comes while the disks work is in the
/// next entry. With two, entries were half as large, which cost more than the idle time between them.
const ENTRIES_IN_FLIGHT: usize = 1;

/// An entry ends after the batch that exceeds this.
const ENTRY_BYTES: usize = 1 << 20;

/// Batches that wait, from all peers; each is at most about 1 MiB.
pub(super) const WAITING_MAX: usize = 64;

/// A batch that is to be in the log.
pub(super) struct Submission {
    pub(super) batch: Bytes,
    /// Dropped when nobody knows whether the batch will be applied.
    pub(super) done: oneshot::Sender<BatchReply>,
}

pub(super) async fn run(raft: Raft<Types>, shared: Arc<Shared>, mut waiting: mpsc::Receiver<Submission>) {
    let mut entries: JoinSet<()> = JoinSet::new();
    loop {
        // Room first: what comes while there is none joins the next entry.
        while entries.len() >= ENTRIES_IN_FLIGHT {
            let _ended = entries.join_next().await;
        }
        let Some(first) = waiting.recv().await else { return };
        let together = gather(first, &mut waiting);
        if together.is_empty() {
            continue;
        }
        let (batches, done): (Vec<_>, Vec<_>) = together.into_iter().map(|next| (next.batch, next.done)).unzip();
        let content = Content(encode_entry(shared.time_ms(), &batches));
        let Ok(written) = raft.client_write_ff(content).await else { return };
        let lost = leadership_end(raft.clone());
        entries.spawn(async move {
            tokio::select! {
                biased;
                written = written => {
                    let Ok(Ok(response)) = written else { return };
                    for (done, reply) in done.into_iter().zip(response.data.0) {
                        let _gone = done.send(reply).is_err();
                    }
                }
                // Raft may never answer for an entry of a leadership that is over.
                () = lost => {}
            }
        });
    }
}

fn gather(first: Submission, waiting: &mut mpsc::Receiver<Submission>) -> Vec<Submission> {
    let mut size = 0;
    let mut together = Vec::new();
    let mut next = Some(first);
    while let Some(submission) = next {
        // Whoever gave up waiting submits it again.
        if !submission.done.is_closed() {
            size += submission.batch.len();
            together.push(submission);
        }
        if size >= ENTRY_BYTES {
            break;
        }
        next = waiting.try_recv().ok();
    }
    together
}

/// Resolves when this node no longer leads, or leads again.
fn leadership_end(raft: Raft<Types>) -> impl Future<Output = ()> {
    let mut metrics = raft.server_metrics();
    let term = metrics.borrow().vote.leader_id.term;
    async move {
        let changed = metrics.wait_for(|now| now.vote.leader_id.term != term || now.current_leader != Some(now.id));
        let _changed_or_ended = changed.await.is_ok();
    }
}
