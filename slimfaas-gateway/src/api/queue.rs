//! `/async-functions/{name}/…`: where stored requests are, dead letters, and what to do about them.

use std::time::Duration;

use http::Response;
use serde::Serialize;

use super::{json, no_content, unavailable};
use crate::clock;
use crate::model::function::FunctionId;
use crate::proxy::body::Body;
use crate::proxy::rejection::Rejection;
use crate::proxy::router::QueueAction;
use crate::queue::command::{Command, Reply};
use crate::queue::element::{Attempt, ElementId, End, Phase};
use crate::queue::request::{self, StoredRequest};
use crate::store::{Found, Store};

/// Dead letters of one page.
const PAGE: usize = 100;

/// Elements that one command changes; more take several.
const BATCH: u32 = 1000;

/// For one command.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a body that are shown.
const BODY_SHOWN: usize = 4096;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Depths {
    name: String,
    namespace: String,
    ready: u64,
    running: u64,
    accepted: u64,
    waiting: u64,
    dead: u64,
    bytes: u64,
    dead_bytes: u64,
    slots: u32,
    paused: bool,
    /// Of those that wait for a slot.
    oldest_ready_seconds: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ElementView {
    id: String,
    state: &'static str,
    enqueued_at: String,
    bytes: u64,
    tries: u32,
    attempts: Vec<AttemptView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<RequestView>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AttemptView {
    try_number: u32,
    started_at: String,
    ended_at: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RequestView {
    method: String,
    path_and_query: String,
    headers: Vec<(String, String)>,
    body_bytes: u64,
    /// Its beginning, where it is text.
    body: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    dead_letters: Vec<ElementView>,
    /// `?after=` of the next page.
    next: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Changed {
    changed: u64,
}

/// The caller is allowed to see the queue of `function`.
pub(super) async fn answer(
    store: Option<&Store>,
    function: &FunctionId,
    action: QueueAction<'_>,
    query: Option<&str>,
) -> Result<Response<Body>, Rejection> {
    let store = store.ok_or(Rejection::QueueUnavailable)?;
    super::catch_up(store).await?;
    match action {
        QueueAction::Depths => depths(store, function).map(|depths| json(&depths)),
        QueueAction::Element(id) => element(store, function, id).map(|element| json(&element)),
        QueueAction::DeadLetter(id) => dead_letter(store, function, id).map(|element| json(&element)),
        QueueAction::DeadLetters => dead_letters(store, function, query).map(|page| json(&page)),
        QueueAction::Replay(id) => {
            let id = find_dead(store, function, id)?.id;
            dead_command(store, Command::Replay(id)).await
        }
        QueueAction::Delete(id) => {
            let id = find_dead(store, function, id)?.id;
            dead_command(store, Command::Delete(id)).await
        }
        QueueAction::ReplayAll => {
            all(store, || Command::ReplayAll { function: function.clone(), max: BATCH }).await.map(|n| json(&n))
        }
        QueueAction::DeleteAll => {
            all(store, || Command::DeleteDead { function: function.clone(), max: BATCH }).await.map(|n| json(&n))
        }
        QueueAction::Pause => pause(store, function, true).await,
        QueueAction::Resume => pause(store, function, false).await,
    }
}

fn depths(store: &Store, function: &FunctionId) -> Result<Depths, Rejection> {
    let oldest = store.oldest_ready_ms(function).map_err(unavailable)?;
    let queue = store.queue(function);
    let count = |read: fn(&crate::queue::function::FunctionQueue) -> u64| queue.as_ref().map_or(0, read);
    Ok(Depths {
        name: function.name.to_string(),
        namespace: function.namespace.to_string(),
        ready: count(|queue| queue.ready),
        running: count(|queue| queue.running),
        accepted: count(|queue| queue.accepted),
        waiting: count(|queue| queue.waiting),
        dead: count(|queue| queue.dead),
        bytes: count(|queue| queue.bytes),
        dead_bytes: count(|queue| queue.dead_bytes),
        slots: queue.as_ref().map_or(0, |queue| queue.slots),
        paused: queue.as_ref().is_some_and(|queue| queue.paused),
        oldest_ready_seconds: oldest.map(|ms| clock::unix_millis().saturating_sub(ms) / 1000),
    })
}

fn find(store: &Store, function: &FunctionId, id: &str) -> Result<Found, Rejection> {
    let id = ElementId::parse(id).ok_or(Rejection::NotFound)?;
    let found = store.element(id).map_err(unavailable)?;
    found.filter(|found| found.function == *function).ok_or(Rejection::NotFound)
}

fn find_dead(store: &Store, function: &FunctionId, id: &str) -> Result<Found, Rejection> {
    Some(find(store, function, id)?).filter(Found::is_dead).ok_or(Rejection::NotFound)
}

fn element(store: &Store, function: &FunctionId, id: &str) -> Result<ElementView, Rejection> {
    find(store, function, id).map(|found| view(&found))
}

fn dead_letter(store: &Store, function: &FunctionId, id: &str) -> Result<ElementView, Rejection> {
    let found = find_dead(store, function, id)?;
    let request = store.request(found.id).map_err(unavailable)?;
    let request = request.and_then(|bytes| StoredRequest::decode(bytes).ok()).map(request_view);
    Ok(ElementView { request, ..view(&found) })
}

fn dead_letters(store: &Store, function: &FunctionId, query: Option<&str>) -> Result<Page, Rejection> {
    let after = query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("after="));
    let cursor = match after {
        Some(text) => {
            text.parse().map_err(|_not_a_number| Rejection::BadRequest("after= must be a number that Next gave"))?
        }
        None => 0,
    };
    let (found, next) = store.dead_letters(function, cursor, PAGE).map_err(unavailable)?;
    Ok(Page { dead_letters: found.iter().map(view).collect(), next })
}

async fn command(store: &Store, command: Command) -> Result<Reply, Rejection> {
    store.propose(command, TIMEOUT).await.map_err(unavailable)
}

/// About one dead letter, which somebody else may have taken meanwhile.
async fn dead_command(store: &Store, about: Command) -> Result<Response<Body>, Rejection> {
    match command(store, about).await? {
        Reply::Stale => Err(Rejection::NotFound),
        _ => Ok(no_content()),
    }
}

/// In batches, so that no log entry takes long to apply.
async fn all(store: &Store, batch: impl Fn() -> Command) -> Result<Changed, Rejection> {
    let mut changed = 0;
    loop {
        match command(store, batch()).await? {
            Reply::Changed { count, more } => {
                changed += u64::from(count);
                if !more {
                    return Ok(Changed { changed });
                }
            }
            Reply::Done | Reply::Stale | Reply::Refused(_) => return Ok(Changed { changed }),
        }
    }
}

async fn pause(store: &Store, function: &FunctionId, paused: bool) -> Result<Response<Body>, Rejection> {
    command(store, Command::Pause { function: function.clone(), paused }).await.map(|_| no_content())
}

fn view(found: &Found) -> ElementView {
    let element = &found.element;
    let state = match element.phase {
        Phase::Ready => "Ready",
        Phase::Running { .. } => "Running",
        Phase::Accepted { .. } => "Accepted",
        Phase::Waiting => "Waiting",
        Phase::Dead { .. } => "Dead",
    };
    ElementView {
        id: found.id.to_string(),
        state,
        enqueued_at: time(element.enqueued_ms),
        bytes: element.bytes,
        tries: element.tries,
        attempts: element.history.iter().map(attempt_view).collect(),
        request: None,
    }
}

fn attempt_view(attempt: &Attempt) -> AttemptView {
    let (outcome, status, error) = match &attempt.end {
        End::Status(status) => ("Status", Some(*status), None),
        End::TimedOut => ("TimedOut", None, None),
        End::Failed(error) => ("Failed", None, Some(error.clone())),
        End::Returned => ("Returned", None, None),
        End::PeerLost => ("GatewayLost", None, None),
        End::NoCallback => ("NoCallback", None, None),
        End::CallbackFailed => ("CallbackFailed", None, None),
        End::CalledBack => ("CalledBack", None, None),
    };
    AttemptView {
        try_number: attempt.try_number,
        started_at: time(attempt.started_ms),
        ended_at: time(attempt.ended_ms),
        outcome,
        status,
        error,
    }
}

fn request_view(stored: StoredRequest) -> RequestView {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (body_bytes, body) = match &stored.body {
        request::Body::Inline(bytes) => {
            let start = &bytes[..bytes.len().min(BODY_SHOWN)];
            (bytes.len() as u64, std::str::from_utf8(start).ok().map(str::to_owned))
        }
        request::Body::File(file) => (file.bytes, None),
    };
    RequestView {
        method: stored.method,
        path_and_query: stored.path_and_query,
        // What lets its holder in is nobody else's business.
        headers: stored
            .headers
            .iter()
            .map(|(name, value)| {
                let secret = matches!(name.as_str(), "authorization" | "cookie" | "dpop");
                (name.clone(), if secret { "(hidden)".to_owned() } else { text(value) })
            })
            .collect(),
        body_bytes,
        body,
    }
}

fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
    time.map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)).unwrap_or_default()
}
