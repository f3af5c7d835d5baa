//! Bodies in both directions, with their limits.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Sleep;

use crate::clock::{self, Instant};
use crate::proxy::upstream::ResponseBody;

/// What the gateway sends to its clients: nothing, its own bytes, or a function's stream.
pub struct Body(Kind);

enum Kind {
    Full(Full<Bytes>),
    Function(Box<ResponseBody>),
    /// As it comes, until its sender is gone.
    Chunks(mpsc::Receiver<Bytes>),
}

impl Body {
    pub fn empty() -> Self {
        Self(Kind::Full(Full::default()))
    }

    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Full(Full::new(bytes.into())))
    }

    pub fn chunks(chunks: mpsc::Receiver<Bytes>) -> Self {
        Self(Kind::Chunks(chunks))
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
            Kind::Chunks(chunks) => chunks.poll_recv(cx).map(|chunk| chunk.map(Frame::data).map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(full) => full.is_end_stream(),
            Kind::Function(body) => body.is_end_stream(),
            Kind::Chunks(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(full) => full.size_hint(),
            Kind::Function(body) => body.size_hint(),
            Kind::Chunks(_) => SizeHint::default(),
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
    #[error("the stored body cannot be read")]
    Stored(#[source] io::Error),
}

impl BodyFault {
    /// The fault behind an error of the connection that forwarded the body, if that is what ended it.
    pub(super) fn behind(error: &hyper::Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }

    pub(super) fn kind(&self) -> FaultKind {
        match self {
            Self::TooLarge(limit) => FaultKind::TooLarge(*limit),
            Self::TooSlow => FaultKind::TooSlow,
            // Whoever delivers it has no client.
            Self::Client(_) | Self::Stored(_) => FaultKind::Client,
        }
    }
}

/// What a fault was, for who does not get to see it.
#[derive(Clone, Copy, Debug)]
pub(super) enum FaultKind {
    TooLarge(u64),
    TooSlow,
    Client,
}

/// Where a body leaves its fault: hyper's HTTP/2 resets the stream and keeps the reason to itself.
pub(super) type FaultNote = Arc<OnceLock<FaultKind>>;

/// Limits of one request's body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    pub bytes: u64,
    pub bytes_per_second: u64,
    pub grace: Duration,
}

/// A client's body on its way to the function.
pub struct RequestBody {
    /// `None`: everything has been read ahead, or is in a file.
    incoming: Option<Incoming>,
    stored: Option<Box<Stored>>,
    /// Read already, and still to be sent.
    ahead: VecDeque<Bytes>,
    /// Trailers that were met while reading ahead.
    trailers: Option<Frame<Bytes>>,
    limits: BodyLimits,
    read: u64,
    /// Set when the client first made us wait.
    pace: Option<Pace>,
    note: Option<FaultNote>,
}

/// How long a client has made us wait; time in which the function was the slow one does not count.
struct Pace {
    waited: Duration,
    waiting_since: Option<Instant>,
    next_check: Pin<Box<Sleep>>,
}

impl RequestBody {
    pub fn new(incoming: Incoming, limits: BodyLimits) -> Self {
        let incoming = Some(incoming);
        Self { incoming, stored: None, ahead: VecDeque::new(), trailers: None, limits, read: 0, pace: None, note: None }
    }

    /// A body that is here already.
    pub(super) fn of(bytes: Bytes) -> Self {
        let limits = BodyLimits { bytes: u64::MAX, bytes_per_second: 0, grace: Duration::MAX };
        let ahead = if bytes.is_empty() { VecDeque::new() } else { VecDeque::from([bytes]) };
        Self { incoming: None, stored: None, ahead, trailers: None, limits, read: 0, pace: None, note: None }
    }

    /// A body that is in a file, of which this is the beginning.
    pub(super) fn stored(file: std::fs::File, bytes: u64) -> Self {
        Self { stored: Some(Box::new(Stored::new(file, bytes))), ..Self::of(Bytes::new()) }
    }

    /// Reads all of it into one piece, unless it has more than `limit` bytes: then what was read is ahead.
    pub(super) async fn whole_within(mut self, limit: usize) -> Result<Result<Bytes, Self>, BodyFault> {
        let mut read = 0;
        // Trailers end a body; there is no place for them in a stored one.
        while let Some(data) = poll_fn(|cx| self.poll_incoming(cx)).await.transpose()?.map(Frame::into_data) {
            let Ok(data) = data else { continue };
            read += data.len();
            self.ahead.push_back(data);
            if read > limit {
                return Ok(Err(self));
            }
        }
        if self.ahead.len() == 1 {
            return Ok(Ok(self.ahead.pop_front().unwrap_or_default()));
        }
        Ok(Ok(Bytes::from(self.ahead.iter().flatten().copied().collect::<Vec<u8>>())))
    }

    /// What comes next; `None` at the end, whether there are trailers or not.
    pub(super) async fn next_data(&mut self) -> Result<Option<Bytes>, BodyFault> {
        if let Some(data) = self.ahead.pop_front() {
            return Ok(Some(data));
        }
        let frame = poll_fn(|cx| self.poll_incoming(cx)).await.transpose()?;
        Ok(frame.and_then(|frame| frame.into_data().ok()))
    }

    /// Will hold the fault that ends the body, if one does.
    pub(super) fn note(&mut self) -> FaultNote {
        Arc::clone(self.note.get_or_insert_default())
    }

    /// Reads up to `limit` bytes before anything is sent. True: that is the whole body, so `again` can repeat it.
    pub(super) async fn read_ahead(&mut self, limit: usize) -> Result<bool, BodyFault> {
        let mut kept = 0;
        while kept <= limit {
            match poll_fn(|cx| self.poll_incoming(cx)).await.transpose()? {
                None => {
                    self.incoming = None;
                    return Ok(true);
                }
                Some(frame) => match frame.into_data() {
                    Ok(data) => {
                        kept += data.len();
                        self.ahead.push_back(data);
                    }
                    Err(trailers) => {
                        self.trailers = Some(trailers);
                        return Ok(false);
                    }
                },
            }
        }
        Ok(false)
    }

    /// A second copy of a body that is empty, or has been read ahead to its end.
    pub(super) fn again(&self) -> Self {
        let is_whole = self.incoming.as_ref().is_none_or(HttpBody::is_end_stream) && self.stored.is_none();
        debug_assert!(is_whole, "only a whole body can be repeated");
        Self {
            incoming: None,
            stored: None,
            ahead: self.ahead.clone(),
            trailers: None,
            limits: self.limits,
            read: 0,
            pace: None,
            note: None,
        }
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

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let Some(incoming) = &mut self.incoming else {
            let Some(stored) = &mut self.stored else { return Poll::Ready(None) };
            return stored.poll(cx).map(|data| data.map(|data| data.map(Frame::data).map_err(BodyFault::Stored)));
        };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Pending => self.poll_too_slow(cx).map(|fault| Some(Err(fault))),
            Poll::Ready(Some(Ok(frame))) => {
                self.stop_waiting();
                self.read += frame.data_ref().map_or(0, |data| data.len() as u64);
                if self.read > self.limits.bytes {
                    return Poll::Ready(Some(Err(BodyFault::TooLarge(self.limits.bytes))));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyFault::Client(error)))),
            Poll::Ready(None) => Poll::Ready(None),
        }
    }

    fn stop_waiting(&mut self) {
        let since = self.pace.as_mut().and_then(|pace| pace.waiting_since.take());
        if let (Some(pace), Some(since)) = (&mut self.pace, since) {
            pace.waited += since.elapsed();
        }
    }
}

