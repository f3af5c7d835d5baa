//! The agent at work: it learns, and tells the kernel.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::stream::{Stream, StreamExt};
use slimfaas_ebpf::contract::Key;
use slimfaas_ebpf::identity::identity_of;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cgroups;
use super::desired::Desired;
use super::gateways::Gateways;
use super::kernel::{Kernel, KernelError, LoadOptions};
use super::knowledge::Knowledge;
use super::pins::Pins;
use super::place::{Place, PlaceError, read_object};
use super::secrets::{self, SecretError};
use super::status::{self, Board, Shown};
use crate::clock::{self, Instant};
use crate::cluster::kube::ConnectError;
use crate::cluster::kube::node::{self, NodeChange};
use crate::drain;
use crate::identity::table::Policy;
use crate::peer::key::KeySource;
use crate::peer::{BindError, Outsider};
use crate::signal::Termination;

/// Between two looks at the cgroups while a pod's is about to be made: its containers take longer than that to their
/// first connection, which without its cgroup would be nobody's.
const LOOK_SOON: Duration = Duration::from_millis(10);
/// Otherwise; also for the counters that are shown. Pods of the API server that never come to be here do not count.
const LOOK_LATER: Duration = Duration::from_secs(1);
/// For how long after a change of the pods one is looked for soon.
const EXPECTANT: Duration = Duration::from_secs(60);
/// Between two looks at the keys; Kubernetes itself takes a minute or so to bring a changed Secret into a pod.
const KEYS_EVERY: Duration = Duration::from_secs(5);
/// Changes of pods that are applied together.
const BATCH: usize = 512;

