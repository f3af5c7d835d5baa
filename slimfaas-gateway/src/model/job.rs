//! What a job is, what a run of it is asked to be, and what is seen of it. Values only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::visibility::Visibility;

/// The definition that dynamic jobs are made from; its name is no job's.
pub const DEFAULT_JOB: &str = "default";

/// A job: what its owner has written down.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSpec {
    /// Empty: each run has to name one.
    pub image: String,
    /// Patterns with `*`, of images that a run may name beside the job's own.
    pub images_whitelist: Vec<String>,
    /// What a run gets, and at most may ask for.
    pub resources: Resources,
    /// Functions (or other workloads) that must be ready before a run starts.
    pub depends_on: Vec<String>,
    pub environments: Vec<EnvVar>,
    /// How often a run is tried again after it failed.
    pub backoff_limit: u32,
    pub visibility: Visibility,
    /// Runs at once.
    pub parallel: u32,
    /// How long a run is shown, and its pod kept, after its end.
    pub ttl_seconds: u32,
    pub restart_policy: RestartPolicy,
    pub schedules: Vec<ConfiguredSchedule>,
}

impl Default for JobSpec {
    /// The original's (reference §4.9).
    fn default() -> Self {
        let quantities = || {
            let list = [("cpu", "100m"), ("memory", "100Mi")];
            list.into_iter().map(|(name, quantity)| (name.to_owned(), quantity.to_owned())).collect()
        };
        Self {
            image: String::new(),
            images_whitelist: Vec::new(),
            resources: Resources { requests: quantities(), limits: quantities() },
            depends_on: Vec::new(),
            environments: Vec::new(),
            backoff_limit: 1,
            visibility: Visibility::Private,
            parallel: 1,
            ttl_seconds: 60,
            restart_policy: RestartPolicy::Never,
            schedules: Vec::new(),
        }
    }
}

/// Quantities as Kubernetes writes them, by the resource's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Resources {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub requests: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub limits: BTreeMap<String, String>,
}

/// An environment variable: a value, or where Kubernetes finds one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EnvVar {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<KeyRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_ref: Option<FieldRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_field_ref: Option<ResourceFieldRef>,
}

impl EnvVar {
    /// How many of the ways to say what it is are used; one is right.
    pub fn sources(&self) -> usize {
        let used = [
            self.value.is_some(),
            self.secret_ref.is_some(),
            self.config_map_ref.is_some(),
            self.field_ref.is_some(),
            self.resource_field_ref.is_some(),
        ];
        used.into_iter().filter(|used| *used).count()
    }

    pub fn is_reference(&self) -> bool {
        self.value.is_none() && self.sources() > 0
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyRef {
    pub name: String,
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FieldRef {
    pub field_path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ResourceFieldRef {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
    pub resource: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divisor: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Each try has a pod of its own.
    #[default]
    Never,
    OnFailure,
}

impl RestartPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "Never",
            Self::OnFailure => "OnFailure",
        }
    }
}

/// The body of `POST /job/{name}`, in the original's field names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_seconds_after_finished: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environments: Option<Vec<EnvVar>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depends_on: Option<Vec<String>>,
}

/// The body of `POST /job-schedules/{name}`, and an entry of a configuration's `Schedules`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ScheduleRequest {
    /// Five fields.
    pub schedule: String,
    /// An IANA name; UTC when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    #[serde(flatten)]
    pub run: RunRequest,
}

/// A schedule that belongs to a definition.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfiguredSchedule {
    /// Of what it says: it stays the same for as long as that does.
    pub id: [u8; 16],
    pub request: ScheduleRequest,
}

/// One run, everything decided: what is stored, and what the cluster starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunSpec {
    /// Empty where images mean nothing.
    pub image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    pub environments: Vec<EnvVar>,
    pub resources: Resources,
    pub depends_on: Vec<String>,
    pub backoff_limit: u32,
    pub ttl_seconds: u32,
    pub restart_policy: RestartPolicy,
}

/// How a run stands, as the cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    Pending,
    Running,
    ImagePullBackOff,
    Succeeded,
    /// With the reason, for people.
    Failed(String),
}

impl RunState {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::ImagePullBackOff => "ImagePullBackOff",
            Self::Succeeded => "Succeeded",
            Self::Failed(_) => "Failed",
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed(_))
    }
}

/// Times as the original writes them: .NET's ticks of 100 ns since the year 1.
pub fn ticks(unix_ms: u64) -> u64 {
    unix_ms.saturating_mul(TICKS_PER_MS).saturating_add(EPOCH_TICKS)
}

/// Milliseconds since 1970; earlier times are that.
pub fn millis_of_ticks(ticks: u64) -> u64 {
    ticks.saturating_sub(EPOCH_TICKS) / TICKS_PER_MS
}

const TICKS_PER_MS: u64 = 10_000;
const EPOCH_TICKS: u64 = 621_355_968_000_000_000;

/// JSON's `null` counts as nothing.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
