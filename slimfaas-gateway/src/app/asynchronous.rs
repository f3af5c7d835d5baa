//! Asynchronous calls, wired: the store, who fills it, and who delivers from it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::app::peers::Channel;
use crate::app::source::always;
use crate::bodies::{self, Bodies};
use crate::clock;
use crate::config::{Config, QueueLimits};
use crate::drain;
use crate::model::function::FunctionId;
use crate::model::peer::Peer;
use crate::model::stats::{AsyncStats, BodyState, QueueDepths, StoreState};
use crate::peer::{Kind, Node};
use crate::proxy::deliver::{Deliveries, Delivery};
use crate::proxy::enqueue::Intake;
use crate::proxy::wake::Wake;
use crate::queue::command::{Command, Limits};
use crate::queue::function::FunctionQueue;
use crate::queue::intake::Inbox;
use crate::queue::worker::Worker;
use crate::readiness::Blocker;
use crate::store::transport::{Calling, Lane, Transport, TransportError};
use crate::store::{DiskWriter, Effects, LOG_BYTES, Options, Running, Store, StoreError};
use crate::table::Table;
use crate::telemetry::metrics::Stored;

/// How long a pod's list of peers may stay empty before a node without a log believes that it is alone.
const ALONE_AFTER: Duration = Duration::from_secs(2);

/// For the limits to be stored; they are proposed again at the next start.
const LIMITS_TIMEOUT: Duration = Duration::from_secs(60);

/// For the nodes that stay to fetch the bodies that only a leaving one and another have.
const HAND_OVER_TIME: Duration = Duration::from_secs(15);

/// Beside the store, in its folder.
const BODIES_FOLDER: &str = "bodies";

