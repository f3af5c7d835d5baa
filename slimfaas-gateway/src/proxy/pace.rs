//! How long a client may keep a connection without getting on: between requests, and within a request's head.
//!
//! Costs a request one store at its start and one at its end: the connection's one timer is looked at when it fires,
//! and armed again for what is then the deadline.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;

use crate::clock::{self, Tick};
use crate::net::TcpStream;
use crate::proxy::preface;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PaceLimits {
    /// From the first byte of a request, or from accept, to the end of its head.
    pub(super) head: Duration,
    /// From the end of a response to the first byte of the next request.
    pub(super) idle: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Since the end of the last response.
    Idle(Tick),
    /// Since the head's first byte.
    Head(Tick),
    /// The client waits for us, or sends a body (which has limits of its own).
    Serving,
}

/// Which limit was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooSlow {
    Idle,
    Head,
}

/// Shared by a connection's reading half, its requests and its watch. All on one core: the atomics are only there
/// because hyper wants upgradeable streams to be `Send`.
#[derive(Debug)]
pub(super) struct Pace {
    /// The phase's tick, and which phase in the two lowest bits.
    phase: AtomicU64,
    /// Requests that have begun and not ended (several on HTTP/2).
    running: AtomicU32,
}

const IDLE: u64 = 0;
const HEAD: u64 = 1;
const SERVING: u64 = 2;
/// Idle, and speaks HTTP/2, where bytes between requests are not a head's beginning.
const IDLE_HTTP2: u64 = 3;

impl Pace {
    pub(super) fn accepted(now: Tick) -> Arc<Self> {
        Arc::new(Self { phase: AtomicU64::new(now.0 << 2 | HEAD), running: AtomicU32::new(0) })
    }

    fn received(&self) {
        if self.phase.load(Ordering::Relaxed) & 3 == IDLE {
            self.enter(Tick::of(clock::now()), HEAD);
        }
    }

    pub(super) fn request_began(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.enter(Tick::NEVER, SERVING);
    }

    pub(super) fn request_ended(&self, now: Tick, is_http2: bool) {
        if self.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.enter(now, if is_http2 { IDLE_HTTP2 } else { IDLE });
        }
    }

    fn enter(&self, since: Tick, phase: u64) {
        self.phase.store(since.0 << 2 | phase, Ordering::Relaxed);
    }

    fn phase(&self) -> Phase {
        let bits = self.phase.load(Ordering::Relaxed);
        let since = Tick(bits >> 2);
        match bits & 3 {
            HEAD => Phase::Head(since),
            SERVING => Phase::Serving,
            _ => Phase::Idle(since),
        }
    }

    /// `Err`: a limit is passed at `now`. `Ok`: how long until it has to be looked at again.
    fn check(&self, now: Tick, limits: PaceLimits) -> Result<Duration, TooSlow> {
        let (deadline, fault) = match self.phase() {
            Phase::Idle(since) => (since + limits.idle, TooSlow::Idle),
            Phase::Head(since) => (since + limits.head, TooSlow::Head),
            Phase::Serving => return Ok(limits.head.min(limits.idle)),
        };
        if deadline <= now {
            return Err(fault);
        }
        // Meanwhile the phase can change, and the other limit can pass first.
        Ok(now.until(deadline).min(limits.head).min(limits.idle))
    }

    /// Resolves when the client has been too slow.
    pub(super) async fn watch(&self, limits: PaceLimits) -> TooSlow {
        loop {
            match self.check(Tick::of(clock::now()), limits) {
                Err(fault) => return fault,
                Ok(wait) => tokio::time::sleep(wait.max(Duration::from_millis(1))).await,
            }
        }
    }
}

/// A client's stream that notices when a head begins, and ends at once when it does not begin like HTTP.
pub(super) struct PacedStream {
    stream: TokioIo<TcpStream>,
    pace: Arc<Pace>,
    is_begun: bool,
    /// It did not begin like HTTP: nothing more is read of it.
    is_over: bool,
    /// Of the first bytes, those that hyper has not taken yet.
    ahead: Bytes,
}

impl PacedStream {
    pub(super) fn new(stream: TcpStream, pace: &Arc<Pace>) -> Self {
        Self {
            stream: TokioIo::new(stream),
            pace: Arc::clone(pace),
            is_begun: false,
            is_over: false,
            ahead: Bytes::new(),
        }
    }

    /// Reads the first bytes into a buffer of ours: hyper asks for fewer than have to be looked at.
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; preface::LOOKED_AT];
        let mut first = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.stream).poll_read(cx, first.unfilled()))?;
        self.is_begun = true;
        if preface::is_not_http(first.filled()) {
            self.is_over = true;
        } else {
            self.ahead = Bytes::copy_from_slice(first.filled());
        }
        Poll::Ready(Ok(()))
    }

    fn give_ahead(&mut self, mut buf: ReadBufCursor<'_>) {
        let length = buf.remaining().min(self.ahead.len());
        buf.put_slice(&self.ahead.split_to(length));
    }
}

impl Read for PacedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if !self.is_begun {
            ready!(self.poll_begin(cx))?;
            self.give_ahead(buf);
            return Poll::Ready(Ok(()));
        }
        // Nothing put into the buffer is the end of the stream.
        if self.is_over || !self.ahead.is_empty() {
            self.give_ahead(buf);
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.pace.received();
        Poll::Ready(Ok(()))
    }
}

impl Write for PacedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PaceLimits = PaceLimits { head: Duration::from_secs(30), idle: Duration::from_secs(300) };

    fn after(since: Tick, seconds: u64) -> Tick {
        since + Duration::from_secs(seconds)
    }

    #[test]
    fn a_head_has_its_limit_from_accept_and_from_its_first_byte() {
        let accepted = Tick(1000);
        let pace = Pace::accepted(accepted);
        assert_eq!(pace.check(after(accepted, 29), LIMITS), Ok(Duration::from_secs(1)));
        assert_eq!(pace.check(after(accepted, 30), LIMITS), Err(TooSlow::Head));
        pace.request_began();
        assert_eq!(pace.check(after(accepted, 3000), LIMITS), Ok(Duration::from_secs(30)));
        pace.request_ended(after(accepted, 4000), false);
        pace.received();
        assert!(matches!(pace.phase(), Phase::Head(_)));
    }

    #[test]
    fn an_idle_connection_has_its_own_limit() {
        let pace = Pace::accepted(Tick(1000));
        pace.request_began();
        let ended = Tick(5000);
        pace.request_ended(ended, false);
        assert_eq!(pace.check(after(ended, 1), LIMITS), Ok(Duration::from_secs(30)));
        assert_eq!(pace.check(after(ended, 299), LIMITS), Ok(Duration::from_secs(1)));
        assert_eq!(pace.check(after(ended, 300), LIMITS), Err(TooSlow::Idle));
    }

    #[test]
    fn a_short_idle_limit_is_seen_after_a_head() {
        let accepted = Tick(1000);
        let limits = PaceLimits { head: Duration::from_secs(30), idle: Duration::from_secs(1) };
        assert_eq!(Pace::accepted(accepted).check(accepted, limits), Ok(Duration::from_secs(1)));
    }

    #[test]
    fn on_http2_only_the_last_end_makes_idle_and_frames_begin_no_head() {
        let pace = Pace::accepted(Tick(1000));
        pace.request_began();
        pace.request_began();
        pace.request_ended(Tick(2000), true);
        assert_eq!(pace.phase(), Phase::Serving);
        pace.request_ended(Tick(3000), true);
        pace.received();
        assert_eq!(pace.phase(), Phase::Idle(Tick(3000)));
    }
}
