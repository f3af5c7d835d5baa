//! Single duties of a job's leader: what it proposes to the log, and what it asks of the cluster.
//!
//! Each may come late, or be done by an earlier leader too. What is proposed then is not taken; what the cluster creates
//! is held until the log knows of it; and before something is removed, the majority is asked.

use std::time::Duration;

use super::command::{End, JobCommand};
use super::handle::{JobStats, Jobs};
use super::plan::{Phase, Run};
use crate::cluster::jobs::{JobError, RunName, RunToStart};
use crate::model::job::RunSpec;
use crate::queue::command::{Command, Reply};
use crate::queue::element::ElementId;
use crate::store::StoreError;

const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// For a majority to say that what is known here is all there is.
pub(super) const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// It has to be tried again.
pub(super) struct Trouble;

pub(super) async fn propose(jobs: &Jobs, command: JobCommand) -> Result<(), Trouble> {
    let counter = match &command {
        JobCommand::Finish { end: End::Succeeded, .. } => Some(&jobs.stats.succeeded),
        JobCommand::Finish { end: End::Failed(_), .. } => Some(&jobs.stats.failed),
        JobCommand::Fire { run: Some(_), .. } => Some(&jobs.stats.fired),
        _ => None,
    };
    let told = told(&command);
    match jobs.store.propose(Command::Job(command), PROPOSE_TIMEOUT).await {
        Ok(Reply::Done) => {
            counter.into_iter().for_each(JobStats::count);
            if let Some((run, what)) = told {
                tracing::info!(%run, "{what}");
            }
        }
        // The log has come further than what this was decided from.
        Ok(Reply::Stale | Reply::Changed { .. }) => {}
        Ok(Reply::Refused(limit)) => {
            tracing::warn!(limit = limit.as_str(), "a schedule waits for room: too many runs wait");
            return Err(Trouble);
        }
        Err(_) => return Err(Trouble),
    }
    Ok(())
}

/// What the log of the process says of a change.
fn told(command: &JobCommand) -> Option<(ElementId, String)> {
    match command {
        JobCommand::Start { id, .. } => Some((*id, "a run has got a slot".to_owned())),
        JobCommand::Finish { id, end: End::Succeeded } => Some((*id, "a run has succeeded".to_owned())),
        JobCommand::Finish { id, end: End::Failed(reason) } => Some((*id, format!("a run has failed: {reason}"))),
        JobCommand::Fire { run: Some(run), .. } => Some((run.id, format!("a schedule of {} has fired", run.job))),
        _ => None,
    }
}

pub(super) fn spec_of(jobs: &Jobs, id: ElementId) -> Result<Option<RunSpec>, StoreError> {
    let text = jobs.store.job_spec(id)?;
    Ok(text.map(|text| serde_json::from_slice(&text).unwrap_or_default()))
}

/// Has the cluster create a run, if the majority still wants it. One that is held is let go when the log knows of it.
pub(super) async fn create(jobs: &Jobs, name: RunName) -> Result<(), Trouble> {
    jobs.store.catch_up(CATCH_UP_TIMEOUT).await.map_err(|_again| Trouble)?;
    let view = jobs.store.jobs().map_err(|_again| Trouble)?;
    let Some(run) = view.runs.get(&name.id) else { return Ok(()) };
    let Phase::Started { at_ms, is_created: false } = run.phase else { return Ok(()) };
    let Some(spec) = spec_of(jobs, name.id).map_err(|_again| Trouble)? else { return Ok(()) };
    let (id, job) = (name.id, name.job.clone());
    let start = RunToStart { name, spec, queued_ms: run.queued_ms, started_ms: at_ms };
    match jobs.runner.create(&start).await {
        Ok(()) => propose(jobs, JobCommand::Created { id }).await,
        Err(JobError::Refused(reason)) => {
            tracing::warn!(%job, run = %id, reason, "a run has failed: the cluster refuses it");
            propose(jobs, JobCommand::Finish { id, end: End::failed(&reason) }).await
        }
        Err(error) => {
            tracing::warn!(%job, run = %id, %error, "a run is not created, and tried again");
            Err(Trouble)
        }
    }
}

pub(super) async fn let_go(jobs: &Jobs, name: &RunName, held: &str) -> Result<(), Trouble> {
    match jobs.runner.let_go(name, held).await {
        Ok(()) | Err(JobError::Unknown) => Ok(()),
        Err(error) => {
            tracing::warn!(job = %name.job, run = %name.id, %error, "a run does not begin, and is tried again");
            Err(Trouble)
        }
    }
}

/// Not if the run has a turn to come: that the log did not know it may have been seen before it did.
pub(super) async fn remove(jobs: &Jobs, name: &RunName) -> Result<(), Trouble> {
    jobs.store.catch_up(CATCH_UP_TIMEOUT).await.map_err(|_again| Trouble)?;
    let view = jobs.store.jobs().map_err(|_again| Trouble)?;
    if matches!(view.runs.get(&name.id), Some(Run { phase: Phase::Queued | Phase::Started { .. }, .. })) {
        return Ok(());
    }
    match jobs.runner.delete(name).await {
        Ok(()) | Err(JobError::Unknown) => Ok(()),
        Err(error) => {
            tracing::warn!(job = %name.job, run = %name.id, %error, "a run is not removed, and tried again");
            Err(Trouble)
        }
    }
}

/// What the cluster has no more has failed, or can be forgotten.
pub(super) async fn check(jobs: &Jobs, name: &RunName, has_ended: bool) -> Result<(), Trouble> {
    match jobs.runner.exists(name).await {
        // Its watch will show it.
        Ok(true) => Err(Trouble),
        Ok(false) if has_ended => propose(jobs, JobCommand::Forget { id: name.id }).await,
        Ok(false) => {
            tracing::warn!(job = %name.job, run = %name.id, "a run has vanished from the cluster: it has failed");
            let end = End::failed("it vanished from the cluster: somebody deleted it, or its process was lost");
            propose(jobs, JobCommand::Finish { id: name.id, end }).await
        }
        Err(_again) => Err(Trouble),
    }
}
