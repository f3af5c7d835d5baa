//! What an option is, and the configuration that options make.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::values;
use crate::config::jobs::JobsConfiguration;
use crate::config::{
    ClusterSource, Config, CorsOrigins, EventLimits, JobLimits, Limits, Listen, Log, LogFormat, PeerPort, QueueLimits,
};
use crate::model::problem::Problem;

/// One option.
pub(super) struct Opt {
    pub(super) name: &'static str,
    /// In the order in which they count.
    pub(super) old: &'static [&'static str],
    /// In the syntax of the option; empty: nothing is set.
    pub(super) default: &'static str,
    pub(super) doc: &'static str,
    /// May be given as `Name__0`, `Name__1`, ….
    pub(super) is_list: bool,
    pub(super) reads: Reads,
}

impl Opt {
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.old.iter().copied())
    }
}

/// How a value is read and where it goes.
pub(super) enum Reads {
    Whole(RangeInclusive<u64>, fn(&mut Draft, u64)),
    /// The range is in milliseconds.
    Seconds(RangeInclusive<u64>, fn(&mut Draft, Duration)),
    Bytes(RangeInclusive<u64>, fn(&mut Draft, u64)),
    /// What is allowed, for people, and a reader whose error says what is allowed instead of what was found.
    Text(&'static str, fn(&mut Draft, &str) -> Result<(), String>),
}

impl Reads {
    pub(super) fn read(&self, draft: &mut Draft, text: &str) -> Result<(), String> {
        let refused = || format!("allowed: {}", self.allowed());
        match self {
            Self::Whole(range, set) => set(draft, values::whole(text, range).ok_or_else(refused)?),
            Self::Seconds(range, set) => set(draft, values::duration(text, range).ok_or_else(refused)?),
            Self::Bytes(range, set) => set(draft, values::bytes(text, range).ok_or_else(refused)?),
            // The empty default of an option that is not set by default.
            Self::Text(..) if text.is_empty() => {}
            Self::Text(_, set) => set(draft, text)?,
        }
        Ok(())
    }

    pub(super) fn allowed(&self) -> String {
        match self {
            Self::Whole(range, _) => format!("{} to {}", range.start(), range.end()),
            Self::Seconds(range, _) => {
                format!("{} to {} seconds", values::show_seconds(*range.start()), values::show_seconds(*range.end()))
            }
            Self::Bytes(range, _) => {
                format!("{} to {}", values::show_bytes(*range.start()), values::show_bytes(*range.end()))
            }
            Self::Text(allowed, _) => (*allowed).to_owned(),
        }
    }
}

/// A configuration being made.
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) orchestrator: Choice,
    /// The text of the fixed list.
    pub(super) functions: Option<String>,
    /// Its default depends on the orchestrator.
    pub(super) drain_delay: Option<Duration>,
    /// What is ignored of texts that hold more than one thing.
    pub(super) warnings: Vec<Problem>,
}

/// The orchestrator that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Unsaid,
    Kubernetes,
    Local,
    Fixed,
}

impl Choice {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "kubernetes" => Ok(Self::Kubernetes),
            "local" | "process" => Ok(Self::Local),
            "mock" => Ok(Self::Fixed),
            "docker" => Err("Docker is not supported: list the containers in MOCK_KUBERNETES_FUNCTIONS, or run \
                             functions as processes with `slimfaas local up`"
                .to_owned()),
            _ => Err("allowed: Kubernetes, Local, Process or Mock".to_owned()),
        }
    }
}

impl Draft {
    /// Values of no meaning: every one is replaced by its option's default or given value (a test holds that).
    pub(super) fn blank() -> Self {
        let limits = Limits {
            connections: 0,
            headers_timeout: Duration::ZERO,
            keep_alive_timeout: Duration::ZERO,
            header_bytes: 0,
            body_bytes: 0,
            body_bytes_per_second: 0,
            body_rate_grace: Duration::ZERO,
            h2_streams: 0,
            waiting_per_function: 0,
            slot_timeout: Duration::ZERO,
            connect_timeout: Duration::ZERO,
            idle_upstream: 0,
            idle_upstream_timeout: Duration::ZERO,
        };
        let config = Config {
            namespace: String::new(),
            other_namespaces: Vec::new(),
            pod_name: String::new(),
            cluster: ClusterSource::Kubernetes,
            listen: Listen { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), ports: Vec::new() },
            traffic_threads: 0,
            cors: CorsOrigins::Any,
            base_function_url: String::new(),
            awake_when_never_called: false,
            store_directory: None,
            queue: QueueLimits {
                function_elements: 0,
                function_bytes: 0,
                total_elements: 0,
                total_bytes: 0,
                dead_elements: 0,
                dead_age: Duration::ZERO,
                body_bytes: 0,
                disk_reserve: 0,
            },
            events: EventLimits {
                at_once: 0,
                deliveries: 0,
                body_bytes: 0,
                memory_bytes: 0,
                file_bytes: 0,
                structured_bytes: 0,
            },
            event_targets: Vec::new(),
            jobs: JobLimits { request_bytes: 0, waiting_per_job: 0, waiting: 0, schedules_per_job: 0, schedules: 0 },
            jobs_configuration: JobsConfiguration::default(),
            admin_token_file: None,
            limits,
            log: Log { filter: String::new(), format: LogFormat::Text, no_color: false },
            peer: PeerPort { port: 0, key_file: None, nodes: Vec::new() },
            identity_salt_file: None,
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::ZERO,
        };
        Self { config, orchestrator: Choice::Unsaid, functions: None, drain_delay: None, warnings: Vec::new() }
    }
}
