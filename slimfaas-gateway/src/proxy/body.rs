//! Bodies in both directions, with their limits.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use crate::clock::{self, Instant};
use crate::proxy::upstream::ResponseBody;

/// What the gateway sends to its clients: nothing, its own bytes, or a function's stream.
pub struct Body(Kind);

enum Kind {
    Full(Full<Bytes>),
    Function(Box<ResponseBody>),
}

impl Body {
    pub fn empty() -> Self {
        Self(Kind::Full(Full::default()))
    }

    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Full(Full::new(bytes.into())))
    }

    pub(super) fn function(body: ResponseBody) -> Self {
        Self(Kind::Function(Box::new(body)))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.get_mut().0 {
            Kind::Full(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Kind::Function(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(full) => full.is_end_stream(),
            Kind::Function(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(full) => full.size_hint(),
            Kind::Function(body) => body.size_hint(),
        }
    }
}

/// Why a request's body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyFault {
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the body arrives too slowly")]
    TooSlow,
    #[error("the client closed the connection within its body")]
    Client(#[source] hyper::Error),
}

impl BodyFault {
    /// The fault behind an error of the connection that forwarded the body, if that is what ended it.
    pub(super) fn behind(error: &hyper::Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }
}

/// Limits of one request's body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    pub bytes: u64,
    pub bytes_per_second: u64,
    pub grace: Duration,
}

/// A client's body on its way to the function.
pub struct RequestBody {
    incoming: Incoming,
    limits: BodyLimits,
    read: u64,
    /// Set when the client first made us wait.
    pace: Option<Pace>,
}

/// How long a client has made us wait; time in which the function was the slow one does not count.
struct Pace {
    waited: Duration,
    waiting_since: Option<Instant>,
    next_check: Pin<Box<Sleep>>,
}

impl RequestBody {
    pub fn new(incoming: Incoming, limits: BodyLimits) -> Self {
        Self { incoming, limits, read: 0, pace: None }
    }

    /// Ready when the body has been slower than the limit for longer than the grace.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<BodyFault> {
        let now = clock::now();
        let grace = self.limits.grace;
        let pace = self.pace.get_or_insert_with(|| Pace {
            waited: Duration::ZERO,
            waiting_since: None,
            next_check: Box::pin(tokio::time::sleep_until(now + grace)),
        });
        let since = *pace.waiting_since.get_or_insert(now);
        let waited = pace.waited + now.duration_since(since);
        if waited >= grace && self.read < waited.as_secs().saturating_mul(self.limits.bytes_per_second) {
            return Poll::Ready(BodyFault::TooSlow);
        }
        if pace.next_check.deadline() <= now {
            pace.next_check.as_mut().reset(now + grace);
        }
        ready!(pace.next_check.as_mut().poll(cx));
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn stop_waiting(&mut self) {
        let since = self.pace.as_mut().and_then(|pace| pace.waiting_since.take());
        if let (Some(pace), Some(since)) = (&mut self.pace, since) {
            pace.waited += since.elapsed();
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Pending => this.poll_too_slow(cx).map(|fault| Some(Err(fault))),
            Poll::Ready(Some(Ok(frame))) => {
                this.stop_waiting();
                this.read += frame.data_ref().map_or(0, |data| data.len() as u64);
                if this.read > this.limits.bytes {
                    return Poll::Ready(Some(Err(BodyFault::TooLarge(this.limits.bytes))));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyFault::Client(error)))),
            Poll::Ready(None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
