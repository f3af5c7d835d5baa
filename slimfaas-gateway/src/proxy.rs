//! The traffic plane: the life of a request, from its head to its outcome. `serve_request` reads top to bottom.
//!
//! Invariants: a request never waits for the cluster's API, every stage sees the same view, and nothing here is
//! shared between cores but the table and its counters.

pub mod admin;
pub mod body;
pub mod caller;
pub mod cors;
pub mod deliver;
pub mod enqueue;
pub mod jobs;
pub mod listener;
pub(crate) mod outcome;
mod pace;
mod preface;
pub mod publish;
pub mod rejection;
mod retry;
pub mod router;
pub mod slot;
pub mod upstream;
pub mod visibility;
pub mod wake;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header, request};
use hyper::body::Incoming;

use crate::clock::Tick;
use crate::config::{CorsOrigins, Limits};
use crate::model::function::FunctionId;
use crate::model::visibility::Visibility;
use crate::proxy::body::{Body, BodyLimits, RequestBody};
use crate::proxy::caller::Connection;
use crate::proxy::outcome::Outcome;
use crate::proxy::rejection::Rejection;
use crate::proxy::router::{FunctionCall, OwnRoute, QueueRoute, Route};
use crate::proxy::slot::Slot;
use crate::proxy::upstream::{Answered, Failure, Outbound};
use crate::table::start::ColdStart;
use crate::table::view::Function;
use crate::table::{CallerIndex, IdentityIndex, Table};
use crate::telemetry::traffic::TrafficStats;

/// A future of the core that polls it.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// The routes that the gateway answers itself; `api` implements them.
pub trait OwnRoutes: Send + Sync + 'static {
    fn answer<'a>(&'a self, route: OwnRoute<'a>) -> LocalFuture<'a, Response<Body>>;

    /// The caller may see and change the function's queue.
    fn answer_queue<'a>(&'a self, function: &'a FunctionId, route: QueueRoute<'a>) -> LocalFuture<'a, Response<Body>>;

    /// Decides itself what the caller may.
    fn answer_job<'a>(&'a self, call: jobs::JobCall<'a>) -> LocalFuture<'a, Response<Body>>;

    /// The largest body of such a call.
    fn job_request_bytes(&self) -> u64;
}

/// What all cores share.
pub struct Gateway {
    pub table: Arc<Table>,
    pub callers: Arc<dyn CallerIndex>,
    /// Where the kernel's word on a caller is understood; it then counts alone, where there is one.
    pub identities: Option<Arc<dyn IdentityIndex>>,
    pub wake: Arc<dyn wake::Wake>,
    pub own: Arc<dyn OwnRoutes>,
    /// Of asynchronous calls; `None`: this gateway stores nothing.
    pub intake: Option<Arc<dyn enqueue::Intake>>,
    pub events: Arc<publish::Events>,
    /// `None`: nobody is an administrator.
    pub admin: Option<admin::AdminToken>,
    pub cors: CorsOrigins,
    pub limits: Limits,
    pub stats: Arc<TrafficStats>,
    /// The process is about to end: clients are told to connect elsewhere.
    pub leaving: AtomicBool,
}

/// One core's part: what all share, and its own connections to functions.
pub(crate) struct Core {
    pub(crate) gateway: Arc<Gateway>,
    pool: Rc<upstream::Pool>,
}

/// Endpoints that a request is offered to before it is given up, and the wait between two rounds of them
/// (reference §1.7: up to 10 attempts, 100 ms apart).
const OFFERS_MAX: u32 = 10;
const OFFER_PAUSE: Duration = Duration::from_millis(100);

