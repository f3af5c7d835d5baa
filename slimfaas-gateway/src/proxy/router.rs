//! Method and path to a closed set of routes.

use http::Method;
use http::uri::PathAndQuery;

use crate::proxy::rejection::Rejection;

/// Methods that a function may be called with (reference §1.6).
pub const FUNCTION_METHODS: &str = "GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS";

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    Function(FunctionCall<'a>),
    /// The same, but stored and delivered later.
    Async(FunctionCall<'a>),
    Callback(Callback<'a>),
    Queue(QueueRoute<'a>),
    Event(EventCall<'a>),
    Job(JobRoute<'a>),
    Own(OwnRoute<'a>),
}

/// A call of a function: `/function/{name}{path}{?query}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionCall<'a> {
    /// `name`, or `name.namespace`.
    pub name: &'a str,
    /// What the function sees, raw: starts with a slash, no query.
    pub path: &'a str,
    /// Where `path` starts in the request's path.
    pub path_offset: usize,
}

/// `/async-function-callback/{name}/{element}/{status}`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callback<'a> {
    pub name: &'a str,
    pub element: &'a str,
    pub status: &'a str,
}

/// `/publish-event/{event}{path}{?query}`, or `/events{?query}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCall<'a> {
    /// As it was sent; `None`: the CloudEvent's type is its name.
    pub event: Option<&'a str>,
    /// What subscribers see, raw: starts with a slash, no query.
    pub path: &'a str,
    /// Where `path` starts in the request's path.
    pub path_offset: usize,
}

/// `/async-functions/{name}/…`: for callers that may call the function's private paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRoute<'a> {
    pub name: &'a str,
    pub action: QueueAction<'a>,
    pub query: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueAction<'a> {
    Depths,
    Element(&'a str),
    DeadLetters,
    DeadLetter(&'a str),
    Replay(&'a str),
    ReplayAll,
    Delete(&'a str),
    DeleteAll,
    Pause,
    Resume,
}

/// `/job/{name}/…`, `/job-schedules/{name}/…` and `/jobs/status` (reference §1.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobRoute<'a> {
    /// As written; empty for all of them.
    pub name: &'a str,
    pub action: JobAction<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobAction<'a> {
    StatusAll,
    List,
    Run,
    Delete(&'a str),
    Logs { id: &'a str, follow: bool },
    Schedules,
    Schedule,
    Unschedule(&'a str),
}

/// Everything that the gateway answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnRoute<'a> {
    StatusAll,
    Status { name: &'a str },
    WakeAll,
    Wake { name: &'a str },
    Health,
    Ready,
    Metrics,
}

/// Routes are case sensitive and take no percent-encoding: what is not exactly one of them is not found.
pub fn route<'a>(method: &Method, target: &'a PathAndQuery) -> Result<Route<'a>, Rejection> {
    let path = target.path();
    if let Some(rest) = path.strip_prefix("/function/") {
        let call = function_call(path, rest)?;
        return allow(method, FUNCTION_METHODS).map(|()| Route::Function(call));
    }
    if let Some(rest) = path.strip_prefix("/async-function/") {
        let call = function_call(path, rest)?;
        return allow(method, FUNCTION_METHODS).map(|()| Route::Async(call));
    }
    if let Some(rest) = path.strip_prefix("/async-function-callback/") {
        let mut parts = rest.split('/');
        let (Some(name), Some(element), Some(status), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Rejection::NotFound);
        };
        return allow(method, "POST").map(|()| Route::Callback(Callback { name, element, status }));
    }
    if let Some(rest) = path.strip_prefix("/async-functions/") {
        return queue_route(method, rest, target.query()).map(Route::Queue);
    }
    if let Some(rest) = path.strip_prefix("/publish-event/") {
        let FunctionCall { name, path, path_offset } = function_call(path, rest)?;
        let call = EventCall { event: Some(name), path, path_offset };
        return allow(method, FUNCTION_METHODS).map(|()| Route::Event(call));
    }
    if path == "/events" {
        let call = EventCall { event: None, path: "/", path_offset: path.len() };
        return allow(method, "POST").map(|()| Route::Event(call));
    }
    if let Some(route) = job_route(method, target) {
        return route.map(Route::Job);
    }
    let (route, allowed): (OwnRoute<'a>, &'static str) = match path {
        "/status-functions" => (OwnRoute::StatusAll, "GET, HEAD"),
        "/wake-functions" => (OwnRoute::WakeAll, "GET, POST"),
        "/health" => (OwnRoute::Health, "GET, HEAD"),
        "/ready" => (OwnRoute::Ready, "GET, HEAD"),
        "/metrics" => (OwnRoute::Metrics, "GET, HEAD"),
        _ => match named(path) {
            Some(route) => route,
            None => return Err(Rejection::NotFound),
        },
    };
    allow(method, allowed).map(|()| Route::Own(route))
}

fn named(path: &str) -> Option<(OwnRoute<'_>, &'static str)> {
    let single = |prefix: &str| path.strip_prefix(prefix).filter(|name| !name.is_empty() && !name.contains('/'));
    if let Some(name) = single("/status-function/") {
        return Some((OwnRoute::Status { name }, "GET, HEAD"));
    }
    single("/wake-function/").map(|name| (OwnRoute::Wake { name }, "GET, POST"))
}

fn queue_route<'a>(method: &Method, rest: &'a str, query: Option<&'a str>) -> Result<QueueRoute<'a>, Rejection> {
    let (name, rest) = rest.split_once('/').filter(|(name, _)| !name.is_empty()).ok_or(Rejection::NotFound)?;
    let parts: Vec<&str> = rest.split('/').collect();
    let one = |allowed, action| allow(method, allowed).map(|()| action);
    let read_or_delete = |read, delete| {
        allow(method, "GET, HEAD, DELETE").map(|()| if method == Method::DELETE { delete } else { read })
    };
    let action = match *parts.as_slice() {
        ["queue"] => one("GET, HEAD", QueueAction::Depths),
        ["elements", id] => one("GET, HEAD", QueueAction::Element(id)),
        ["dead-letters"] => read_or_delete(QueueAction::DeadLetters, QueueAction::DeleteAll),
        ["dead-letters", "replay"] => one("POST", QueueAction::ReplayAll),
        ["dead-letters", id] => read_or_delete(QueueAction::DeadLetter(id), QueueAction::Delete(id)),
        ["dead-letters", id, "replay"] => one("POST", QueueAction::Replay(id)),
        ["pause"] => one("POST", QueueAction::Pause),
        ["resume"] => one("POST", QueueAction::Resume),
        _ => Err(Rejection::NotFound),
    }?;
    Ok(QueueRoute { name, action, query })
}

/// `None`: it is not about jobs.
fn job_route<'a>(method: &Method, target: &'a PathAndQuery) -> Option<Result<JobRoute<'a>, Rejection>> {
    let path = target.path();
    let one = |allowed, name, action| allow(method, allowed).map(|()| JobRoute { name, action });
    let read_or_post = |name, read, post| {
        let action = if method == Method::POST { post } else { read };
        one("GET, HEAD, POST", name, action)
    };
    if matches!(path, "/jobs/status" | "/status-jobs") {
        return Some(one("GET, HEAD", "", JobAction::StatusAll));
    }
    let (rest, is_schedule) = match (path.strip_prefix("/job/"), path.strip_prefix("/job-schedules/")) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        (None, None) => return None,
    };
    let parts: Vec<&str> = rest.split('/').collect();
    let follow = target
        .query()
        .is_some_and(|query| query.split('&').any(|pair| matches!(pair, "follow" | "follow=true" | "follow=1")));
    Some(match (parts.as_slice(), is_schedule) {
        ([""] | ["", ..], _) => Err(Rejection::NotFound),
        ([name], false) => read_or_post(name, JobAction::List, JobAction::Run),
        ([name, id], false) => one("DELETE", name, JobAction::Delete(id)),
        ([name, id, "logs"], false) => one("GET, HEAD", name, JobAction::Logs { id, follow }),
        ([name], true) => read_or_post(name, JobAction::Schedules, JobAction::Schedule),
        ([name, id], true) => one("DELETE", name, JobAction::Unschedule(id)),
        _ => Err(Rejection::NotFound),
    })
}

fn function_call<'a>(path: &'a str, rest: &'a str) -> Result<FunctionCall<'a>, Rejection> {
    let name_end = rest.find('/').unwrap_or(rest.len());
    let (name, inner) = rest.split_at(name_end);
    if name.is_empty() {
        return Err(Rejection::NotFound);
    }
    let path_offset = path.len() - inner.len();
    let inner = if inner.is_empty() { "/" } else { inner };
    Ok(FunctionCall { name, path: inner, path_offset })
}

fn allow(method: &Method, allowed: &'static str) -> Result<(), Rejection> {
    if allowed.split(", ").any(|name| name == method.as_str()) {
        Ok(())
    } else {
        Err(Rejection::MethodNotAllowed { allow: allowed })
    }
}
