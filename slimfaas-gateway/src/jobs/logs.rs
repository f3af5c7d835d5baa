//! Streams what runs write. The cluster is asked on the control runtime: no core of the traffic plane waits for it.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::cluster::jobs::{JobError, JobRunner, RunName};
use crate::drain;

/// Streams at once; each holds a connection to the cluster and a few chunks.
pub const STREAMS_MAX: usize = 64;

/// Chunks that wait for a slow reader.
const CHUNKS: usize = 8;

/// Asks for streams. Cheap to clone.
#[derive(Clone)]
pub struct Logs(mpsc::Sender<Wanted>);

struct Wanted {
    run: RunName,
    follow: bool,
    stream: oneshot::Sender<Result<mpsc::Receiver<Bytes>, JobError>>,
}

/// Who gets them.
pub struct Streamer {
    wanted: mpsc::Receiver<Wanted>,
    runner: Arc<dyn JobRunner>,
}

pub fn channel(runner: Arc<dyn JobRunner>) -> (Logs, Streamer) {
    let (sender, wanted) = mpsc::channel(STREAMS_MAX);
    (Logs(sender), Streamer { wanted, runner })
}

impl Logs {
    /// What the run has written, and with `follow` what it will write. The reader's end ends it.
    pub async fn read(&self, run: RunName, follow: bool) -> Result<mpsc::Receiver<Bytes>, JobError> {
        let busy = || JobError::Unavailable(format!("{STREAMS_MAX} logs are being read already"));
        let (stream, answer) = oneshot::channel();
        self.0.try_send(Wanted { run, follow, stream }).map_err(|_full| busy())?;
        answer.await.unwrap_or_else(|_refused| Err(busy()))
    }
}

impl Streamer {
    pub async fn run(mut self, mut end: drain::Watch) {
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                biased; // the end first
                () = end.signaled() => break,
                Some(_ended) = streams.join_next() => {}
                Some(wanted) = self.wanted.recv() => {
                    // Dropped, it tells its reader that there are too many.
                    if streams.len() < STREAMS_MAX {
                        streams.spawn(stream(Arc::clone(&self.runner), wanted));
                    }
                }
                else => break,
            }
        }
        streams.shutdown().await;
    }
}

async fn stream(runner: Arc<dyn JobRunner>, wanted: Wanted) {
    let Wanted { run, follow, mut stream } = wanted;
    let found = tokio::select! {
        biased; // a reader that has gone keeps no stream, however long the cluster takes
        () = stream.closed() => return,
        found = runner.logs(&run, follow) => found,
    };
    let mut chunks = match found {
        Ok(chunks) => chunks,
        Err(error) => {
            let _gone = stream.send(Err(error)).is_err();
            return;
        }
    };
    let (sender, receiver) = mpsc::channel(CHUNKS);
    if stream.send(Ok(receiver)).is_err() {
        return;
    }
    loop {
        tokio::select! {
            () = sender.closed() => return,
            chunk = chunks.next() => match chunk {
                Some(chunk) => if sender.send(chunk).await.is_err() { return },
                None => return,
            },
        }
    }
}
