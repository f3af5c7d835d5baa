//! The replicated log and the state that it makes, on this node's disk and among its peers. The only module that knows
//! openraft and redb.

mod damage;
mod database;
mod duties;
mod elections;
mod found;
mod links;
mod log;
mod logfile;
mod machine;
mod members;
mod network;
mod open;
mod proposer;
mod rpc;
mod sequencer;
mod serve;
mod shared;
mod types;
mod wire;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::{Config, Raft, SnapshotPolicy};
use redb::Database;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use self::database::StateImage;
pub use self::database::StorageBackend;
use self::links::{Links, kind};
use self::logfile::LogFile;
use self::network::Network;
use self::open::Opened;
pub use self::open::{DiskPace, DiskWriter};
use self::proposer::{Fate, Proposal, Way};
use self::serve::Server;
pub use self::shared::Counters;
use self::shared::lock;
pub use self::types::Entropy;
use self::types::{LogId, Types};
use super::{Backend, Effect, Options, Role, StoreError};
use crate::clock;
use crate::model::function::FunctionId;
use crate::queue::codec::Reader;
use crate::queue::command::{Command, Reply};
use crate::queue::element::PeerRun;
use crate::queue::function::FunctionQueue;
use crate::queue::tables;

/// A leader is heard this often. openraft also gives each of its calls to a peer this long, a disk's sync there
/// included; a call that takes longer is repeated.
const HEARTBEAT: Duration = Duration::from_millis(100);

const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A disk that fails ends Raft too, and says why a moment after.
const REASON_PATIENCE: Duration = Duration::from_secs(1);

/// The running parts of a node.
pub(super) struct Node {
    raft: Raft<Types>,
    way: Way,
    server: Server,
    proposals: mpsc::Sender<Proposal>,
    database: Arc<Database>,
    file: Arc<LogFile>,
    role: watch::Sender<Role>,
}

/// What `run` needs and nobody else.
pub(super) struct Loops {
    proposals: mpsc::Receiver<Proposal>,
    submissions: mpsc::Receiver<sequencer::Submission>,
    founding: found::Founding,
    log_bytes: u64,
    thread: Option<std::thread::JoinHandle<()>>,
    disk: JoinSet<()>,
}

pub(super) async fn open(options: Options) -> Result<(Node, Loops, mpsc::UnboundedReceiver<Effect>), StoreError> {
    let unopened = |error: &dyn std::error::Error| StoreError::Unopened(with_sources(error));
    let has_backend = options.backend.is_some();
    // The list may still be on its way.
    let has_peers =
        !options.found_after.is_zero() || options.peers.borrow().iter().any(|peer| peer.name != options.name);
    let files = match options.backend {
        Some(Backend { state, log }) => {
            let database = database::open_backend(state).map_err(|error| unopened(&error))?;
            damage::Files::of(database, log).map_err(|error| unopened(&error))?
        }
        None => damage::open(&options.folder, has_peers).map_err(|error| unopened(&error))?,
    };
    let mark = (!has_backend).then(|| damage::mark_in(&options.folder));
    let aside = (!has_backend).then(|| damage::aside_in(&options.folder));
    // A folder that cannot be looked at could not have been opened either.
    let aside = aside.filter(|aside| aside.try_exists().unwrap_or(true));
    let (effects, effects_out) = mpsc::unbounded_channel();
    let opened = open::open(files, &options.name, options.log_bytes, options.writer, effects, mark);
    let opened = opened.map_err(|error| unopened(&error))?;
    let Opened { log, machine, shared, disk, database, file, thread, task, node, cluster } = opened;
    let links = Arc::new(Links::new(options.transport, options.peers, node, options.name, cluster));
    let network = Network { links: Arc::clone(&links), shared: Arc::clone(&shared) };
    let config = Arc::new(config());
    let raft = Raft::new(node, config, network, log, machine).await.map_err(|error| unopened(&error))?;
    if !raft.is_initialized().await.map_err(|error| unopened(&error))? {
        // It ended while it founded, or before it got anything of the log: it may join any.
        links.set_cluster(links::NOBODY);
    }
    let (submit, submissions) = mpsc::channel(sequencer::WAITING_MAX);
    let (propose, proposals) = mpsc::channel(proposer::WAITING_MAX);
    let way =
        Way { raft: raft.clone(), links: Arc::clone(&links), shared: Arc::clone(&shared), sequencer: submit.clone() };
    let server = Server {
        raft: raft.clone(),
        links,
        shared,
        disk,
        sequencer: submit,
        departures: members::Departures::default(),
        incoming: tokio::sync::Mutex::default(),
    };
    let role = watch::Sender::new(Role::default());
    let node = Node { raft, way, server, proposals: propose, database, file, role };
    let founding = found::Founding { listed_after: options.found_after, lost: aside };
    let loops = Loops { proposals, submissions, founding, log_bytes: options.log_bytes, thread, disk: task };
    Ok((node, loops, effects_out))
}

