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
use crate::proxy::body::{Body, BodyLimits, RequestBody};
use crate::proxy::caller::Connection;
use crate::proxy::outcome::Outcome;
use crate::proxy::rejection::Rejection;
use crate::proxy::router::{Callback, FunctionCall};
use crate::proxy::upstream::{self, Failure};
use crate::table::view::Function;

/// The id of the stored element, as callers and functions see it.
pub const ELEMENT_ID: HeaderName = HeaderName::from_static("slimfaas-element-id");

/// Largest body that is stored in the log: an entry of the log holds up those behind it. With the headers it stays
/// within what the store takes. Larger ones are stored in files.
pub const LOGGED_BODY_BYTES_MAX: usize = 192 * 1024;

/// A request to be delivered later, as the function shall get it but for the headers of each delivery.
pub struct Accepted {
    pub function: Arc<Function>,
    pub method: Method,
    pub target: PathAndQuery,
    pub headers: HeaderMap,
    /// Empty for one that was uploaded.
    pub body: Bytes,
}

/// Stores requests durably. Cheap to ask, never blocks a core.
pub trait Intake: Send + Sync + 'static {
    /// The largest body that can be stored.
    fn body_bytes_max(&self) -> u64;

    /// Whether another request of the function, with a body of so many bytes, would be taken: asked before the body is
    /// read.
    fn has_room(&self, function: &FunctionId, bytes: u64) -> Result<(), Rejection>;

    /// Resolves once the request is on the disks of a majority; with the id that it has there.
    fn store(&self, request: Accepted) -> IntakeFuture<'_, String>;

    /// Begins to store a body that is too large for the log. `declared`: its length, if the client says it.
    fn upload(&self, function: FunctionId, declared: Option<u64>) -> IntakeFuture<'_, Box<dyn BodyUpload>>;

    /// A function has said how a request ended that it had answered with 202. Unknown ids are no error.
    fn called_back<'a>(&'a self, element: &'a str, succeeded: bool) -> IntakeFuture<'a, ()>;
}

/// A body on its way to where it is stored. Dropped, it leaves nothing.
pub trait BodyUpload: Send {
    /// Waits while what came before is being written.
    fn write(&mut self, data: Bytes) -> IntakeFuture<'_, ()>;

    /// The body is whole; stores its request, as [`Intake::store`] does.
    fn finish(self: Box<Self>, request: Accepted) -> IntakeFuture<'static, String>;
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
    let (limit, declared) = (gateway.limits.body_bytes.min(intake.body_bytes_max()), declared_length(&head));
    if declared.is_some_and(|length| length > limit) {
        return outcome.reject(Rejection::BodyTooLarge { limit });
    }
    if let Err(rejection) = intake.has_room(&function.id, declared.unwrap_or(0)) {
        return outcome.reject(rejection);
    }
    let body = RequestBody::new(body, BodyLimits { bytes: limit, ..body_limits(&gateway.limits) });
    upstream::prepare(&mut head, call.path_offset, connection);
    let target = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let request = Accepted { function, method: head.method, target, headers: head.headers, body: Bytes::new() };
    let is_large = declared.is_some_and(|length| length > LOGGED_BODY_BYTES_MAX as u64);
    // What says that it is large is not read before there is a place for it.
    let read = if is_large { Ok(Err(body)) } else { body.whole_within(LOGGED_BODY_BYTES_MAX).await };
    let stored = match read {
        Ok(Ok(body)) => intake.store(Accepted { body, ..request }).await.map_err(Failure::from),
        // Boxed, so that small bodies do not carry the room for it.
        Ok(Err(body)) => Box::pin(upload(&**intake, request, declared, body)).await,
        Err(fault) => Err(upstream::failure_within_body(fault.kind())),
    };
    match stored {
        Ok(id) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::ACCEPTED;
            let id = HeaderValue::try_from(id).expect("an id is hexadecimal digits and dashes");
            response.headers_mut().insert(ELEMENT_ID, id);
            outcome.answer(response)
        }
        Err(failure) => outcome.fail(failure),
    }
}

/// Stores a request with its body in a file.
async fn upload(
    intake: &dyn Intake,
    request: Accepted,
    declared: Option<u64>,
    mut body: RequestBody,
) -> Result<String, Failure> {
    let mut upload = intake.upload(request.function.id.clone(), declared).await?;
    loop {
        match body.next_data().await {
            Ok(Some(data)) => upload.write(data).await?,
            Ok(None) => return Ok(upload.finish(request).await?),
            Err(fault) => return Err(upstream::failure_within_body(fault.kind())),
        }
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
