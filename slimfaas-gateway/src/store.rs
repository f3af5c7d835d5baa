//! The replicated store: commands go in, and come out in the same order on every gateway node.
//!
//! [`Store::open`] gives three things: the handle, which is cloned to whoever proposes or reads; [`Running`], which does
//! the work while it is polled; and the effects, which one worker acts on. Whether there is one node or many, and which
//! one leads, shows in nothing but [`Role`].

pub mod command;
mod raft;
pub mod snapshot;
pub mod state;
pub mod transport;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

pub use self::raft::{Counters, DiskPace, DiskWriter, Entropy, StorageBackend};
use self::transport::Transport;
use crate::jobs::plan as jobs_plan;
pub use crate::jobs::plan::JobsView;
use crate::model::function::FunctionId;
use crate::model::peer::Peer;
use crate::queue::command::{Assignment, Command, Reply};
use crate::queue::element::{Element, ElementId, PeerRun, Phase};
use crate::queue::function::FunctionQueue;
use crate::queue::plan;
use crate::queue::request::BodyFile;
use crate::queue::tables::{Reading, Table, TableError, pair, unpair};

/// What a node needs to begin.
pub struct Options {
    /// Stays the same across restarts, and differs from all peers' names.
    pub name: Arc<str>,
    /// Exists, and belongs to this process alone. The store keeps its files in it.
    pub folder: PathBuf,
    /// In the place of files, for tests and simulations.
    pub backend: Option<Backend>,
    pub writer: DiskWriter,
    pub transport: Arc<dyn Transport>,
    /// The other nodes; this one may be among them. An empty list means that this node is alone.
    pub peers: watch::Receiver<Arc<[Peer]>>,
    /// How long an empty list of peers is not believed by a node without a log, so that it does not found a cluster of
    /// its own while the list is still on its way. Zero for a single node.
    pub found_after: Duration,
    /// Log that is kept for peers that were away; [`LOG_BYTES`] for all but tests.
    pub log_bytes: u64,
}

/// What stands for the files of a node.
pub struct Backend {
    /// For `store.redb`.
    pub state: Box<dyn StorageBackend>,
    /// For `store.log`.
    pub log: Box<dyn StorageBackend>,
}

/// Two minutes of a thousand elements of 1 KiB each second. Requests that are still there when their log entry goes are
/// written a second time, so a queue that is drained within this much log costs one write.
pub const LOG_BYTES: u64 = 128 << 20;

/// An encoded request with its body. Larger bodies belong into files: entries of the log hold up every other proposal
/// while they travel, and a row of the state must fit a chunk of a snapshot, which the peer port limits to 1 MiB.
pub const REQUEST_BYTES_MAX: usize = 256 << 10;

/// The handle: proposes, reads, and answers peers.
#[derive(Clone)]
pub struct Store {
    node: Arc<raft::Node>,
}

/// Does the store's work.
pub struct Running {
    node: Arc<raft::Node>,
    loops: raft::Loops,
}

/// What this process is to do, in order. Each comes once, while it runs; a restart brings none of the former process
/// again. There are never more of them than elements that run, and body files, so the channel has no limit of its own.
pub type Effects = mpsc::UnboundedReceiver<Effect>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Call the function, and complete the attempt.
    Deliver(Delivery),
    /// The end of this attempt no longer counts; it may be given up.
    Revoke { element: ElementId, attempt: u32 },
    /// So it is with all deliveries so far: this process was taken for gone.
    RevokeAll,
    /// The file is no longer needed.
    ReleaseBody { element: ElementId, file: BodyFile },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub assignment: Assignment,
    /// An encoded `queue::request::StoredRequest`.
    pub request: Bytes,
}

/// This node among its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    pub leads: bool,
    /// The leader's name, if one is known.
    pub leader: Option<Arc<str>>,
    pub term: u64,
    pub last_log: u64,
    pub last_applied: u64,
    pub voters: usize,
    /// This node is one of them. One whose disk was lost is not, until it has been given everything.
    pub votes: bool,
}

/// What is known of a proposal that has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing was stored.
    #[error("too many proposals wait: the disk or the peers are slow")]
    Busy,
    /// Nothing was stored, and will not be.
    #[error("no leader took the proposal in time: check whether most gateway nodes are up")]
    NotAccepted,
    /// It may have been stored, or be stored yet. Proposing the same element again is safe while it exists.
    #[error("nobody answered whether the proposal was stored")]
    Unknown,
    /// Nothing was stored; the process must be restarted.
    #[error("the store has failed: restart the node, and see its log for the reason")]
    Stopped,
    /// Nothing was stored.
    #[error("the request is too large for the log: its body belongs into a file")]
    TooLarge,
    #[error("cannot open the store: {0}")]
    Unopened(String),
}

