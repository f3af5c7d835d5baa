//! What the operator asked for: plain values. `config::env` reads them, with every problem reported at once.

pub mod annotations;
pub mod env;
pub mod event_targets;
pub mod fixed_functions;
pub mod jobs;
pub(crate) mod suggest;
pub mod url_template;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

pub use crate::config::event_targets::EventTarget;
use crate::model::address::Address;

/// The effective configuration of one gateway process. Serializable so that it can be logged; holds no secret.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// The gateway's own namespace: functions of it are called without naming it.
    pub namespace: String,
    /// Further namespaces whose functions are served.
    pub other_namespaces: Vec<String>,
    /// This gateway's name among its peers: its pod's.
    pub pod_name: String,
    pub cluster: ClusterSource,
    pub listen: Listen,
    /// Cores of the traffic plane, each with its own listener and connection pools.
    pub traffic_threads: usize,
    pub cors: CorsOrigins,
    /// Template of a function's address (`{pod_ip}`, `{pod_port}`, `{pod_port_N}`, `{function_name}`, `{namespace}`).
    pub base_function_url: String,
    /// A function that nobody has called counts as called at start.
    pub awake_when_never_called: bool,
    /// Where asynchronous requests are stored; `None`: there are none.
    pub store_directory: Option<PathBuf>,
    pub queue: QueueLimits,
    pub events: EventLimits,
    /// Addresses outside of the cluster that get events.
    pub event_targets: Vec<EventTarget>,
    pub jobs: JobLimits,
    /// Not logged: variables of jobs may hold secrets.
    #[serde(skip)]
    pub jobs_configuration: jobs::JobsConfiguration,
    /// Whoever shows what is in it may see and change every queue.
    pub admin_token_file: Option<PathBuf>,
    pub limits: Limits,
    pub log: Log,
    pub peer: PeerPort,
    /// The secret that makes identities of names. Without it the kernel's word on callers is not asked for.
    pub identity_salt_file: Option<PathBuf>,
    /// After SIGTERM, until no more connections are accepted: others must learn first that this process leaves.
    pub drain_delay: Duration,
    /// For running requests to finish after that; then they are cut.
    pub drain_timeout: Duration,
}

/// Which implementation of `cluster::Cluster` runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum ClusterSource {
    Kubernetes,
    /// Child processes, from a manifest that the command line names.
    Local,
    /// `MOCK_KUBERNETES_FUNCTIONS`: its JSON text.
    Fixed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listen {
    /// `::` accepts IPv4 too.
    pub address: IpAddr,
    /// Every one serves the same routes. Never empty. 0 is any free port.
    pub ports: Vec<u16>,
}

impl Listen {
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.ports.iter().map(|port| SocketAddr::new(self.address, *port))
    }
}

/// Where gateway nodes reach each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerPort {
    pub port: u16,
    /// Without one the port is not opened.
    pub key_file: Option<PathBuf>,
    /// All gateway nodes, where no cluster knows them.
    pub nodes: Vec<PeerNode>,
}

/// A gateway node as an option names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerNode {
    pub name: String,
    /// Of its peer port.
    pub address: Address,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum CorsOrigins {
    Any,
    /// Exactly these, as browsers send them (`https://app.example.com`).
    Listed(Vec<String>),
}

/// Every limit of the traffic plane. The reason of each default is beside it in `config::env`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Client connections at once, over all cores.
    pub connections: usize,
    /// From the first byte of a request, or from accept, to the end of its headers.
    pub headers_timeout: Duration,
    /// Between two requests of one connection.
    pub keep_alive_timeout: Duration,
    /// All headers of one request together.
    pub header_bytes: usize,
    /// A request's body, streamed or not.
    pub body_bytes: u64,
    /// Slowest sending of a body, averaged since its start, once `body_rate_grace` is over.
    pub body_bytes_per_second: u64,
    pub body_rate_grace: Duration,
    /// Streams at once on one HTTP/2 connection.
    pub h2_streams: u32,
    /// Requests that wait for one function to wake or for a slot of it.
    pub waiting_per_function: u32,
    /// The longest wait for a slot.
    pub slot_timeout: Duration,
    pub connect_timeout: Duration,
    /// Unused connections kept per endpoint and core.
    pub idle_upstream: usize,
    /// How long such a connection is kept: shorter than servers do, so that they do not close it under a request.
    pub idle_upstream_timeout: Duration,
}

/// Limits of stored requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct QueueLimits {
    /// Of one function, dead letters not included.
    pub function_elements: u64,
    pub function_bytes: u64,
    /// Of all functions, dead letters included.
    pub total_elements: u64,
    pub total_bytes: u64,
    /// Dead letters of one function: over it the oldest are forgotten.
    pub dead_elements: u64,
    /// Age at which a dead letter is forgotten; zero is never.
    pub dead_age: Duration,
    /// One request's body.
    pub body_bytes: u64,
    /// Bytes of the store's disk that no request is taken for.
    pub disk_reserve: u64,
}

/// Limits of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EventLimits {
    /// Whose body is being read or that are being delivered.
    pub at_once: usize,
    /// Deliveries that are being sent, to all targets together.
    pub deliveries: usize,
    /// One event's body.
    pub body_bytes: u64,
    /// What of it is kept in memory; a larger one is a file.
    pub memory_bytes: usize,
    /// All these files together.
    pub file_bytes: u64,
    /// The body of a structured CloudEvent, or of a batch of them.
    pub structured_bytes: u64,
}

/// Limits of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct JobLimits {
    /// A body of `POST /job/…` or `/job-schedules/…`.
    pub request_bytes: u64,
    /// Runs of one job that wait for a slot.
    pub waiting_per_job: u32,
    /// The same of all jobs.
    pub waiting: u32,
    /// Schedules of one job that were asked for over HTTP.
    pub schedules_per_job: u32,
    /// The same of all jobs.
    pub schedules: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Log {
    /// In the syntax of `RUST_LOG`: `info`, `slimfaas_gateway=debug`.
    pub filter: String,
    pub format: LogFormat,
    /// `NO_COLOR` is set (no-color.org).
    pub no_color: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    Json,
}

/// Fails unless the file, named from the repository's root, holds `text`; with `UPDATE_DOCS=1` it is written.
#[cfg(test)]
fn check_document(file: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).expect("the folder of the document exists");
    }
    let current = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(current == text, "{file} is out of date: run the tests once with UPDATE_DOCS=1");
}