/// From a request's head to the head of its response. The body, and the outcome with it, goes on after this.
pub(crate) async fn serve_request(connection: Rc<Connection>, request: Request<Incoming>) -> Response<Body> {
    let gateway = &connection.core.gateway;
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let origin = head.headers.get(header::ORIGIN).cloned();
    let is_http1 = head.version < Version::HTTP_2;
    let outcome = Outcome::begin(&connection, &head, &target);
    if let Some(preflight) = cors::preflight(&gateway.cors, &head) {
        return outcome.answer(preflight);
    }
    let mut response = match well_formed(&head).and_then(|()| router::route(&head.method, &target)) {
        Ok(Route::Function(call)) => serve_call(&connection, call, head, body, outcome).await,
        // Boxed, so that synchronous calls do not carry the room for them.
        Ok(Route::Async(call)) => Box::pin(enqueue::serve(&connection, call, head, body, outcome)).await,
        Ok(Route::Callback(callback)) => Box::pin(enqueue::serve_callback(&connection, callback, outcome)).await,
        Ok(Route::Event(call)) => Box::pin(publish::serve(&connection, call, head, body, outcome)).await,
        Ok(Route::Queue(route)) => {
            let function = gateway.table.view().route(route.name).cloned();
            let is_admin = gateway.admin.as_ref().is_some_and(|admin| admin.is_shown_by(&head.headers));
            let admitted = match function {
                Some(function) if is_admin => Ok(function),
                function => admit_inside(&connection, function).await,
            };
            match admitted {
                Ok(function) => outcome.answer(gateway.own.answer_queue(&function.id, route).await),
                Err(rejection) => outcome.reject(rejection),
            }
        }
        Ok(Route::Job(route)) => Box::pin(jobs::serve(&connection, route, head, body, outcome)).await,
        Ok(Route::Own(route)) => outcome.answer(gateway.own.answer(route).await),
        Err(rejection) => outcome.reject(rejection),
    };
    if let Some(origin) = origin {
        cors::annotate(&gateway.cors, &origin, response.headers_mut());
    }
    // HTTP/2 clients are told by GOAWAY, which loses nothing.
    if is_http1 && gateway.leaving.load(Ordering::Relaxed) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// One call of a function, stage by stage.
async fn serve_call(
    connection: &Connection,
    call: FunctionCall<'_>,
    mut head: request::Parts,
    body: Incoming,
    mut outcome: Outcome,
) -> Response<Body> {
    let function = match admit(connection, &call).await {
        Ok(function) => function,
        Err(rejection) => return outcome.reject(rejection),
    };
    outcome.concerns(&function);
    let limits = &connection.core.gateway.limits;
    if declared_length(&head).is_some_and(|length| length > limits.body_bytes) {
        return outcome.reject(Rejection::BodyTooLarge { limit: limits.body_bytes });
    }
    upstream::prepare(&mut head, call.path_offset, connection);
    let outbound = Outbound::new(head, RequestBody::new(body, body_limits(limits)));
    let now = Tick::of(outcome.started);
    let forwarded = if function.spec.sync_calls.retry_delays.is_empty() {
        forward(&connection.core, function, outbound, now).await
    } else {
        // Boxed: few functions have retries, and every connection would carry the room for them.
        Box::pin(retry::forward_with_retries(&connection.core, function, outbound, now)).await
    };
    match forwarded {
        Ok(Forwarded { answered, slot, cold_start }) => {
            let mut response = upstream::relay(answered, slot, outcome);
            if let Some(receipt) = cold_start {
                annotate_cold_start(&receipt, &mut response);
            }
            response
        }
        Err(Failure::Sent(rejection)) => outcome.reject(rejection),
        Err(Failure::Unsent(_)) => outcome.reject(Rejection::ConnectFailed),
        Err(Failure::ClientGone) => outcome.abandon(),
    }
}

/// The function, if this caller may call this path of it.
async fn admit(connection: &Connection, call: &FunctionCall<'_>) -> Result<Arc<Function>, Rejection> {
    let function = connection.core.gateway.table.view().route(call.name).cloned();
    let visibility = match &function {
        Some(function) => visibility::of_path(&function.spec, call.path),
        None => Visibility::Private,
    };
    if let (Some(function), Visibility::Public) = (&function, visibility) {
        return Ok(Arc::clone(function));
    }
    admit_inside(connection, function).await
}

/// The function, if this caller may call its private paths.
async fn admit_inside(connection: &Connection, function: Option<Arc<Function>>) -> Result<Arc<Function>, Rejection> {
    // Worked out for unknown functions too, so that the time of the answer does not tell them from private ones.
    let caller = connection.caller().await;
    let function = function.ok_or(Rejection::NotFound)?;
    match visibility::decide(Visibility::Private, &caller, &function.id, &function.spec) {
        Ok(_permit) => Ok(function),
        Err(visibility::Denied) => Err(Rejection::NotFound),
    }
}

/// The head of a function's answer, with what goes on until its end.
struct Forwarded {
    answered: Answered,
    slot: Slot,
    cold_start: Option<Box<ColdStart>>,
}

/// Tells the client where the time of a cold start went. The function may have said something of its own.
fn annotate_cold_start(receipt: &ColdStart, response: &mut Response<Body>) {
    if let Ok(value) = HeaderValue::from_str(&receipt.server_timing()) {
        response.headers_mut().append(HeaderName::from_static("server-timing"), value);
    }
}

/// Wake, slot, upstream: again with another endpoint while nothing of the request has been sent.
async fn forward(
    core: &Core,
    mut function: Arc<Function>,
    mut outbound: Outbound,
    now: Tick,
) -> Result<Forwarded, Failure> {
    let gateway = &*core.gateway;
    let limits = &gateway.limits;
    let mut refusals = 0;
    let mut cold_start = None;
    loop {
        let (waiting_max, timeout) = (limits.waiting_per_function, function.spec.sync_calls.http_timeout);
        let ready = wake::ready(&gateway.table, &*gateway.wake, function, waiting_max, timeout).await?;
        function = ready.function;
        if let Some(receipt) = ready.cold_start {
            gateway.stats.started_cold(&receipt);
            cold_start = Some(receipt);
        }
        let slot = slot::acquire(&gateway.table, &function, now, waiting_max, limits.slot_timeout).await?;
        if let Some(slot) = slot {
            let timeout = function.spec.sync_calls.http_timeout;
            match upstream::send(&core.pool, &slot.endpoint, outbound, timeout).await {
                Ok(answered) => return Ok(Forwarded { answered, slot, cold_start }),
                Err(Failure::Unsent(back)) => outbound = *back,
                Err(failure) => return Err(failure),
            }
            refusals += 1;
            if refusals >= OFFERS_MAX {
                return Err(Failure::Unsent(Box::new(outbound)));
            }
            drop(slot);
            if refusals as usize >= function.endpoints.len() {
                // All have refused: the view is about to change, or the function is overrun.
                let _changed = tokio::time::timeout(OFFER_PAUSE, function.live.changed()).await.is_ok();
            }
        }
        let current = gateway.table.view().function(&function.id).cloned();
        function = current.ok_or(Rejection::FunctionRemoved)?;
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Sent(rejection)
    }
}

/// What hyper lets through and we do not: a target or a `Host` that two readers could understand differently.
fn well_formed(head: &request::Parts) -> Result<(), Rejection> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(Rejection::BadRequest("more than one Host header")),
        (None, None) if head.version == Version::HTTP_11 => Err(Rejection::BadRequest("no Host header")),
        _ => Ok(()),
    }
}

fn declared_length(head: &request::Parts) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn body_limits(limits: &Limits) -> BodyLimits {
    BodyLimits {
        bytes: limits.body_bytes,
        bytes_per_second: limits.body_bytes_per_second,
        grace: limits.body_rate_grace,
    }
}
