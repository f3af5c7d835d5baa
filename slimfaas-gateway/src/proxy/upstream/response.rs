//! A function's response body on its way to the client.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::pool::Lease;
use crate::clock;
use crate::proxy::body::{BodyFault, FaultNote};
use crate::proxy::outcome::Outcome;
use crate::proxy::slot::Slot;

/// Streams from the connection that it holds; when it ends, the connection goes back to the pool, the slot is free
/// and the outcome is written.
pub(crate) struct ResponseBody {
    incoming: Incoming,
    /// The connection that brings the body, if this task has to drive it.
    lease: Option<Lease>,
    note: Option<FaultNote>,
    slot: Option<Slot>,
    outcome: Option<Outcome>,
}

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        lease: Option<Lease>,
        note: Option<FaultNote>,
        slot: Slot,
        outcome: Outcome,
    ) -> Self {
        Self { incoming, lease, note, slot: Some(slot), outcome: Some(outcome) }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = poll_driven(&mut self.incoming, self.lease.as_mut(), cx);
        match &frame {
            Poll::Ready(Some(Err(error))) => {
                let lease = self.lease.take();
                let is_cut_by_client = lease.is_some_and(|lease| lease.connection.is_cut_by_client())
                    || self.note.as_ref().is_some_and(|note| note.get().is_some());
                match self.outcome.take() {
                    // The client's own body broke off: it has gone away, and its outcome says so when dropped.
                    Some(outcome) if is_cut_by_client || BodyFault::behind(error).is_some() => drop(outcome),
                    Some(outcome) => outcome.response_cut(error),
                    None => {}
                }
            }
            Poll::Ready(None) => self.complete(),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        frame
    }

    fn complete(&mut self) {
        self.slot = None;
        let Some(outcome) = self.outcome.take() else { return };
        let now = outcome.complete();
        if let Some(lease) = self.lease.take() {
            lease.give_back(now);
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// The next frame, from a connection that this task has to drive if it has a lease.
fn poll_driven(
    incoming: &mut Incoming,
    lease: Option<&mut Lease>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    let frame = Pin::new(&mut *incoming).poll_frame(cx);
    let Some(lease) = lease.filter(|_| frame.is_pending()) else { return frame };
    // Asking for a frame made room for it; driving the connection brings it, or its end.
    let _open = lease.connection.poll_drive(cx).is_pending();
    Pin::new(incoming).poll_frame(cx)
}

/// A body that is read and forgotten.
pub(super) struct Discarded {
    incoming: Incoming,
    lease: Option<Lease>,
    left: u64,
}

impl Discarded {
    pub(super) fn new(incoming: Incoming, lease: Option<Lease>, limit: u64) -> Self {
        Self { incoming, lease, left: limit }
    }

    /// Ready at its end, whichever it is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match poll_driven(&mut self.incoming, self.lease.as_mut(), cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    let read = frame.data_ref().map_or(0, |data| data.len() as u64);
                    match self.left.checked_sub(read) {
                        Some(left) => self.left = left,
                        None => return Poll::Ready(()),
                    }
                }
                Poll::Ready(Some(Err(_broken))) => return Poll::Ready(()),
                Poll::Ready(None) => {
                    if let Some(lease) = self.lease.take() {
                        lease.give_back(clock::now());
                    }
                    return Poll::Ready(());
                }
            }
        }
    }
}

impl Drop for ResponseBody {
    /// A body of known length is dropped once that much was written, without being asked for its end.
    fn drop(&mut self) {
        if self.outcome.is_some() && self.incoming.is_end_stream() {
            self.complete();
        }
    }
}
