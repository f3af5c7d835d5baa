//! Sends a request to one endpoint and streams the answer back, over connections that this core keeps.
//!
//! An HTTP/1.1 connection is driven by the task of the request that uses it: no task of its own, no channel
//! between cores. HTTP/2 connections are shared by requests and therefore have a task.

mod h1;
mod h2;
mod headers;
mod pool;
mod response;
mod upgrade;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode, Uri, request};
use hyper::body::{Body as HttpBody, Incoming};

pub(super) use h2::LocalExecutor;
pub(super) use pool::{Pool, PoolLimits};
pub(super) use response::ResponseBody;

use crate::model::spec::UpstreamProtocol;
use crate::proxy::body::{Body, BodyFault, FaultKind, FaultNote, RequestBody};
use crate::proxy::caller::Connection;
use crate::proxy::outcome::Outcome;
use crate::proxy::rejection::Rejection;
use crate::proxy::slot::Slot;
use crate::table::view::Endpoint;

/// A request that has not been sent yet; can be sent to another endpoint if sending it did not begin.
pub(super) struct Outbound {
    head: request::Parts,
    body: RequestBody,
    /// The target before an endpoint's base path was put in front of it.
    inner: Option<Uri>,
}

/// Of an answer that nobody wants. A new connection is cheaper than more than this.
const DISCARDED_BYTES_MAX: u64 = 256 * 1024;

/// Why there is no response.
pub(super) enum Failure {
    /// Nothing of the request was sent: another endpoint may take it.
    Unsent(Box<Outbound>),
    /// The request, or a part of it, may have been seen by the function.
    Sent(Rejection),
    /// The client is gone, so nobody waits for an answer.
    ClientGone,
}

/// The response's head has arrived; `relay` turns it into what the client gets.
pub(super) struct Answered {
    response: Response<Incoming>,
    lease: Option<pool::Lease>,
    /// The request's body leaves its fault here, if the connection would not tell.
    note: Option<FaultNote>,
    tunnel: Option<upgrade::Tunnel>,
}

impl Answered {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Reads the answer's body to its end, so that the connection can be used again. What is long costs the connection.
    pub(super) async fn finish(self) {
        let Self { response, lease, .. } = self;
        let mut body = response::Discarded::new(response.into_body(), lease, DISCARDED_BYTES_MAX);
        std::future::poll_fn(|cx| body.poll(cx)).await;
    }

    /// The function switches to another protocol, which its client has not asked for.
    fn is_unasked_switch(&self) -> bool {
        self.tunnel.is_none() && self.response.status() == StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Rewrites the head for the function, whichever endpoint will get it. `path_offset` is where the function's own path starts.
pub(super) fn prepare(head: &mut request::Parts, path_offset: usize, connection: &Connection) {
    upgrade::remember(head);
    let target = head.uri.path_and_query().expect("a routed request has a path");
    let inner = headers::inner_target(target, path_offset);
    headers::prepare_request(&mut head.headers, head.uri.authority(), connection.peer_header());
    head.uri = inner;
}

/// The same for a request that goes to many: none of them can take over its connection.
pub(super) fn prepare_copy(head: &mut request::Parts, path_offset: usize, connection: &Connection) {
    prepare(head, path_offset, connection);
    head.extensions.clear();
}

/// Sends to an endpoint, of which the caller holds a slot, waiting for the response's head for at most `timeout`.
pub(super) async fn send(
    pool: &Rc<Pool>,
    endpoint: &Arc<Endpoint>,
    mut outbound: Outbound,
    timeout: Duration,
) -> Result<Answered, Failure> {
    if let Some(base) = &endpoint.base_path {
        // Kept as it was, for the next endpoint that it may be offered to.
        let inner = outbound.inner.get_or_insert_with(|| outbound.head.uri.clone());
        outbound.head.uri = headers::below(base, inner);
    }
    let sending = async {
        match (endpoint.protocol, upgrade::wanted(&outbound.head)) {
            (UpstreamProtocol::H2c, _) => h2::send(pool, endpoint, outbound).await,
            (UpstreamProtocol::Http1, true) => upgrade::send(pool, endpoint, outbound).await,
            (UpstreamProtocol::Http1, false) => h1::send(pool, endpoint, outbound).await,
        }
    };
    match tokio::time::timeout(timeout, sending).await {
        // Its client waits for an answer, and would take what follows for one.
        Ok(Ok(answered)) if answered.is_unasked_switch() => Err(Failure::Sent(Rejection::ResponseFailed)),
        Ok(result) => result,
        Err(_elapsed) => Err(Failure::Sent(Rejection::ResponseTimeout { after: timeout })),
    }
}

/// What the client gets of an answer. The slot and the outcome live until its body has been relayed.
pub(super) fn relay(answered: Answered, slot: Slot, mut outcome: Outcome) -> Response<Body> {
    let Answered { response, lease, note, tunnel } = answered;
    let (mut head, incoming) = response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    outcome.responds(head.status);
    if let Some(tunnel) = tunnel {
        return tunnel.open(head, slot, outcome);
    }
    Response::from_parts(head, Body::function(ResponseBody::new(incoming, lease, note, slot, outcome)))
}

/// What an error of a connection in use means for the request.
fn failure_of(error: &hyper::Error) -> Failure {
    match BodyFault::behind(error) {
        Some(fault) => failure_within_body(fault.kind()),
        None => Failure::Sent(Rejection::ResponseFailed),
    }
}

pub(super) fn failure_within_body(fault: FaultKind) -> Failure {
    match fault {
        FaultKind::TooLarge(limit) => Failure::Sent(Rejection::BodyTooLarge { limit }),
        FaultKind::TooSlow => Failure::Sent(Rejection::BodyTooSlow),
        FaultKind::Client => Failure::ClientGone,
    }
}

impl Outbound {
    pub(super) fn new(head: request::Parts, body: RequestBody) -> Self {
        Self { head, body, inner: None }
    }

    pub(super) fn wants_upgrade(&self) -> bool {
        upgrade::wanted(&self.head)
    }

    /// Reads the body ahead, up to `limit` bytes. True: the request can be sent `again`.
    pub(super) async fn keep(&mut self, limit: usize) -> Result<bool, Failure> {
        self.body.read_ahead(limit).await.map_err(|fault| failure_within_body(fault.kind()))
    }

    /// Whether sending it twice does no more than sending it once (RFC 9110 §9.2.2), and takes no body.
    fn is_repeatable(&self) -> bool {
        self.head.method.is_idempotent() && self.body.is_end_stream()
    }

    /// A second copy of a kept or repeatable request.
    pub(super) fn again(&self) -> Self {
        Self { head: self.head.clone(), body: self.body.again(), inner: self.inner.clone() }
    }

    /// For a connection, and what `from_request` needs if that gives it back.
    fn into_request(self) -> (Request<RequestBody>, Option<Uri>) {
        (Request::from_parts(self.head, self.body), self.inner)
    }

    /// From what a connection gave back unsent.
    fn from_request(request: Request<RequestBody>, inner: Option<Uri>) -> Self {
        let (head, body) = request.into_parts();
        Self { head, body, inner }
    }
}
