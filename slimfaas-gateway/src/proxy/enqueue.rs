//! Asynchronous calls: the request is stored before the caller hears 202; who delivers it is the queue's business.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, request};
use hyper::body::Incoming;

use super::{admit, body_limits, declared_length};
use crate::model::function::FunctionId;
use crate::proxy::body::{Body, RequestBody};
use crate::proxy::caller::Connection;
use crate::proxy::outcome::Outcome;
use crate::proxy::rejection::Rejection;
use crate::proxy::router::{Callback, FunctionCall};
use crate::proxy::upstream::{self, Failure};
use crate::table::view::Function;

/// The id of the stored element, as callers and functions see it.
pub const ELEMENT_ID: HeaderName = HeaderName::from_static("slimfaas-element-id");

/// Largest body of a stored request: an entry of the log holds up those behind it. With the headers it stays within what
/// the store takes.
pub const BODY_BYTES_MAX: usize = 192 * 1024;

/// A request to be delivered later, as the function shall get it but for the headers of each delivery.
pub struct Accepted {
    pub function: Arc<Function>,
    pub method: Method,
    pub target: PathAndQuery,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Stores requests durably. Cheap to ask, never blocks a core.
pub trait Intake: Send + Sync + 'static {
    /// Whether another request of the function would be taken: asked before its body is read.
    fn has_room(&self, function: &FunctionId) -> Result<(), Rejection>;

    /// Resolves once the request is on the disks of a majority; with the id that it has there.
    fn store(&self, request: Accepted) -> IntakeFuture<'_, String>;

    /// A function has said how a request ended that it had answered with 202. Unknown ids are no error.
    fn called_back<'a>(&'a self, element: &'a str, succeeded: bool) -> IntakeFuture<'a, ()>;
}

pub type IntakeFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Rejection>> + Send + 'a>>;

/// `/async-function/{name}/…`
pub(super) async fn serve(
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
    let gateway = &connection.core.gateway;
    let Some(intake) = &gateway.intake else { return outcome.reject(Rejection::QueueUnavailable) };
    let limit = BODY_BYTES_MAX as u64;
    if declared_length(&head).is_some_and(|length| length > limit) {
        return outcome.reject(Rejection::BodyTooLarge { limit });
    }
    if let Err(rejection) = intake.has_room(&function.id) {
        return outcome.reject(rejection);
    }
    let mut limits = body_limits(&gateway.limits);
    limits.bytes = limits.bytes.min(limit);
    let body = match RequestBody::new(body, limits).whole().await {
        Ok(body) => body,
        Err(fault) => match upstream::failure_within_body(fault.kind()) {
            Failure::Sent(rejection) => return outcome.reject(rejection),
            Failure::Unsent(_) | Failure::ClientGone => return outcome.abandon(),
        },
    };
    upstream::prepare(&mut head, call.path_offset, connection);
    let target = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let request = Accepted { function, method: head.method, target, headers: head.headers, body };
    match intake.store(request).await {
        Ok(id) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::ACCEPTED;
            let id = HeaderValue::try_from(id).expect("an id is hexadecimal digits and dashes");
            response.headers_mut().insert(ELEMENT_ID, id);
            outcome.answer(response)
        }
        Err(rejection) => outcome.reject(rejection),
    }
}

/// `/async-function-callback/{name}/{element}/{status}` (reference §1.9). Its body is of no interest.
pub(super) async fn serve_callback(
    connection: &Connection,
    callback: Callback<'_>,
    outcome: Outcome,
) -> Response<Body> {
    let call = FunctionCall { name: callback.name, path: "/", path_offset: 0 };
    if let Err(rejection) = admit(connection, &call).await {
        return outcome.reject(rejection);
    }
    let Some(intake) = &connection.core.gateway.intake else { return outcome.reject(Rejection::QueueUnavailable) };
    let succeeded = callback.status.eq_ignore_ascii_case("success");
    match intake.called_back(callback.element, succeeded).await {
        Ok(()) => outcome.answer(Response::new(Body::empty())),
        Err(rejection) => outcome.reject(rejection),
    }
}
