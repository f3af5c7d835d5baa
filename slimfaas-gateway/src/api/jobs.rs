//! `/job/{name}`, `/job-schedules/{name}` and `/jobs/status` (reference §1.14).

mod asked;
mod shown;

use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use self::asked::Asked;
use super::{json, no_content, text, unavailable};
use crate::cluster::jobs::{JobError, RunName};
use crate::config::jobs::is_name;
use crate::jobs::definitions::Definition;
use crate::jobs::handle::{Jobs, JobsError};
use crate::jobs::logs::Logs;
use crate::jobs::plan::Phase;
use crate::jobs::resolve::resolve;
use crate::model::cron::Cron;
use crate::model::function::FunctionId;
use crate::model::job::{RunRequest, ScheduleRequest};
use crate::model::visibility::Visibility;
use crate::proxy::body::Body;
use crate::proxy::jobs::JobCall;
use crate::proxy::rejection::Rejection;
use crate::proxy::router::JobAction;
use crate::proxy::visibility::is_inside;
use crate::queue::command::Limit;
use crate::queue::element::ElementId;

/// Names what the body says and nobody reads.
const IGNORED: HeaderName = HeaderName::from_static("slimfaas-ignored-fields");

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Id {
    id: String,
}

pub(super) async fn answer(jobs: Option<&(Jobs, Logs)>, call: JobCall<'_>) -> Result<Response<Body>, Rejection> {
    let Some((jobs, logs)) = jobs else {
        // Where nothing runs jobs, there are none.
        return if call.route.action == JobAction::StatusAll { Ok(json(&[(); 0])) } else { Err(Rejection::NotFound) };
    };
    // What is only stored needs no look at what is there.
    if !matches!(call.route.action, JobAction::Run | JobAction::Schedule) {
        super::catch_up(&jobs.store).await?;
    }
    if call.route.action == JobAction::StatusAll {
        return shown::status(jobs).map(|all| json(&all));
    }
    let id = named(jobs, call.route.name)?;
    let definition = jobs.definitions.find(&id);
    // Whoever may ask for a run may see and end it.
    let permitted = || definition.clone().filter(|definition| may(&call, &id, definition)).ok_or(Rejection::NotFound);
    match call.route.action {
        JobAction::StatusAll => Err(Rejection::NotFound),
        // As `/jobs/status`, it is for everybody.
        JobAction::List => shown::runs(jobs, &id, definition.is_some()).map(|runs| json(&runs)),
        JobAction::Run => run(jobs, &call, &id, &permitted()?).await,
        JobAction::Delete(run) => {
            permitted()?;
            let (run, _) = find_run(jobs, &id, run)?;
            found(jobs.delete(run).await.map_err(refused)?).map(|()| Response::new(Body::empty()))
        }
        JobAction::Logs { id: run, follow } => {
            permitted()?;
            read_logs(jobs, logs, &id, run, follow).await
        }
        JobAction::Schedules => shown::schedules(jobs, &id, &permitted()?).map(|schedules| json(&schedules)),
        JobAction::Schedule => schedule(jobs, &call, &id, &permitted()?).await,
        JobAction::Unschedule(schedule) => {
            permitted()?;
            let schedule = ElementId::parse(schedule).ok_or(Rejection::NotFound)?;
            let known = jobs.store.jobs().map_err(unavailable)?.schedules.remove(&schedule);
            // Those of a definition go with it.
            found(known.is_some_and(|known| known.job == id && !known.spec.is_empty()))?;
            found(jobs.unschedule(schedule).await.map_err(refused)?).map(|()| no_content())
        }
    }
}

fn named(jobs: &Jobs, name: &str) -> Result<FunctionId, Rejection> {
    let id = jobs.definitions.id(name);
    if is_name(&id.name) {
        return Ok(id);
    }
    let name: String = name.chars().take(64).collect();
    Err(Rejection::Invalid(format!("{name:?} is no job's name: 3 to 30 letters, digits, '_' and '-'")))
}

fn may(call: &JobCall<'_>, id: &FunctionId, definition: &Definition) -> bool {
    definition.spec.visibility == Visibility::Public || is_inside_or_admin(call, id)
}

