//! How a request ended: one guard per request writes its log line and its metrics, exactly once.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, Response, Version, request};

use crate::clock::{self, Instant, Tick};
use crate::drain;
use crate::proxy::body::Body;
use crate::proxy::caller::Connection;
use crate::proxy::rejection::{Rejection, Side};
use crate::proxy::upstream::Failure;
use crate::table::view::Function;

/// The status that is logged and counted when the client has gone away (as nginx has it).
const CLIENT_GONE: u16 = 499;

/// Dropped without being settled means that the client went away: hyper drops a request's future for no other reason.
pub(crate) struct Outcome {
    connection: Rc<Connection>,
    function: Option<Arc<Function>>,
    method: Method,
    is_http2: bool,
    /// Only kept when the access log is on.
    target: Option<PathAndQuery>,
    pub(super) started: Instant,
    status: u16,
    settled: bool,
}

/// What the log line says besides the status.
#[derive(Clone, Copy)]
enum End<'a> {
    Complete,
    Rejected(&'a Rejection),
    ClientGone,
    /// The function's response broke off after its head.
    Cut(&'a hyper::Error),
}

impl Outcome {
    pub(super) fn begin(connection: &Rc<Connection>, head: &request::Parts, target: &PathAndQuery) -> Self {
        connection.core.gateway.stats.in_progress.fetch_add(1, Ordering::Relaxed);
        connection.pace.request_began();
        Self {
            connection: Rc::clone(connection),
            function: None,
            method: head.method.clone(),
            is_http2: head.version == Version::HTTP_2,
            target: tracing::enabled!(target: "access", tracing::Level::DEBUG).then(|| target.clone()),
            started: clock::now(),
            status: CLIENT_GONE,
            settled: false,
        }
    }

    /// The request is a permitted call of `function`.
    pub(super) fn concerns(&mut self, function: &Arc<Function>) {
        self.connection.core.gateway.wake.called(function, Tick::of(self.started));
        self.function = Some(Arc::clone(function));
    }

    pub(super) fn drain(&self) -> drain::Watch {
        self.connection.drain.clone()
    }

    /// The head that goes to the client has this status; the body is still to come.
    pub(super) fn responds(&mut self, status: http::StatusCode) {
        self.status = status.as_u16();
    }

    /// A response of the gateway's own.
    pub(super) fn answer(mut self, response: Response<Body>) -> Response<Body> {
        self.responds(response.status());
        self.settle(End::Complete);
        response
    }

    pub(super) fn reject(mut self, rejection: Rejection) -> Response<Body> {
        self.responds(rejection.status());
        self.settle(End::Rejected(&rejection));
        rejection.into_response()
    }

    /// The request was not carried out.
    pub(super) fn fail(self, failure: Failure) -> Response<Body> {
        match failure {
            Failure::Sent(rejection) => self.reject(rejection),
            Failure::Unsent(_) | Failure::ClientGone => self.abandon(),
        }
    }

    /// The client is gone, which the drop says. What is returned is for nobody.
    pub(super) fn abandon(self) -> Response<Body> {
        Rejection::BadRequest("the request ended within its body").into_response()
    }

    /// The function's response has been relayed to its end. Returns when that was.
    pub(super) fn complete(mut self) -> Instant {
        self.settle(End::Complete)
    }

    pub(super) fn response_cut(mut self, error: &hyper::Error) {
        self.settle(End::Cut(error));
    }

    pub(super) fn tunnel_ended(mut self, ended: std::io::Result<()>) {
        // Either side may reset an upgraded connection at will: that is its ordinary end.
        if let Err(error) = &ended {
            tracing::debug!(%error, "upgraded connection ended");
        }
        self.settle(End::Complete);
    }

    fn settle(&mut self, end: End<'_>) -> Instant {
        self.settled = true;
        let now = clock::now();
        let took = now.duration_since(self.started);
        self.connection.pace.request_ended(Tick::of(now), self.is_http2);
        let stats = &self.connection.core.gateway.stats;
        stats.in_progress.fetch_sub(1, Ordering::Relaxed);
        stats.ended(&self.method, self.status, took);
        if let Some(function) = &self.function {
            function.live.note_call(Tick::of(now));
            function.live.statuses.count(self.status);
            function.live.durations.record(took);
        }
        match end {
            End::Complete => {}
            End::Rejected(rejection) => stats.rejected(rejection.name()),
            End::ClientGone => stats.client_gone(),
            End::Cut(_) => stats.cut(),
        }
        self.log(end, took);
        now
    }

    fn log(&self, end: End<'_>, took: Duration) {
        let function = self.function.as_ref().map(|function| &function.id);
        let (method, status, peer) = (&self.method, self.status, self.connection.peer);
        match end {
            End::Rejected(rejection) if rejection.side() != Side::Client => {
                tracing::warn!(target: "access", %method, status, %peer, ?took, function = function.map(tracing::field::display),
                    reason = rejection.name(), side = ?rejection.side(), "the gateway refused a request");
            }
            End::Cut(error) => {
                tracing::warn!(target: "access", %method, status, %peer, ?took, function = function.map(tracing::field::display),
                    %error, "the function broke off its response");
            }
            End::ClientGone => {
                tracing::info!(target: "access", %method, status, %peer, ?took, function = function.map(tracing::field::display),
                    "the client went away");
            }
            End::Complete | End::Rejected(_) => {
                let target = self.target.as_ref().map(PathAndQuery::as_str);
                tracing::debug!(target: "access", %method, target, status, %peer, ?took, "served");
            }
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if !self.settled {
            self.status = CLIENT_GONE;
            self.settle(End::ClientGone);
        }
    }
}