/// The rest of a body in a file.
struct Stored {
    file: tokio::fs::File,
    left: u64,
    buffer: Vec<u8>,
}

/// What is read from a file at once: little enough for a thousand deliveries.
const READ_BYTES: usize = 64 << 10;

impl Stored {
    fn new(file: std::fs::File, left: u64) -> Self {
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(READ_BYTES);
        Self { file, left, buffer: Vec::new() }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let wanted = usize::try_from(self.left).unwrap_or(READ_BYTES).min(READ_BYTES);
        if wanted == 0 {
            return Poll::Ready(None);
        }
        self.buffer.resize(wanted, 0);
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(&mut self.file).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        if read == 0 {
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        self.left -= read as u64;
        self.buffer.truncate(read);
        Poll::Ready(Some(Ok(std::mem::take(&mut self.buffer).into())))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self.get_mut();
        if let Some(data) = this.ahead.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = this.trailers.take() {
            return Poll::Ready(Some(Ok(trailers)));
        }
        let frame = this.poll_incoming(cx);
        if let (Poll::Ready(Some(Err(fault))), Some(note)) = (&frame, &this.note) {
            note.get_or_init(|| fault.kind());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty()
            && self.trailers.is_none()
            && self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
            && self.stored.as_ref().is_none_or(|stored| stored.left == 0)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.incoming {
            Some(incoming) if self.ahead.is_empty() => incoming.size_hint(),
            // The head says how long the whole is, if anybody knows.
            Some(_) => SizeHint::default(),
            None => {
                let ahead: u64 = self.ahead.iter().map(|data| data.len() as u64).sum();
                SizeHint::with_exact(ahead + self.stored.as_ref().map_or(0, |stored| stored.left))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use http_body_util::BodyExt as _;

    use super::*;

    fn file(bytes: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    #[tokio::test]
    async fn a_file_is_a_body_of_known_length() {
        let bytes = vec![7; 3 * READ_BYTES + 1];
        let body = RequestBody::stored(file(&bytes), bytes.len() as u64);
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(bytes.len() as u64), false));
        assert_eq!(body.collect().await.unwrap().to_bytes(), bytes);
        assert!(RequestBody::stored(file(b""), 0).is_end_stream());
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_breaks_the_body_off() {
        let body = RequestBody::stored(file(b"short"), 9);
        assert!(matches!(body.collect().await, Err(BodyFault::Stored(_))));
    }
}