fn is_inside_or_admin(call: &JobCall<'_>, id: &FunctionId) -> bool {
    call.is_admin || is_inside(&call.caller, &id.namespace)
}

fn found(found: bool) -> Result<(), Rejection> {
    if found { Ok(()) } else { Err(Rejection::NotFound) }
}

fn find_run(jobs: &Jobs, job: &FunctionId, id: &str) -> Result<(ElementId, Phase), Rejection> {
    let id = ElementId::parse(id).ok_or(Rejection::NotFound)?;
    let run = jobs.store.jobs().map_err(unavailable)?.runs.remove(&id);
    let run = run.filter(|run| run.job == *job && !matches!(run.phase, Phase::Deleting { .. }));
    run.map(|run| (id, run.phase)).ok_or(Rejection::NotFound)
}

async fn run(
    jobs: &Jobs,
    call: &JobCall<'_>,
    id: &FunctionId,
    definition: &Definition,
) -> Result<Response<Body>, Rejection> {
    let Asked { request, ignored } = asked::read::<RunRequest>(&call.body)?;
    let spec = checked(jobs, call, id, definition, &request)?;
    let run = jobs.run(id, &spec).await.map_err(refused)?;
    Ok(accepted(StatusCode::ACCEPTED, run, id, &ignored))
}

async fn schedule(
    jobs: &Jobs,
    call: &JobCall<'_>,
    id: &FunctionId,
    definition: &Definition,
) -> Result<Response<Body>, Rejection> {
    let Asked { request, ignored } = asked::read::<ScheduleRequest>(&call.body)?;
    let cron = Cron::parse(&request.schedule, request.time_zone.as_deref());
    cron.map_err(|error| Rejection::Invalid(format!("Schedule: {error}")))?;
    checked(jobs, call, id, definition, &request.run)?;
    let schedule = jobs.schedule(id, &request).await.map_err(refused)?;
    Ok(accepted(StatusCode::CREATED, schedule, id, &ignored))
}

fn checked(
    jobs: &Jobs,
    call: &JobCall<'_>,
    id: &FunctionId,
    definition: &Definition,
    request: &RunRequest,
) -> Result<crate::model::job::RunSpec, Rejection> {
    let spec = resolve(&definition.spec, request, is_inside_or_admin(call, id));
    let spec = spec.map_err(|refusal| Rejection::Invalid(refusal.to_string()))?;
    jobs.runner.check(id, &spec).map_err(Rejection::Invalid)?;
    Ok(spec)
}

fn accepted(status: StatusCode, id: ElementId, job: &FunctionId, ignored: &[String]) -> Response<Body> {
    let mut response = json(&Id { id: id.to_string() });
    *response.status_mut() = status;
    if !ignored.is_empty() {
        tracing::warn!(%job, fields = ?ignored, "a request for a job says what nobody reads");
        // Names of fields may hold anything.
        let names: String = ignored.join(", ").chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
        let value = HeaderValue::from_str(&names).expect("visible ASCII is a header's value");
        response.headers_mut().insert(IGNORED, value);
    }
    response
}

async fn read_logs(
    jobs: &Jobs,
    logs: &Logs,
    job: &FunctionId,
    id: &str,
    follow: bool,
) -> Result<Response<Body>, Rejection> {
    let (id, phase) = find_run(jobs, job, id)?;
    let mut response = text(StatusCode::OK, "text/plain; charset=utf-8", String::new());
    // What has not started has written nothing.
    if phase != Phase::Queued {
        match logs.read(RunName { id, job: job.clone() }, follow).await {
            Ok(chunks) => *response.body_mut() = Body::chunks(chunks),
            Err(JobError::Unknown) => {}
            Err(error) => {
                tracing::warn!(%job, run = %id, %error, "the log of a run cannot be read");
                return Err(Rejection::QueueUnavailable);
            }
        }
    }
    Ok(response)
}

fn refused(error: JobsError) -> Rejection {
    match error {
        JobsError::Full(limit) => Rejection::QueueFull { limit: Limit::as_str(limit) },
        JobsError::TooLarge(limit) => Rejection::BodyTooLarge { limit },
        JobsError::Store(error) => unavailable(error),
    }
}
