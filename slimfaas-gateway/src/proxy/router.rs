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
