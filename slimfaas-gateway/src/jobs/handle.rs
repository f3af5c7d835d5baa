//! What the gateway's routes ask of jobs: store a run, delete it, show what there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::RngCore;

use super::command::{JobCommand, NewRun};
use super::definitions::Definitions;
use crate::clock;
use crate::cluster::jobs::JobRunner;
use crate::config::JobLimits;
use crate::model::function::FunctionId;
use crate::model::job::{RunSpec, ScheduleRequest};
use crate::queue::command::{Command, Limit, Reply};
use crate::queue::element::ElementId;
use crate::store::{Entropy, Store, StoreError};

/// For what is asked for to be on the disks of a majority.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    pub store: Store,
    pub definitions: Definitions,
    pub runner: Arc<dyn JobRunner>,
    pub limits: JobLimits,
    pub stats: Arc<JobStats>,
}

/// Counted by this process.
#[derive(Debug, Default)]
pub struct JobStats {
    /// Runs that callers had stored here.
    pub asked: AtomicU64,
    pub refused: AtomicU64,
    /// Schedules that fired while this node led.
    pub fired: AtomicU64,
    /// Runs whose end this node told the log.
    pub succeeded: AtomicU64,
    pub failed: AtomicU64,
    /// Attempts to start or remove a run that the cluster did not take.
    pub not_taken: AtomicU64,
}

impl JobStats {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobsError {
    #[error("there are as many as may be: {}", .0.as_str())]
    Full(Limit),
    #[error("more than {0} bytes are stored of a run")]
    TooLarge(u64),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Jobs {
    /// Resolves with the run's id once it is on the disks of a majority.
    pub async fn run(&self, job: &FunctionId, spec: &RunSpec) -> Result<ElementId, JobsError> {
        let run = self.new_run(job, spec)?;
        let id = run.id;
        let stored = self.propose(JobCommand::Run(run)).await;
        JobStats::count(if stored.is_ok() { &self.stats.asked } else { &self.stats.refused });
        stored.map(|_reply| id)
    }

    /// False: there is no such run.
    pub async fn delete(&self, id: ElementId) -> Result<bool, JobsError> {
        Ok(self.propose(JobCommand::Delete { id }).await? == Reply::Done)
    }

    pub async fn schedule(&self, job: &FunctionId, request: &ScheduleRequest) -> Result<ElementId, JobsError> {
        let (id, spec) = (new_id(), self.encoded(request)?);
        let (job_max, total_max) = (self.limits.schedules_per_job, self.limits.schedules);
        self.propose(JobCommand::Schedule { id, job: job.clone(), spec, job_max, total_max }).await?;
        Ok(id)
    }

    /// False: there is no such schedule.
    pub async fn unschedule(&self, id: ElementId) -> Result<bool, JobsError> {
        Ok(self.propose(JobCommand::Unschedule { id }).await? == Reply::Done)
    }

    pub(super) fn new_run(&self, job: &FunctionId, spec: &RunSpec) -> Result<NewRun, JobsError> {
        Ok(NewRun {
            id: new_id(),
            job: job.clone(),
            ttl_ms: u64::from(spec.ttl_seconds) * 1000,
            spec: self.encoded(spec)?,
            job_max: self.limits.waiting_per_job,
            total_max: self.limits.waiting,
        })
    }

    fn encoded(&self, value: &impl serde::Serialize) -> Result<Bytes, JobsError> {
        let text = serde_json::to_vec(value).expect("our own types have string keys and finite numbers");
        // The definition's part comes on top of what was asked for.
        let limit = self.limits.request_bytes.saturating_mul(2);
        if text.len() as u64 > limit { Err(JobsError::TooLarge(limit)) } else { Ok(text.into()) }
    }

    async fn propose(&self, command: JobCommand) -> Result<Reply, JobsError> {
        match self.store.propose(Command::Job(command), TIMEOUT).await? {
            Reply::Refused(limit) => Err(JobsError::Full(limit)),
            reply => Ok(reply),
        }
    }
}

fn new_id() -> ElementId {
    let mut entropy = [0; 10];
    Entropy.fill_bytes(&mut entropy);
    ElementId::new(clock::unix_millis(), entropy)
}
