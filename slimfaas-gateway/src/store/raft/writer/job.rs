//! What the writer is asked to do, and how it is asked.

use std::sync::{Mutex, mpsc};

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::LogFlushed;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Writer;
use crate::queue::tables::{Row, Table};
use crate::store::raft::open::DiskPace;
use crate::store::raft::shared::{Shared, lock};
use crate::store::raft::types::{Answer, Entry, LogId, SnapshotMeta, Types, Vote};
use crate::store::raft::wire;

/// Jobs of about so many bytes are done together, to bound their memory and the time until the first is done.
const TOGETHER_BYTES: usize = 8 << 20;

/// Of an entry in the log's file beyond [`wire::entry_size`], its frame included: the most.
const ENTRY_OVERHEAD: u64 = 64;

/// A membership with the names of more nodes than a cluster has.
const MEMBERSHIP_BYTES: u64 = 64 << 10;

/// Something to write. A dropped answer means that it was not written, or that nobody knows.
pub(in crate::store::raft) enum Job {
    Append {
        entries: Vec<Entry>,
        last: LogId,
        flushed: Option<LogFlushed<Types>>,
    },
    SaveVote {
        vote: Vote,
        done: oneshot::Sender<()>,
    },
    /// Removes entries from this index on.
    Truncate {
        from: u64,
        last: Option<LogId>,
        done: oneshot::Sender<()>,
    },
    /// Removes entries up to this one.
    Purge {
        upto: LogId,
        done: oneshot::Sender<()>,
    },
    Apply {
        entries: Vec<Entry>,
        done: oneshot::Sender<Vec<Answer>>,
    },
    /// Rows of a state that is to replace the present one; `fresh`: the first of them.
    Receive {
        rows: Vec<(Table, Row)>,
        fresh: bool,
        done: oneshot::Sender<()>,
    },
    /// Replaces the state by the received one.
    Install {
        meta: Box<SnapshotMeta>,
        done: oneshot::Sender<()>,
    },
    SaveRow {
        name: &'static str,
        value: Bytes,
        done: oneshot::Sender<()>,
    },
    /// Makes what was applied readable.
    Show {
        done: oneshot::Sender<()>,
    },
}

/// To the writer, as `DiskWriter` says.
pub(in crate::store::raft) enum Disk {
    Thread(mpsc::Sender<Job>),
    Inline(Box<Mutex<Writer>>),
    Task(tokio::sync::mpsc::UnboundedSender<Job>),
}

/// The writer has stopped; what was asked is not done.
#[derive(Debug, thiserror::Error)]
#[error("the store has failed: restart the node, and see its log for the reason")]
pub(in crate::store::raft) struct Stopped;

impl Disk {
    pub(in crate::store::raft) fn thread(writer: Writer) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (sender, jobs) = mpsc::channel();
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || writer.run(&jobs))?;
        Ok((Self::Thread(sender), thread))
    }

    pub(in crate::store::raft) fn inline(writer: Writer) -> Self {
        Self::Inline(Box::new(Mutex::new(writer)))
    }

    pub(in crate::store::raft) fn task(writer: Writer, pace: DiskPace, tasks: &mut JoinSet<()>) -> Self {
        let (sender, jobs) = tokio::sync::mpsc::unbounded_channel();
        tasks.spawn(writer.run_paced(jobs, pace));
        Self::Task(sender)
    }

    pub(in crate::store::raft) fn submit(&self, job: Job) -> Result<(), Stopped> {
        match self {
            Self::Thread(sender) => sender.send(job).map_err(|_job| Stopped),
            Self::Task(sender) => sender.send(job).map_err(|_job| Stopped),
            Self::Inline(writer) => {
                if lock(writer).write(vec![job]) {
                    Ok(())
                } else {
                    Err(Stopped)
                }
            }
        }
    }

    pub(in crate::store::raft) async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<T>) -> Job,
    ) -> Result<T, Stopped> {
        let (done, answer) = oneshot::channel();
        self.submit(job(done))?;
        answer.await.map_err(|_dropped| Stopped)
    }

    /// Waits until what was applied is readable.
    pub(in crate::store::raft) async fn show(&self, shared: &Shared) -> Result<(), Stopped> {
        let applied = shared.applied().0.map(|applied| applied.index);
        if applied <= *shared.visible.borrow() {
            return Ok(());
        }
        self.ask(|done| Job::Show { done }).await
    }
}

impl Job {
    pub(super) fn needs_sync(&self) -> bool {
        // Received rows matter only once they are installed.
        !matches!(self, Self::Apply { .. } | Self::Receive { .. } | Self::Show { .. } | Self::Purge { .. })
    }

    /// What it takes in the log's file at most.
    pub(super) fn room(&self) -> u64 {
        match self {
            Self::Append { entries, .. } => entries.iter().map(room_of).sum(),
            _ => ENTRY_OVERHEAD,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Append { entries, .. } | Self::Apply { entries, .. } => entries.iter().map(wire::entry_size).sum(),
            Self::Receive { rows, .. } => rows.iter().map(|(_, (key, value))| key.len() + value.len()).sum(),
            _ => 256,
        }
    }
}

fn room_of(entry: &Entry) -> u64 {
    match entry.payload {
        EntryPayload::Membership(_) => MEMBERSHIP_BYTES,
        _ => wire::entry_size(entry) as u64 + ENTRY_OVERHEAD,
    }
}

/// What is done together.
pub(super) fn together(first: Job, mut next: impl FnMut() -> Option<Job>) -> Vec<Job> {
    let mut size = first.size();
    let mut together = vec![first];
    while size < TOGETHER_BYTES {
        let Some(job) = next() else { break };
        size += job.size();
        together.push(job);
    }
    together
}

/// Applies that follow each other share their open tables.
pub(super) enum Group {
    Applies(Vec<Apply>),
    One(Job),
}

pub(super) type Apply = (Vec<Entry>, oneshot::Sender<Vec<Answer>>);

pub(super) fn grouped(jobs: Vec<Job>) -> Vec<Group> {
    let mut groups = Vec::new();
    for job in jobs {
        match (job, groups.last_mut()) {
            (Job::Apply { entries, done }, Some(Group::Applies(applies))) => applies.push((entries, done)),
            (Job::Apply { entries, done }, _) => groups.push(Group::Applies(vec![(entries, done)])),
            (job, _) => groups.push(Group::One(job)),
        }
    }
    groups
}
