//! Jobs' routes on their way to who answers them: the caller is known, and the body read.

use bytes::Bytes;
use http::{Response, request};
use hyper::body::Incoming;

use super::{body_limits, declared_length};
use crate::model::caller::Caller;
use crate::proxy::body::{Body, BodyLimits, RequestBody};
use crate::proxy::caller::Connection;
use crate::proxy::outcome::Outcome;
use crate::proxy::rejection::Rejection;
use crate::proxy::router::{JobAction, JobRoute};
use crate::proxy::upstream;

/// One request about jobs.
pub struct JobCall<'a> {
    pub route: JobRoute<'a>,
    pub caller: Caller,
    /// Shown the administrators' token.
    pub is_admin: bool,
    /// Empty where the route takes none.
    pub body: Bytes,
}

pub(super) async fn serve(
    connection: &Connection,
    route: JobRoute<'_>,
    head: request::Parts,
    body: Incoming,
    outcome: Outcome,
) -> Response<Body> {
    let gateway = &connection.core.gateway;
    let takes_body = matches!(route.action, JobAction::Run | JobAction::Schedule);
    let body = if takes_body {
        let limit = gateway.own.job_request_bytes();
        if declared_length(&head).is_some_and(|length| length > limit) {
            return outcome.reject(Rejection::BodyTooLarge { limit });
        }
        let body = RequestBody::new(body, BodyLimits { bytes: limit, ..body_limits(&gateway.limits) });
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        match body.whole_within(most).await {
            Ok(Ok(body)) => body,
            Ok(Err(_more)) => return outcome.reject(Rejection::BodyTooLarge { limit }),
            Err(fault) => return outcome.fail(upstream::failure_within_body(fault.kind())),
        }
    } else {
        Bytes::new()
    };
    let caller = connection.caller().await;
    let is_admin = gateway.admin.as_ref().is_some_and(|admin| admin.is_shown_by(&head.headers));
    outcome.answer(gateway.own.answer_job(JobCall { route, caller, is_admin, body }).await)
}