/// An element as people are shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: ElementId,
    pub function: FunctionId,
    pub element: Element,
}

impl Store {
    /// Opens or creates the database and joins the cluster. Needs a tokio runtime, in which Raft's own tasks run until
    /// [`Running::run`] ends.
    pub async fn open(options: Options) -> Result<(Self, Running, Effects), StoreError> {
        let (node, loops, effects) = raft::open(options).await?;
        let node = Arc::new(node);
        Ok((Self { node: Arc::clone(&node) }, Running { node, loops }, effects))
    }

    /// Has a command applied, on whichever node leads. A reply means that it is on the disks of a majority, this
    /// process's failure or not. It is applied once, however often it had to be sent.
    pub async fn propose(&self, command: Command, timeout: Duration) -> Result<Reply, StoreError> {
        if matches!(&command, Command::Enqueue(enqueue) if enqueue.request.len() > REQUEST_BYTES_MAX) {
            return Err(StoreError::TooLarge);
        }
        self.node.propose(command, timeout).await
    }

    /// Waits until the reads below see everything that any node acknowledged before this call.
    pub async fn catch_up(&self, timeout: Duration) -> Result<(), StoreError> {
        self.node.catch_up(timeout).await
    }

    /// Waits until the reads below see everything that this node has applied. Otherwise they are some milliseconds late.
    pub async fn show(&self) -> Result<(), StoreError> {
        self.node.show().await
    }

    /// Counters of one function's queue, as this node has applied the log. `None`: it has no elements and no slots.
    pub fn queue(&self, function: &FunctionId) -> Option<FunctionQueue> {
        self.node.function(function)
    }

    /// Of all functions, by namespace and name.
    pub fn queues(&self) -> Vec<FunctionQueue> {
        self.node.functions()
    }

    /// Elements of all functions, dead ones included, and their bytes.
    pub fn totals(&self) -> (u64, u64) {
        self.node.totals()
    }

    /// When the element that has waited longest for a slot of the function came, in milliseconds of the wall clock.
    pub fn oldest_ready_ms(&self, function: &FunctionId) -> Result<Option<u64>, StoreError> {
        let Some(number) = self.node.function_number(function) else { return Ok(None) };
        let first = self.below(Table::Ready, number, 0, 1)?;
        Ok(first.first().map(|(_, found)| found.element.enqueued_ms))
    }

    /// Where an element is. `None`: it never was, or is done.
    pub fn element(&self, id: ElementId) -> Result<Option<Found>, StoreError> {
        let image = self.node.image()?;
        let damaged = |error: TableError| self.node.damaged(&error);
        let Some(element) = plan::element(&image, id).map_err(damaged)? else { return Ok(None) };
        Ok(self.found(id, element))
    }

    /// The request of an element, as `queue::request::StoredRequest` encodes it.
    pub fn request(&self, id: ElementId) -> Result<Option<Bytes>, StoreError> {
        let image = self.node.image()?;
        let damaged = |error: TableError| self.node.damaged(&error);
        let Some(element) = plan::element(&image, id).map_err(damaged)? else { return Ok(None) };
        plan::request(&image, id, &element).map(Some).map_err(damaged)
    }

    /// Up to `max` elements whose bodies are files, by id from `from` on; fewer: there are no more.
    pub fn bodies(&self, from: ElementId, max: usize) -> Result<Vec<(ElementId, BodyFile)>, StoreError> {
        let image = self.node.image()?;
        let mut found = Vec::new();
        let mut next = from.0.to_vec();
        while found.len() < max {
            let row = plan::body_from(&image, &next).map_err(|error| self.node.damaged(&error))?;
            let Some((id, file)) = row else { break };
            found.push((id, file));
            // The smallest key above this one.
            next = id.0.to_vec();
            next.push(0);
        }
        Ok(found)
    }

    /// The file that is the body of an element. `None`: there is no such element, or its body is no file.
    pub fn body(&self, id: ElementId) -> Result<Option<BodyFile>, StoreError> {
        let image = self.node.image()?;
        let found = plan::body_from(&image, &id.0).map_err(|error| self.node.damaged(&error))?;
        Ok(found.filter(|(found, _)| *found == id).map(|(_, file)| file))
    }

