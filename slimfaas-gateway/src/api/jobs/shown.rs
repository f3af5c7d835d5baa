//! Runs and schedules as the original shows them: PascalCase, nothing for `null`, times in ticks of .NET.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::api::unavailable;
use crate::clock;
use crate::cluster::jobs::RunName;
use crate::cluster::seen_runs::SeenRuns;
use crate::jobs::command::End;
use crate::jobs::definitions::Definition;
use crate::jobs::duties::in_order;
use crate::jobs::handle::Jobs;
use crate::jobs::plan::{JobsView, Phase, Run, Schedule};
use crate::model::cron::Cron;
use crate::model::function::FunctionId;
use crate::model::job::{self, EnvVar, Resources, RunState, ScheduleRequest};
use crate::model::problem::Problem;
use crate::proxy::rejection::Rejection;
use crate::queue::element::ElementId;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RunRow {
    name: String,
    status: &'static str,
    id: String,
    /// From 0 for those that wait; -1, -2, … for the others, the newest first.
    position_in_queue: i64,
    in_queue_timestamp: i64,
    start_timestamp: i64,
    /// Of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Of one job. `is_defined`: also without runs there is something to show.
pub(super) fn runs(jobs: &Jobs, job: &FunctionId, is_defined: bool) -> Result<Vec<RunRow>, Rejection> {
    let view = jobs.store.jobs().map_err(unavailable)?;
    let seen = jobs.runner.runs().borrow().clone().unwrap_or_default();
    let of_job: Vec<(ElementId, &Run)> = in_order(&view).into_iter().filter(|(_, run)| run.job == *job).collect();
    if of_job.is_empty() && !is_defined {
        return Err(Rejection::NotFound);
    }
    let created = of_job.iter().rev().filter(|(_, run)| is_created(run)).zip(1_i64..);
    let queued = of_job.iter().filter(|(_, run)| run.phase == Phase::Queued).zip(0_i64..);
    let rows = created.map(|((id, run), place)| run_row(*id, run, &seen, -place));
    Ok(rows.chain(queued.map(|((id, run), place)| run_row(*id, run, &seen, place))).collect())
}

/// It does not wait any more, and is not on its way out.
fn is_created(run: &Run) -> bool {
    !matches!(run.phase, Phase::Deleting { .. } | Phase::Queued)
}

fn run_row(id: ElementId, run: &Run, seen: &SeenRuns, position_in_queue: i64) -> RunRow {
    let (status, reason) = state(id, run, seen);
    let name = match run.phase {
        Phase::Queued => run.job.name.to_string(),
        _ => RunName { id, job: run.job.clone() }.text(),
    };
    RunRow {
        name,
        status,
        id: id.to_string(),
        position_in_queue,
        in_queue_timestamp: ticks(run.queued_ms),
        start_timestamp: run.started_ms().map_or(-1, ticks),
        reason,
    }
}

fn state(id: ElementId, run: &Run, seen: &SeenRuns) -> (&'static str, Option<String>) {
    match &run.phase {
        Phase::Queued => ("Queued", None),
        Phase::Finished { end: End::Succeeded, .. } => (RunState::Succeeded.as_str(), None),
        Phase::Finished { end: End::Failed(reason), .. } => ("Failed", Some(reason.clone())),
        Phase::Started { .. } | Phase::Deleting { .. } => {
            let state = seen.get(&id).map_or(&RunState::Pending, |seen| &seen.state);
            let reason = if let RunState::Failed(reason) = state { Some(reason.clone()) } else { None };
            (state.as_str(), reason)
        }
    }
}

fn ticks(unix_ms: u64) -> i64 {
    i64::try_from(job::ticks(unix_ms)).unwrap_or(i64::MAX)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct JobStatus {
    name: String,
    visibility: &'static str,
    image: String,
    images_whitelist: Vec<String>,
    number_parallel_job: u32,
    resources: Resources,
    depends_on: Vec<String>,
    schedules: Vec<ScheduleStatus>,
    running_jobs: Vec<RunningJob>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<Problem>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ScheduleStatus {
    id: String,
    schedule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_execution_timestamp: Option<i64>,
    resources: Resources,
    depends_on: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RunningJob {
    name: String,
    status: &'static str,
    element_id: String,
    in_queue_timestamp: i64,
    start_timestamp: i64,
}

/// Of all jobs, by name.
pub(super) fn status(jobs: &Jobs) -> Result<Vec<JobStatus>, Rejection> {
    let view = jobs.store.jobs().map_err(unavailable)?;
    let seen = jobs.runner.runs().borrow().clone().unwrap_or_default();
    let mut running: BTreeMap<&FunctionId, Vec<(ElementId, &Run)>> = BTreeMap::new();
    for (id, run) in in_order(&view).into_iter().filter(|(_, run)| is_created(run)) {
        running.entry(&run.job).or_default().push((id, run));
    }
    let status_of = |(id, definition): (FunctionId, Definition)| {
        let running = running.get(&id).map_or(&[][..], Vec::as_slice);
        job_status(jobs, &id, &definition, &view, running, &seen)
    };
    Ok(jobs.definitions.all().into_iter().map(status_of).collect())
}

fn job_status(
    jobs: &Jobs,
    id: &FunctionId,
    definition: &Definition,
    view: &JobsView,
    running: &[(ElementId, &Run)],
    seen: &SeenRuns,
) -> JobStatus {
    let spec = &definition.spec;
    let running_job = |(id, run): &(ElementId, &Run)| {
        let row = run_row(*id, run, seen, 0);
        RunningJob {
            name: row.name,
            status: row.status,
            element_id: row.id,
            in_queue_timestamp: row.in_queue_timestamp,
            start_timestamp: row.start_timestamp,
        }
    };
    let own = spec.schedules.iter().map(|schedule| (ElementId(schedule.id), schedule.request.clone()));
    let asked = asked_schedules(view, id).map(|(id, _, request)| (id, request));
    JobStatus {
        name: jobs.definitions.shown(id),
        visibility: spec.visibility.as_str(),
        image: spec.image.clone(),
        images_whitelist: spec.images_whitelist.clone(),
        number_parallel_job: spec.parallel,
        resources: spec.resources.clone(),
        depends_on: spec.depends_on.clone(),
        schedules: own.chain(asked).map(|(id, request)| schedule_status(id, request, definition)).collect(),
        running_jobs: running.iter().map(running_job).collect(),
        problems: definition.problems.clone(),
    }
}

fn schedule_status(id: ElementId, request: ScheduleRequest, definition: &Definition) -> ScheduleStatus {
    let (spec, run) = (&definition.spec, request.run);
    let cron = Cron::parse(&request.schedule, request.time_zone.as_deref()).ok();
    ScheduleStatus {
        id: id.to_string(),
        next_execution_timestamp: cron.and_then(|cron| cron.next(clock::utc())).map(|next| next.timestamp()),
        schedule: request.schedule,
        time_zone: request.time_zone,
        image: run.image.filter(|image| !image.is_empty()).unwrap_or_else(|| spec.image.clone()),
        resources: run.resources.unwrap_or_else(|| spec.resources.clone()),
        depends_on: run.depends_on.unwrap_or_else(|| spec.depends_on.clone()),
    }
}

/// Those that were asked for over HTTP.
fn asked_schedules<'a>(
    view: &'a JobsView,
    job: &'a FunctionId,
) -> impl Iterator<Item = (ElementId, &'a Schedule, ScheduleRequest)> {
    let of_job = view.schedules.iter().filter(move |(_, known)| known.job == *job && !known.spec.is_empty());
    of_job.map(|(id, known)| (*id, known, serde_json::from_slice(&known.spec).unwrap_or_default()))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ScheduleRow {
    id: String,
    schedule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Vec<String>>,
    image: String,
    backoff_limit: u32,
    ttl_seconds_after_finished: u32,
    restart_policy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environments: Option<Vec<EnvVar>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    depends_on: Option<Vec<String>>,
}

/// Of one job, those that were asked for over HTTP. How runs are tried and kept is the definition's matter.
pub(super) fn schedules(jobs: &Jobs, job: &FunctionId, definition: &Definition) -> Result<Vec<ScheduleRow>, Rejection> {
    let view = jobs.store.jobs().map_err(unavailable)?;
    let spec = &definition.spec;
    let row = |(id, _, request): (ElementId, &Schedule, ScheduleRequest)| ScheduleRow {
        id: id.to_string(),
        schedule: request.schedule,
        time_zone: request.time_zone,
        args: request.run.args,
        image: request.run.image.unwrap_or_default(),
        backoff_limit: spec.backoff_limit,
        ttl_seconds_after_finished: spec.ttl_seconds,
        restart_policy: spec.restart_policy.as_str(),
        resources: request.run.resources,
        environments: request.run.environments,
        depends_on: request.run.depends_on,
    };
    Ok(asked_schedules(&view, job).map(row).collect())
}
