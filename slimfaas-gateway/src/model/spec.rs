//! What a function's owner asked for, after parsing: no annotation names here.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::schedule::Schedule;
use crate::model::visibility::{DirectAccess, EventSubscription, PathRule, Trust, Visibility};

/// Everything that annotations say of one function.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionSpec {
    /// Floor after inactivity.
    pub replicas_min: u32,
    /// Replicas when leaving zero, and the readiness threshold seen by dependents.
    pub replicas_at_start: u32,
    /// Time without a call after which the function returns to `replicas_min`.
    pub idle_timeout: Duration,
    pub parallel: ParallelLimits,
    /// A call to any function counts as a call to this one.
    pub wakes_with_any: bool,
    pub depends_on: Vec<Dependency>,
    pub subscribe_events: Vec<EventSubscription>,
    /// An event starts the function when nothing of it runs.
    pub wake_on_event: bool,
    pub default_visibility: Visibility,
    pub path_rules: Vec<PathRule>,
    /// Workloads whose calls to this function count as external.
    pub excluded_callers: BTreeSet<String>,
    pub trust: Trust,
    pub direct_access: DirectAccess,
    pub sync_calls: CallPolicy,
    pub async_calls: CallPolicy,
    pub publish_calls: CallPolicy,
    pub schedule: Option<Schedule>,
    pub scale: Option<ScaleSpec>,
    pub protocol: UpstreamProtocol,
}

impl Default for FunctionSpec {
    /// The defaults of the original (reference §2.2).
    fn default() -> Self {
        Self {
            replicas_min: 0,
            replicas_at_start: 1,
            idle_timeout: Duration::from_secs(300),
            parallel: ParallelLimits::default(),
            wakes_with_any: false,
            depends_on: Vec::new(),
            subscribe_events: Vec::new(),
            wake_on_event: false,
            default_visibility: Visibility::Public,
            path_rules: Vec::new(),
            excluded_callers: BTreeSet::new(),
            trust: Trust::Trusted,
            direct_access: DirectAccess::ByVisibility,
            sync_calls: CallPolicy::sync_default(),
            async_calls: CallPolicy::queued_default(),
            publish_calls: CallPolicy::queued_default(),
            schedule: None,
            scale: None,
            protocol: UpstreamProtocol::Http1,
        }
    }
}

/// Requests in flight at once. `None`: the owner did not say (sync: unbounded; async: 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ParallelLimits {
    pub per_function: Option<u32>,
    pub per_pod: Option<u32>,
}

/// One name of `SlimFaas/DependsOn`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependency {
    /// A workload of the same namespace, a function or not.
    Workload(String),
    /// `processes:<name>`: a helper process of the local mode.
    Process(String),
}

/// Time limit and retries of one way of calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallPolicy {
    /// Until the response's headers.
    pub http_timeout: Duration,
    /// One further attempt after each of these delays.
    pub retry_delays: Vec<Duration>,
    /// Statuses that count as a failed attempt.
    pub retry_statuses: Vec<u16>,
}

impl CallPolicy {
    pub fn sync_default() -> Self {
        Self { http_timeout: Duration::from_secs(120), retry_delays: Vec::new(), retry_statuses: Vec::new() }
    }

    pub fn queued_default() -> Self {
        Self {
            http_timeout: Duration::from_secs(120),
            retry_delays: [2, 4, 8].map(Duration::from_secs).to_vec(),
            retry_statuses: vec![500, 502, 503],
        }
    }
}

/// What the gateway speaks to the function. There is no negotiation on cleartext connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge, as gRPC servers speak it.
    H2c,
}

/// `SlimFaas/Scale`: n to m by metrics (reference §4.7).
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleSpec {
    pub replicas_max: Option<u32>,
    pub scrape_interval: Option<Duration>,
    pub triggers: Vec<Trigger>,
    pub scale_up: ScaleBehavior,
    pub scale_down: ScaleBehavior,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    pub metric_type: MetricType,
    pub metric_name: String,
    pub query: String,
    pub threshold: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricType {
    AverageValue,
    Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScaleBehavior {
    pub stabilization: Duration,
    pub policies: Vec<ScalePolicy>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePolicy {
    pub kind: PolicyKind,
    pub value: u32,
    pub period: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    Percent,
    Pods,
}
