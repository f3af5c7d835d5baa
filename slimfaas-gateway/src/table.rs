//! The functions of this moment: one writer per function report, lock-free readers.

pub mod activity;
pub mod probe;
pub mod start;
pub mod turns;
pub mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use crate::clock::Instant;
use crate::model::caller::Caller;
use crate::model::function::{FunctionId, WorkloadKind};
use crate::model::problem::Problem;
use crate::model::spec::FunctionSpec;
use crate::table::activity::Live;
use crate::table::start::StartPhase;
use crate::table::view::{Endpoint, Function, Pod, View};

/// What a cluster knows of one function; the whole of it each time, never a difference.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionReport {
    pub id: FunctionId,
    pub kind: WorkloadKind,
    pub spec: Arc<FunctionSpec>,
    pub problems: Arc<[Problem]>,
    /// Replicas that the workload asks for.
    pub replicas_requested: u32,
    pub pods: Vec<Pod>,
}

/// Says who is at the other end of an accepted connection, where the kernel's tag does not say it.
/// May take milliseconds; called only when the answer matters.
pub trait CallerIndex: Send + Sync + 'static {
    fn identify(&self, peer: SocketAddr, local: SocketAddr) -> Pin<Box<dyn Future<Output = Caller> + Send + '_>>;
}

/// Says whose a connection is by the number that its SYN proves. Never waits: it is asked for every request that only
/// insiders may make.
pub trait IdentityIndex: Send + Sync + 'static {
    fn caller(&self, identity: u32) -> Caller;
}

/// Shared by writers (clusters) and readers (everything else).
pub struct Table {
    own_namespace: Arc<str>,
    entries: Mutex<BTreeMap<FunctionId, Entry>>,
    view: ArcSwap<View>,
    /// Generation of the view, for those who wait for a change of any function.
    generation: watch::Sender<u64>,
    /// Some function was called after it was quiet.
    news: Arc<Notify>,
}

struct Entry {
    report: FunctionReport,
    live: Arc<Live>,
    endpoints: HashMap<Arc<str>, Arc<Endpoint>>,
}

impl Table {
    /// `own_namespace`: functions of it are reached without naming the namespace.
    pub fn new(own_namespace: &str) -> Arc<Self> {
        Arc::new(Self {
            own_namespace: own_namespace.into(),
            entries: Mutex::new(BTreeMap::new()),
            view: ArcSwap::from_pointee(View::default()),
            generation: watch::Sender::new(0),
            news: Arc::default(),
        })
    }

    /// The current view; hold it for one decision, not across waits.
    pub fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    /// Sees each new generation of the view (possibly skipping some).
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Notified when a function is called on this node that [`Live::await_news`] asked to hear of.
    pub fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.news)
    }

    /// Inserts or replaces one function.
    pub fn put(&self, report: FunctionReport) {
        self.update(vec![report], &[]);
    }

    /// Takes a function out; its running requests finish, its waiting ones learn of it.
    pub fn remove(&self, id: &FunctionId) {
        self.update(Vec::new(), std::slice::from_ref(id));
    }

    /// Inserts or replaces some functions and takes out others, in one new view: a view costs time in proportion to
    /// all functions.
    pub fn update(&self, reports: Vec<FunctionReport>, removed: &[FunctionId]) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = BTreeSet::new();
        for report in reports {
            let id = report.id.clone();
            match entries.get_mut(&id) {
                Some(entry) if entry.report == report => continue,
                Some(entry) => entry.report = report,
                None => {
                    let live = Arc::new(Live::new(Arc::clone(&self.news)));
                    entries.insert(id.clone(), Entry { report, live, endpoints: HashMap::new() });
                }
            }
            changed.insert(id);
        }
        let gone: Vec<Entry> = removed.iter().filter_map(|id| entries.remove(id)).collect();
        if !changed.is_empty() || !gone.is_empty() {
            self.publish(&mut entries, &changed);
        }
        for entry in gone {
            entry.endpoints.values().for_each(|endpoint| endpoint.retire());
            entry.live.wake_waiters();
        }
    }

    /// A function's start has reached a step.
    pub fn note_start(&self, id: &FunctionId, phase: StartPhase, at: Instant) {
        if let Some(function) = self.view().function(id).filter(|function| function.endpoints.is_empty()) {
            function.live.start.reach(phase, at);
        }
    }

    fn publish(&self, entries: &mut BTreeMap<FunctionId, Entry>, changed: &BTreeSet<FunctionId>) {
        let previous = self.view.load();
        let mut functions: Vec<Arc<Function>> = Vec::with_capacity(entries.len());
        let mut retired = Vec::new();
        for (id, entry) in entries.iter_mut() {
            match previous.function(id) {
                Some(same) if !changed.contains(id) => functions.push(Arc::clone(same)),
                _ => functions.push(Arc::new(entry.reading(&mut retired))),
            }
        }
        self.view.store(Arc::new(View::new(&self.own_namespace, functions)));
        // After the store: who finds an endpoint retired finds a view without it.
        retired.iter().for_each(|endpoint: &Arc<Endpoint>| endpoint.retire());
        self.generation.send_modify(|generation| *generation += 1);
        for entry in changed.iter().filter_map(|id| entries.get(id)) {
            entry.live.wake_waiters();
        }
    }
}

impl Entry {
    /// Endpoints keep their identity (and their counters) for as long as the same pod is reached in the same way.
    fn reading(&mut self, retired: &mut Vec<Arc<Endpoint>>) -> Function {
        let mut kept: HashMap<Arc<str>, Arc<Endpoint>> = HashMap::new();
        let mut ready: Vec<Arc<Endpoint>> = Vec::new();
        for pod in &self.report.pods {
            let Some(address) = pod.address.as_ref().filter(|_| pod.is_ready()) else { continue };
            let protocol = self.report.spec.protocol;
            let same =
                |e: &&Arc<Endpoint>| e.address == *address && e.base_path == pod.base_path && e.protocol == protocol;
            let endpoint = match self.endpoints.get(&pod.name).filter(same) {
                Some(endpoint) => Arc::clone(endpoint),
                None => Arc::new(Endpoint::new(&pod.name, address.clone(), pod.base_path.clone(), protocol)),
            };
            kept.insert(Arc::clone(&pod.name), Arc::clone(&endpoint));
            ready.push(endpoint);
        }
        let left = |(pod, endpoint): (Arc<str>, Arc<Endpoint>)| {
            let stays = kept.get(&pod).is_some_and(|same| Arc::ptr_eq(same, &endpoint));
            (!stays).then_some(endpoint)
        };
        if kept.is_empty() && !self.endpoints.is_empty() {
            self.live.start.clear();
        }
        retired.extend(self.endpoints.drain().filter_map(left));
        self.endpoints = kept;
        Function {
            id: self.report.id.clone(),
            kind: self.report.kind,
            spec: Arc::clone(&self.report.spec),
            problems: Arc::clone(&self.report.problems),
            replicas_requested: self.report.replicas_requested,
            pods: self.report.pods.clone(),
            endpoints: ready.into(),
            live: Arc::clone(&self.live),
        }
    }
}
