//! One immutable reading of all functions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use http::HeaderValue;

use crate::clock::Tick;
pub use crate::model::address::Address;
use crate::model::function::{FunctionId, WorkloadKind};
use crate::model::problem::Problem;
use crate::model::spec::{FunctionSpec, UpstreamProtocol};
use crate::table::activity::Live;
use crate::table::turns::Turns;

/// All functions at one moment. A request reads it once, so every stage sees the same cluster.
#[derive(Default)]
pub struct View {
    /// By the text after `/function/`: `name` for the own namespace, `name.namespace` for any.
    by_route: HashMap<Box<str>, Arc<Function>>,
    by_id: HashMap<FunctionId, Arc<Function>>,
    /// In the order of their ids.
    functions: Vec<Arc<Function>>,
}

impl View {
    pub(super) fn new(own_namespace: &str, functions: Vec<Arc<Function>>) -> Self {
        let mut by_route = HashMap::with_capacity(functions.len() * 2);
        let mut by_id = HashMap::with_capacity(functions.len());
        for function in &functions {
            by_id.insert(function.id.clone(), Arc::clone(function));
            let qualified = format!("{}.{}", function.id.name, function.id.namespace);
            by_route.entry(qualified.into_boxed_str()).or_insert_with(|| Arc::clone(function));
        }
        // The plain names come last: a workload called `a.b` of the own namespace wins over `a` of namespace `b`.
        for function in functions.iter().filter(|f| &*f.id.namespace == own_namespace) {
            by_route.insert((*function.id.name).into(), Arc::clone(function));
        }
        Self { by_route, by_id, functions }
    }

    /// The function that a route names; exact and case sensitive.
    pub fn route(&self, name: &str) -> Option<&Arc<Function>> {
        self.by_route.get(name)
    }

    pub fn function(&self, id: &FunctionId) -> Option<&Arc<Function>> {
        self.by_id.get(id)
    }

    pub fn functions(&self) -> &[Arc<Function>] {
        &self.functions
    }
}

/// One function at one moment.
pub struct Function {
    pub id: FunctionId,
    pub kind: WorkloadKind,
    pub spec: Arc<FunctionSpec>,
    pub problems: Arc<[Problem]>,
    pub replicas_requested: u32,
    pub pods: Vec<Pod>,
    /// The ready ones, which may be sent requests.
    pub endpoints: Arc<[Arc<Endpoint>]>,
    /// Counters that live as long as the function, across views.
    pub live: Arc<Live>,
}

impl Function {
    pub fn replicas_ready(&self) -> u32 {
        u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX)
    }
}

/// One pod (or, locally, one process) of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: Arc<str>,
    /// Where it serves, once known.
    pub address: Option<Address>,
    /// What goes before a request's path, from the URL template: starts with a slash, does not end with one.
    pub base_path: Option<Arc<str>>,
    pub state: PodState,
}

impl Pod {
    pub fn is_ready(&self) -> bool {
        self.state == PodState::Ready
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Not started yet; says why where that is known (`Unschedulable`, `PortRangeExhausted`).
    Pending(Option<String>),
    /// Started, not ready.
    Starting,
    Ready,
    /// Gets no new request; finishes its running ones.
    Terminating,
    /// Waiting or ended with this reason (`CrashLoopBackOff`).
    Failed(String),
}

impl PodState {
    /// Text of the original's status stream (reference §1.12).
    pub fn as_str(&self) -> &str {
        match self {
            Self::Ready => "Running",
            Self::Starting => "Starting",
            Self::Terminating => "Terminating",
            Self::Pending(None) => "Pending",
            Self::Pending(Some(reason)) | Self::Failed(reason) => reason,
        }
    }
}

/// One ready pod's address, with the number of requests in flight to it from this process.
#[derive(Debug)]
pub struct Endpoint {
    /// Never used again in this process: connection pools are keyed by it.
    pub id: u64,
    pub pod: Arc<str>,
    pub address: Address,
    /// What goes before a request's path: starts with a slash, does not end with one.
    pub base_path: Option<Arc<str>>,
    pub protocol: UpstreamProtocol,
    /// The `Host` that is sent to it.
    pub authority: HeaderValue,
    /// Requests that hold a slot of it; only `proxy::slot` changes it.
    pub in_flight: AtomicU32,
    /// Of deliveries of events.
    pub turns: Turns,
    /// It left the view. Set before a cluster looks at `in_flight` to stop the pod, and read after a request has
    /// counted itself there: so one of the two always sees the other (both sequentially consistent).
    retired: AtomicBool,
    /// Until this tick other endpoints are preferred, since a connect to it failed.
    avoided_until: AtomicU64,
}

impl Endpoint {
    pub fn new(pod: &Arc<str>, address: Address, base_path: Option<Arc<str>>, protocol: UpstreamProtocol) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let authority = HeaderValue::from_str(&address.to_string())
            .unwrap_or_else(|_not_a_header| HeaderValue::from_static("function"));
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            pod: Arc::clone(pod),
            address,
            base_path,
            protocol,
            authority,
            in_flight: AtomicU32::new(0),
            turns: Turns::default(),
            retired: AtomicBool::new(false),
            avoided_until: AtomicU64::new(0),
        }
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }

    /// Prefers other endpoints until `tick`.
    pub fn avoid_until(&self, tick: Tick) {
        self.avoided_until.store(tick.0, Ordering::Relaxed);
    }

    pub fn avoided_until(&self) -> Tick {
        Tick(self.avoided_until.load(Ordering::Relaxed))
    }
}