    /// The nodes whose majority decides, as far as this one knows, with the names under which they are listed.
    pub fn voters(&self) -> BTreeMap<u64, String> {
        self.node.voters()
    }

    /// Up to `max` dead letters of a function, the oldest first, and the cursor from which the next page begins. The
    /// first page begins at zero.
    pub fn dead_letters(
        &self,
        function: &FunctionId,
        cursor: u64,
        max: usize,
    ) -> Result<(Vec<Found>, Option<u64>), StoreError> {
        let Some(number) = self.node.function_number(function) else { return Ok((Vec::new(), None)) };
        let mut rows = self.below(Table::Dead, number, cursor, max.saturating_add(1))?;
        let more = (rows.len() > max).then(|| rows.pop()).flatten();
        let next = more.map(|(order, _)| order);
        Ok((rows.into_iter().map(|(_, found)| found).collect(), next))
    }

    /// Changes with each change of what [`Store::jobs`] shows.
    pub fn jobs_generation(&self) -> Result<u64, StoreError> {
        jobs_plan::generation(&self.node.image()?).map_err(|error| self.node.damaged(&error))
    }

    /// The runs and schedules of all jobs.
    pub fn jobs(&self) -> Result<JobsView, StoreError> {
        jobs_plan::view(&self.node.image()?).map_err(|error| self.node.damaged(&error))
    }

    /// What a run of a job is to be; `None`: it is gone, or has ended.
    pub fn job_spec(&self, id: ElementId) -> Result<Option<Bytes>, StoreError> {
        jobs_plan::spec(&self.node.image()?, id).map_err(|error| self.node.damaged(&error))
    }

    /// Everything that was applied, at one moment: what [`Store::applied`] shows then.
    pub fn state(&self) -> Result<impl Reading + use<>, StoreError> {
        self.node.image()
    }

    /// This process, as assignments name it.
    pub fn me(&self) -> PeerRun {
        self.node.me()
    }

    /// Changes with every log entry; watchers see the last state only.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.node.role()
    }

    /// Index of the last log entry that reads see.
    pub fn applied(&self) -> watch::Receiver<Option<u64>> {
        self.node.applied()
    }

    /// Why the store has failed. The process should end with it: nothing is stored or delivered here any more.
    pub fn failure(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.node.failure()
    }

    /// Where this node leads: the others by name, and the log entries that they do not have yet.
    pub fn lags(&self) -> Vec<(Arc<str>, u64)> {
        self.node.lags()
    }

    pub fn counters(&self) -> &Counters {
        self.node.counters()
    }

    /// Answers a call that a peer's `Transport` made. Only for authenticated peers. Never fails: the answer says so.
    pub async fn serve(&self, payload: Bytes) -> Bytes {
        self.node.serve(payload).await
    }

    /// Index of the first log entry that is kept.
    #[cfg(test)]
    fn first_log(&self) -> u64 {
        self.node.first_log()
    }

    /// Ends Raft without a word to the peers.
    #[cfg(test)]
    pub(crate) async fn abort(&self) {
        self.node.abort().await;
    }

    /// Elements of one function in the order of an index, with their place in it.
    fn below(&self, table: Table, number: u64, from: u64, max: usize) -> Result<Vec<(u64, Found)>, StoreError> {
        let image = self.node.image()?;
        let damaged = |error: TableError| self.node.damaged(&error);
        let mut rows = Vec::new();
        let mut next = Some(from);
        while let Some(at) = next.filter(|_| rows.len() < max) {
            let Some((key, value)) = image.first(table, &pair(number, at)).map_err(damaged)? else { break };
            let Some((_, order)) = unpair(&key).filter(|(of, _)| *of == number) else { break };
            let Ok(id) = <[u8; 16]>::try_from(&value[..]) else { break };
            if let Some(element) = plan::element(&image, ElementId(id)).map_err(damaged)? {
                rows.extend(self.found(ElementId(id), element).map(|found| (order, found)));
            }
            next = order.checked_add(1);
        }
        Ok(rows)
    }

    fn found(&self, id: ElementId, element: Element) -> Option<Found> {
        let function = self.node.function_of(element.function)?;
        Some(Found { id, function, element })
    }
}

impl Found {
    pub fn is_dead(&self) -> bool {
        matches!(self.element.phase, Phase::Dead { .. })
    }
}

impl Running {
    /// Works until `stop`, then has its elements delivered by others, leaves the cluster, and closes. Also ends when the
    /// store fails.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        self.node.run(self.loops, stop).await;
    }
}

#[cfg(test)]
pub(crate) mod tests;