fn config() -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "slimfaas".to_owned(),
        heartbeat_interval: millis(HEARTBEAT),
        // `elections` says when; what is left of openraft's own is the lease, which is the longest of its timeouts.
        enable_elect: false,
        election_timeout_min: millis(elections::LEASE) - 1,
        election_timeout_max: millis(elections::LEASE),
        // `duties::compact` counts bytes, which openraft does not.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        ..Config::default()
    }
}

impl Node {
    /// Runs until `stop`, then leaves the cluster and closes the database.
    pub(super) async fn run(&self, loops: Loops, stop: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        tasks.spawn(sequencer::run(self.raft.clone(), Arc::clone(&self.way.shared), loops.submissions));
        tasks.spawn(proposer::run(self.way.clone(), loops.proposals));
        tasks.spawn(elections::run(self.way.clone()));
        tasks.spawn(duties::take_part(self.way.clone()));
        tasks.spawn(duties::keep_time(self.way.clone()));
        tasks.spawn(duties::watch_peers(self.way.clone()));
        tasks.spawn(duties::compact(self.way.clone(), loops.log_bytes));
        tasks.spawn(found::run(self.way.clone(), Arc::clone(&self.server.disk), loops.founding));
        let departures = self.server.departures.clone();
        tasks.spawn(members::run(self.raft.clone(), Arc::clone(&self.server.links), departures));
        tasks.spawn(show_role(self.raft.clone(), self.role.clone(), self.way.links.node));
        let mut failure = self.server.shared.failure.subscribe();
        let failed = async {
            let _failed_or_gone = failure.wait_for(Option::is_some).await.is_ok();
        };
        let is_to_leave = tokio::select! {
            biased;
            () = stop => true,
            // Nothing can be stored any more, so there is nothing to leave with.
            () = failed => false,
            () = ended(&self.raft) => {
                self.server.shared.end("Raft has ended by itself: restart this node, and report what its log says before");
                false
            }
        };
        if is_to_leave {
            self.leave().await;
        }
        tasks.shutdown().await;
        let _ended = self.raft.shutdown().await.is_ok();
        drop((loops.thread, loops.disk));
    }

    #[cfg(test)]
    pub(super) fn first_log(&self) -> u64 {
        self.raft.metrics().borrow().purged.map_or(0, |purged| purged.index + 1)
    }

    #[cfg(test)]
    pub(super) async fn abort(&self) {
        self.raft.shutdown().await.expect("no task of Raft panicked");
    }

    /// Tells the others, as far as they answer in time.
    async fn leave(&self) {
        let me = *self.server.shared.me.borrow();
        let _unknown = self.way.command(Command::PeerDown(me), LEAVE_TIMEOUT).await.is_err();
        let alone = self.raft.metrics().borrow().membership_config.voter_ids().count() <= 1;
        if alone {
            return;
        }
        match self.way.leader() {
            Some((leader, _)) if leader == me.node => self.server.departures.ask(me.node).await,
            Some((leader, name)) => {
                let left = self.server.links.call(leader, &name, kind::LEAVE, &[], LEAVE_TIMEOUT).await;
                let _unknown = left.is_err();
            }
            None => return,
        }
        let mut metrics = self.raft.server_metrics();
        let out = metrics.wait_for(|now| now.membership_config.voter_ids().all(|voter| voter != me.node));
        let _late = tokio::time::timeout(LEAVE_TIMEOUT, out).await.is_err();
    }