pub struct RunOptions {
    /// The object of kernel programs; otherwise the one beside this program.
    pub programs: Option<PathBuf>,
    /// The node's name in Kubernetes.
    pub node: String,
    /// This agent's name to the gateways: its pod's.
    pub name: String,
    /// The folder of the mounted Secret.
    pub secrets: PathBuf,
    /// The key of the gateways' peer port.
    pub peer_key: PathBuf,
    /// Host and port of the gateways' peer port.
    pub gateways: String,
    /// For `/health`, `/ready` and `/metrics`.
    pub listen: SocketAddr,
    /// The cgroup to attach to, otherwise the root of the hierarchy.
    pub cgroup: Option<PathBuf>,
    /// The folder of a bpffs to pin in, otherwise one in the first that is found.
    pub pins: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Peers(#[from] BindError),
    #[error(transparent)]
    Kubernetes(#[from] ConnectError),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot look through the cgroups below {path}: {source}")]
    Cgroups { path: PathBuf, source: io::Error },
}

/// Enforces until it is asked to end. What is pinned goes on after that.
pub async fn run(options: RunOptions, mut termination: Termination) -> Result<(), AgentError> {
    let mut agent = Agent::start(&options)?;
    let outsider = Outsider::new(options.name.as_str().into(), KeySource::File(options.peer_key.clone()))?;
    let gateways = Gateways { address: options.gateways.clone(), client: outsider.client() };
    let listener =
        status::bind(options.listen).map_err(|source| AgentError::Listen { address: options.listen, source })?;
    let pods = node::follow(&options.node).await?;
    let (told, policies) = watch::channel(None);
    let (end, ending) = drain::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(outsider.run(watch::channel(Arc::from([])).1, ending));
    tasks.spawn(gateways.follow(told));
    tasks.spawn(status::serve(listener, Arc::clone(&agent.board)));
    tracing::info!(node = options.node, pinned = agent.is_pinned, "enforcing");
    tokio::select! {
        biased; // the wish to end first
        signal = termination.wait() => tracing::info!(signal, "ending: what is pinned goes on"),
        () = agent.follow(Box::pin(pods), policies) => {}
    }
    drop(end);
    Ok(())
}

struct Agent {
    kernel: Kernel,
    /// What the kernel holds.
    held: Desired,
    knowledge: Knowledge,
    root: PathBuf,
    salt: Key,
    secrets: PathBuf,
    keys_read: Instant,
    board: Board,
    is_pinned: bool,
    refused: u64,
    /// The kernel refused the last change: it is tried again.
    is_behind: bool,
    shown: Instant,
}

impl Agent {
    /// Loads and attaches; the kernel then goes by what an earlier agent has told it, if there was one.
    fn start(options: &RunOptions) -> Result<Self, AgentError> {
        let place = Place::find()?;
        let object = read_object(options.programs.as_deref())?;
        let salt = secrets::read_salt(&options.secrets)?;
        let pins = options.pins.as_deref().map(Pins::new).or(place.pins);
        let is_pinned = pins.is_some();
        if !is_pinned {
            tracing::warn!("no bpffs is mounted that this agent may write: enforcement ends with its process");
        }
        let kernel = Kernel::load(LoadOptions { object: &object, pins })?;
        let held = kernel.read()?;
        let root = options.cgroup.clone().unwrap_or(place.cgroups);
        let mut agent = Self {
            held,
            knowledge: Knowledge::default(),
            root,
            salt,
            secrets: options.secrets.clone(),
            keys_read: clock::now(),
            board: Board::default(),
            is_pinned,
            refused: 0,
            is_behind: false,
            shown: clock::now(),
            kernel,
        };
        agent.knowledge.set_keys(secrets::read_keys(&agent.secrets)?);
        agent.look()?;
        agent.settle();
        agent.kernel.attach(&agent.root, &agent.knowledge.guarded(&agent.held))?;
        Ok(agent)
    }

    /// Never ends.
    async fn follow(
        &mut self,
        pods: Pin<Box<dyn Stream<Item = NodeChange> + Send>>,
        mut policies: watch::Receiver<Option<Arc<Policy>>>,
    ) {
        let mut pods = pods.ready_chunks(BATCH);
        let mut expectant_until = clock::now() + EXPECTANT;
        loop {
            let is_expectant = self.knowledge.awaited() > 0 && clock::now() < expectant_until;
            let pause = if is_expectant { LOOK_SOON } else { LOOK_LATER };
            let has_learnt = tokio::select! {
                biased; // what takes rights away first
                Ok(()) = policies.changed() => {
                    let policy = policies.borrow_and_update().clone();
                    policy.into_iter().for_each(|policy| self.knowledge.set_policy(Policy::clone(&policy)));
                    true
                }
                Some(changes) = pods.next() => {
                    changes.into_iter().for_each(|change| self.learn(change));
                    expectant_until = clock::now() + EXPECTANT;
                    true
                }
                () = tokio::time::sleep(pause) => false,
            };
            let has_found = self.look().unwrap_or_else(|error| {
                tracing::warn!(%error, "the cgroups cannot be looked through: new pods are nobody's");
                false
            });
            let has_keys = self.read_keys();
            if has_learnt || has_found || has_keys || self.is_behind {
                self.settle();
            }
            self.kernel.print_log();
            if clock::now().saturating_duration_since(self.shown) >= LOOK_LATER {
                self.show();
            }
        }
    }

    fn learn(&mut self, change: NodeChange) {
        match change {
            NodeChange::Pod { uid, owner } => {
                let identity = identity_of(self.salt, &owner.namespace, &owner.kind, &owner.name);
                self.knowledge.put_pod(uid, identity);
            }
            NodeChange::Gone(uid) => self.knowledge.remove_pod(&uid),
            NodeChange::Listed => self.knowledge.set_listed(),
            NodeChange::Failed(error) => {
                tracing::warn!(error, "the watch of this node's pods failed and is taken up again");
            }
        }
    }

    /// Whether there is something new.
    fn look(&mut self) -> Result<bool, AgentError> {
        let fail = |source| AgentError::Cgroups { path: self.root.clone(), source };
        Ok(self.knowledge.set_found(cgroups::find(&self.root).map_err(fail)?))
    }

    /// Whether there are others. A bad file changes nothing: the keys before it go on.
    fn read_keys(&mut self) -> bool {
        let now = clock::now();
        if now.saturating_duration_since(self.keys_read) < KEYS_EVERY {
            return false;
        }
        self.keys_read = now;
        let keys = match secrets::read_keys(&self.secrets) {
            Ok(keys) => keys,
            Err(error) => {
                tracing::warn!(%error, "the keys of tags cannot be read: those before go on");
                return false;
            }
        };
        let have_changed = self.knowledge.set_keys(keys);
        if have_changed {
            tracing::info!("the keys of tags have changed");
        }
        have_changed
    }

    /// Brings the kernel to what is known, and shows it.
    fn settle(&mut self) {
        let desired = self.knowledge.desired(&self.held);
        let changes = self.held.changes(&desired);
        let guarded = self.knowledge.guarded(&desired);
        match self.kernel.apply(&changes).and_then(|()| self.kernel.guard(&guarded)) {
            Ok(()) => {
                self.held = desired;
                self.is_behind = false;
            }
            Err(error) => {
                self.is_behind = true;
                self.refused += 1;
                tracing::error!(%error, "the kernel refuses a change: what it holds is not what it should");
                match self.kernel.read() {
                    Ok(held) => self.held = held,
                    Err(error) => tracing::error!(%error, "nor does it say what it holds"),
                }
            }
        }
        self.show();
    }

    fn show(&mut self) {
        self.shown = clock::now();
        let shown = Shown {
            pending: self.knowledge.pending(),
            counters: self.kernel.counters().unwrap_or_default(),
            forgers: self.kernel.forgers().unwrap_or_default(),
            cgroups: self.held.cgroups.len(),
            known: self.held.known.len(),
            guards: self.held.guards.len(),
            awaited: self.knowledge.awaited(),
            refused: self.refused,
            key_generation: self.held.keys.generation,
        };
        *self.board.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }
}
