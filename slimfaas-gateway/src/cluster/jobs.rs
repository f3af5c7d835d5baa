//! What runs jobs: the part of a cluster that knows their definitions and has runs of them.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::watch;

use super::ClusterFuture;
use super::seen_runs::SeenRuns;
use crate::model::function::FunctionId;
use crate::model::job::{JobSpec, RunSpec};
use crate::model::problem::Problem;
use crate::queue::element::ElementId;

/// Has runs. All that it is asked to do may be asked again, by another node too.
pub trait JobRunner: Send + Sync + 'static {
    /// The definitions that the cluster itself has.
    fn jobs(&self) -> watch::Receiver<Arc<ClusterJobs>>;

    /// The runs that there are; `None`: not known yet.
    fn runs(&self) -> watch::Receiver<Option<Arc<SeenRuns>>>;

    /// Why such a run could never start here.
    fn check(&self, job: &FunctionId, spec: &RunSpec) -> Result<(), String>;

    /// Creates a run, unless it is there already. Where the request may be carried out late, when the run has long ended,
    /// it is held ([`SeenRun::held`](super::seen_runs::SeenRun::held)); else it starts.
    fn create<'a>(&'a self, run: &'a RunToStart) -> ClusterFuture<'a, Result<(), JobError>>;

    /// Starts the one that is `held`, and no other of the same run.
    fn let_go<'a>(&'a self, run: &'a RunName, held: &'a str) -> ClusterFuture<'a, Result<(), JobError>>;

    /// Whether a run is there, beyond doubt.
    fn exists<'a>(&'a self, run: &'a RunName) -> ClusterFuture<'a, Result<bool, JobError>>;

    /// Ends a run and removes what is left of it; returns once that has begun.
    fn delete<'a>(&'a self, run: &'a RunName) -> ClusterFuture<'a, Result<(), JobError>>;

    /// What a run has written, and, with `follow`, what it goes on to write.
    fn logs<'a>(&'a self, run: &'a RunName, follow: bool) -> ClusterFuture<'a, Result<LogStream, JobError>>;
}

pub type LogStream = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterJobs {
    /// Whether these are all.
    pub listed: bool,
    pub jobs: BTreeMap<FunctionId, ClusterJob>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ClusterJob {
    pub spec: Arc<JobSpec>,
    /// What could not be used of its definition.
    pub problems: Vec<Problem>,
}

/// A run's name in the cluster follows from these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunName {
    pub id: ElementId,
    pub job: FunctionId,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RunToStart {
    pub name: RunName,
    pub spec: RunSpec,
    pub queued_ms: u64,
    pub started_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    #[error("there is no such run in the cluster")]
    Unknown,
    /// Asking again cannot help.
    #[error("the cluster refused: {0}")]
    Refused(String),
    #[error("the cluster does not answer: {0}")]
    Unavailable(String),
}

/// Letters and digits of a run's own part of its name: 62 bits of its id's random part.
const SUFFIX_CHARACTERS: u32 = 12;

impl RunName {
    /// `{job}-slimfaas-job-{12 letters and digits}`: the same whoever makes it of the same run, and no other run's.
    pub fn text(&self) -> String {
        let job = self.job.name.replace('_', "-");
        // A name begins with a letter or digit.
        format!("{}-slimfaas-job-{}", job.trim_start_matches('-'), self.suffix())
    }

    fn suffix(&self) -> String {
        // The first half is time, which two runs may share.
        let mut bits = u64::from_be_bytes(self.id.0[8..].try_into().expect("half of sixteen bytes"))
            ^ u64::from_be_bytes(self.id.0[..8].try_into().expect("half of sixteen bytes")).rotate_left(52);
        let mut text = String::new();
        for _ in 0..SUFFIX_CHARACTERS {
            text.push(char::from_digit((bits % 36) as u32, 36).expect("a digit of base 36"));
            bits /= 36;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_from_runs_and_differ() {
        let name = |job: &str, id| RunName { id, job: FunctionId::new("demo", job) }.text();
        let id = ElementId::parse("0190a6b0-0000-7000-8000-000000000001").unwrap();
        assert_eq!(name("fib_1", id), name("fib-1", id));
        assert!(name("report", id).starts_with("report-slimfaas-job-"), "{}", name("report", id));
        assert!(name("_a_", id).starts_with("a--slimfaas-job-"));
        assert_eq!(name(&"x".repeat(30), id).len(), 56);
        let entropy = |number: u32| {
            let mut entropy = [0; 10];
            entropy[6..].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
            entropy
        };
        let names: BTreeSet<String> = (0..10_000).map(|n| name("job", ElementId::new(1, entropy(n)))).collect();
        assert_eq!(names.len(), 10_000);
    }
}