#[derive(Debug, thiserror::Error)]
pub enum AsynchronousError {
    #[error("cannot use {folder} for stored requests: {source} (is it a directory that this process may write?)")]
    Folder { folder: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Everything of asynchronous calls, not running yet.
pub(super) struct Asynchronous {
    pub(super) store: Store,
    pub(super) stats: Arc<AsyncStats>,
    pub(super) bodies: Bodies,
    running: Running,
    bodies_running: bodies::Running,
    body_bytes: u64,
    effects: Effects,
    limits: Limits,
    /// Whether the peers are known; `None`: there are none.
    listed: Option<watch::Receiver<bool>>,
}

impl Asynchronous {
    pub(super) async fn open(
        config: &Config,
        folder: PathBuf,
        channel: Option<&Channel>,
    ) -> Result<Self, AsynchronousError> {
        std::fs::create_dir_all(&folder)
            .map_err(|source| AsynchronousError::Folder { folder: folder.clone(), source })?;
        let node = channel.and_then(Channel::node);
        let transport: Arc<dyn Transport> = match node {
            Some(node) => Arc::new(node.client()),
            None => Arc::new(NoPeers),
        };
        let peers = match (node, channel) {
            (Some(_), Some(channel)) => channel.membership(),
            _ => always(Arc::<[Peer]>::from([])),
        };
        let (store, running, effects) = Store::open(Options {
            name: config.pod_name.as_str().into(),
            folder: folder.clone(),
            backend: None,
            writer: DiskWriter::Thread,
            transport,
            peers: peers.clone(),
            found_after: if node.is_some() { ALONE_AFTER } else { Duration::ZERO },
            log_bytes: LOG_BYTES,
        })
        .await?;
        let (bodies, bodies_running) = Bodies::open(bodies::Options {
            name: config.pod_name.as_str().into(),
            folder: folder.join(BODIES_FOLDER),
            reserve: config.queue.disk_reserve,
            store: store.clone(),
            client: node.map(Node::client),
            peers,
        })
        .map_err(|source| AsynchronousError::Folder { folder: folder.join(BODIES_FOLDER), source })?;
        if let Some(node) = node {
            node.register(Kind::BodyWrite, bodies.writes());
            node.register(Kind::BodyRead, bodies.reads());
            for kind in [Kind::Raft, Kind::Snapshot] {
                node.register(kind, Arc::new(store.clone()));
            }
        }
        let (limits, body_bytes) = (limits(&config.queue), config.queue.body_bytes);
        let listed = channel.filter(|_| node.is_some()).map(Channel::is_listed);
        let stats = Arc::default();
        Ok(Self { store, stats, bodies, running, bodies_running, body_bytes, effects, limits, listed })
    }

    pub(super) fn intake(&self) -> Arc<dyn Intake> {
        let (store, bodies, stats) = (self.store.clone(), self.bodies.clone(), Arc::clone(&self.stats));
        Arc::new(Inbox::new(store, bodies, self.limits, self.body_bytes, stats))
    }

    /// Stores and delivers until `end`. `leaving` is the traffic's end, `follows` is held until there is a leader.
    pub(super) async fn run(
        self,
        table: Arc<Table>,
        wake: Arc<dyn Wake>,
        cores: Vec<mpsc::UnboundedSender<Delivery>>,
        follows: Blocker,
        leaving: drain::Watch,
        end: drain::Watch,
    ) {
        let Self { store, stats, bodies, running, bodies_running, effects, limits, listed, .. } = self;
        let (delivered, mut stop) = drain::channel();
        let mut ended = stop.clone();
        let work = async {
            let worker = Worker::new(store.clone(), bodies.clone(), table, wake, cores, stats);
            let deliver = async {
                worker.run(effects, leaving, end).await;
                bodies.hand_over(HAND_OVER_TIME).await;
                // The store ends last: it has to hear of the last deliveries.
                delivered.drain(Duration::ZERO).await;
            };
            tokio::join!(deliver, bodies_running.run(async move { ended.signaled().await }));
        };
        let settle = async {
            let mut role = store.role();
            // An error means that the store has ended.
            if role.wait_for(|role| role.leader.is_some()).await.is_ok() {
                drop(follows);
            }
            if let Err(error) = store.propose(Command::Limits(limits), LIMITS_TIMEOUT).await {
                tracing::warn!(%error, "the limits of stored requests were not stored: those of before hold");
            }
            std::future::pending::<()>().await;
        };
        let storing = async {
            // Whoever does not know the others would found a cluster of its own.
            if let Some(mut listed) = listed {
                tokio::select! {
                    biased; // the end first
                    () = stop.signaled() => {}
                    _known_or_gone = listed.wait_for(|listed| *listed) => {}
                }
            }
            running.run(async move { stop.signaled().await }).await;
        };
        let both = async { tokio::join!(work, storing) };
        tokio::select! {
            biased;
            _ended = both => {}
            () = settle => {}
        }
    }
}

fn limits(options: &QueueLimits) -> Limits {
    Limits {
        function_elements: options.function_elements,
        function_bytes: options.function_bytes,
        total_elements: options.total_elements,
        total_bytes: options.total_bytes,
        dead_elements: options.dead_elements,
        dead_age_ms: u64::try_from(options.dead_age.as_millis()).unwrap_or(u64::MAX),
        ..Limits::default()
    }
}

/// A channel of deliveries for each core.
pub(super) fn channels(cores: usize) -> (Vec<mpsc::UnboundedSender<Delivery>>, Vec<Deliveries>) {
    (0..cores).map(|_| mpsc::unbounded_channel()).unzip()
}

/// The transport of a node that is alone.
struct NoPeers;

impl Transport for NoPeers {
    fn call(&self, to: SocketAddr, _lane: Lane, _payload: Bytes, _timeout: Duration) -> Calling<'_> {
        let error = TransportError::NotSent(format!("{to}: this node has no peer port"));
        Box::pin(std::future::ready(Err(error)))
    }
}

/// The store as metrics show it.
pub(super) struct Shown(pub(super) Store, pub(super) Bodies);

impl Stored for Shown {
    fn queues(&self) -> Vec<QueueDepths> {
        let depths = |queue: FunctionQueue| QueueDepths {
            function: queue.id.name.to_string(),
            namespace: queue.id.namespace.to_string(),
            ready: queue.ready,
            running: queue.running,
            accepted: queue.accepted,
            waiting: queue.waiting,
            dead: queue.dead,
            enqueued: queue.totals.enqueued,
            refused: queue.totals.refused,
            succeeded: queue.totals.succeeded,
            failed_attempts: queue.totals.failed_attempts,
        };
        self.0.queues().into_iter().map(depths).collect()
    }

    fn bodies(&self) -> BodyState {
        self.1.state()
    }

    fn oldest_ready(&self) -> Vec<(FunctionId, Duration)> {
        let now_ms = clock::unix_millis();
        let age = |queue: FunctionQueue| {
            // A store that has failed says so elsewhere.
            let oldest = self.0.oldest_ready_ms(&queue.id).ok().flatten()?;
            Some((queue.id, Duration::from_millis(now_ms.saturating_sub(oldest))))
        };
        self.0.queues().into_iter().filter(|queue| queue.ready > 0).filter_map(age).collect()
    }

    fn lags(&self) -> Vec<(Arc<str>, u64)> {
        self.0.lags()
    }

    fn store(&self) -> StoreState {
        let role = self.0.role().borrow().clone();
        let counters = self.0.counters();
        StoreState {
            leads: role.leads,
            term: role.term,
            last_log: role.last_log,
            last_applied: role.last_applied,
            voters: role.voters as u64,
            votes: role.votes,
            syncs: counters.syncs.load(Ordering::Relaxed),
            sync_time: Duration::from_nanos(counters.sync_nanos.load(Ordering::Relaxed)),
            commands: counters.commands.load(Ordering::Relaxed),
        }
    }
}