    pub(super) fn lags(&self) -> Vec<(Arc<str>, u64)> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow();
        let membership = now.membership_config.membership();
        let last = now.last_log_index.unwrap_or(0);
        let others = now.replication.iter().flatten().filter(|(node, _)| **node != self.way.links.node);
        let lag = |(node, matching): (&u64, &Option<LogId>)| {
            let name = membership.get_node(node)?.name.as_str().into();
            Some((name, last.saturating_sub(matching.map_or(0, |matching| matching.index))))
        };
        others.filter_map(lag).collect()
    }

    pub(super) async fn propose(&self, command: Command, timeout: Duration) -> Result<Reply, StoreError> {
        let deadline = clock::now() + timeout;
        let (done, reply) = oneshot::channel();
        let fate = Arc::new(Fate::default());
        let proposal = Proposal { command, fate: Arc::clone(&fate), deadline, done };
        match tokio::time::timeout_at(deadline, self.proposals.send(proposal)).await {
            Ok(Ok(())) => {}
            Ok(Err(_closed)) => return Err(StoreError::Stopped),
            Err(_elapsed) => return Err(StoreError::Busy),
        }
        match tokio::time::timeout_at(deadline, reply).await {
            Ok(Ok(reply)) => reply,
            _ if fate.abandon() => Err(StoreError::NotAccepted),
            _ => Err(StoreError::Unknown),
        }
    }

    pub(super) async fn serve(&self, payload: Bytes) -> Bytes {
        self.server.serve(payload).await
    }

    /// Waits until local reads see everything that was acknowledged before the call.
    pub(super) async fn catch_up(&self, timeout: Duration) -> Result<(), StoreError> {
        let deadline = clock::now() + timeout;
        loop {
            if let Some(index) = self.read_index(deadline).await {
                // What is applied later becomes readable soon by itself. A failure shows as the store's.
                let _failed = self.show().await.is_err();
                let mut visible = self.server.shared.visible.subscribe();
                let seen = visible.wait_for(|visible| *visible >= Some(index));
                return match tokio::time::timeout_at(deadline, seen).await {
                    Ok(Ok(_)) => Ok(()),
                    _ => Err(StoreError::NotAccepted),
                };
            }
            if clock::now() >= deadline {
                return Err(StoreError::NotAccepted);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until local reads see everything that this node has applied.
    pub(super) async fn show(&self) -> Result<(), StoreError> {
        self.server.disk.show(&self.server.shared).await.map_err(|_stopped| StoreError::Stopped)
    }

    async fn read_index(&self, deadline: clock::Instant) -> Option<u64> {
        let (leader, name) = self.way.leader()?;
        if leader == self.way.links.node {
            let read = tokio::time::timeout_at(deadline, self.raft.get_read_log_id()).await.ok()?;
            return Some(read.ok()?.0.map_or(0, |read| read.index));
        }
        let timeout = deadline.saturating_duration_since(clock::now());
        let answer = self.way.links.call(leader, &name, kind::READ_INDEX, &[], timeout).await.ok()?;
        Reader::new(answer).number().ok()
    }

    pub(super) fn image(&self) -> Result<impl tables::Reading + use<>, StoreError> {
        StateImage::now(&self.database, &self.file).map_err(|error| self.damaged(&error))
    }

    /// A state that cannot be read ends the node.
    pub(super) fn damaged(&self, error: &tables::TableError) -> StoreError {
        self.server.shared.fail(error);
        StoreError::Stopped
    }

    pub(super) fn function(&self, id: &FunctionId) -> Option<FunctionQueue> {
        lock(&self.server.shared.queues).functions.get(id).cloned()
    }

    pub(super) fn functions(&self) -> Vec<FunctionQueue> {
        lock(&self.server.shared.queues).functions.values().cloned().collect()
    }

    pub(super) fn function_number(&self, id: &FunctionId) -> Option<u64> {
        let queues = lock(&self.server.shared.queues);
        queues.by_number.iter().find(|(_, function)| *function == id).map(|(number, _)| *number)
    }

    pub(super) fn function_of(&self, number: u64) -> Option<FunctionId> {
        lock(&self.server.shared.queues).by_number.get(&number).cloned()
    }

    pub(super) fn totals(&self) -> (u64, u64) {
        let queues = lock(&self.server.shared.queues);
        (queues.elements, queues.bytes)
    }

    pub(super) fn me(&self) -> PeerRun {
        *self.server.shared.me.borrow()
    }

    pub(super) fn voters(&self) -> BTreeMap<u64, String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.membership();
        let voter = |id: u64| members.get_node(&id).map(|member| (id, member.name.clone()));
        members.voter_ids().filter_map(voter).collect()
    }

    pub(super) fn role(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }

    pub(super) fn applied(&self) -> watch::Receiver<Option<u64>> {
        self.server.shared.visible.subscribe()
    }

    pub(super) fn failure(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.server.shared.failure.subscribe()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.server.shared.counters
    }
}

/// Returns a while after Raft's own task is over, as after a panic in it. A node without it would look alive and do
/// nothing.
async fn ended(raft: &Raft<Types>) {
    let mut metrics = raft.metrics();
    let _ended_either_way = metrics.wait_for(|now| now.running_state.is_err()).await.is_ok();
    tokio::time::sleep(REASON_PATIENCE).await;
}

async fn show_role(raft: Raft<Types>, role: watch::Sender<Role>, node: u64) {
    let mut metrics = raft.metrics();
    loop {
        {
            let now = metrics.borrow_and_update();
            let member = |id: u64| now.membership_config.membership().get_node(&id).map(|member| &*member.name);
            let next = Role {
                leads: now.current_leader == Some(node),
                leader: now.current_leader.and_then(member).map(Into::into),
                term: now.current_term,
                last_log: now.last_log_index.unwrap_or(0),
                last_applied: now.last_applied.map_or(0, |applied| applied.index),
                voters: now.membership_config.voter_ids().count(),
                votes: now.membership_config.voter_ids().any(|voter| voter == node),
            };
            role.send_if_modified(|shown| {
                let changed = *shown != next;
                *shown = next;
                changed
            });
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// An error and what caused it, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
pub(super) mod tests;
