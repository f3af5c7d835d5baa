//! The calls to one node: what waits to be sent, what waits for its reply, and the one connection for both.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::clock::{self, Instant};
use crate::peer::frame::{Frame, Frames, Head, Violation};
use crate::peer::inbox::Inbox;
use crate::peer::limits::{BULK_BYTES_MAX, CALLS_MAX, IDLE_MAX};
use crate::peer::outbox::{Outbox, Withdrawn};
use crate::peer::service::{CallError, FAILURE_BYTES_MAX, Kind, Lost, NotDone, Outcome};

type CallResult = Result<Bytes, CallError>;

/// A peer that is called. Its task (`peer::dial`) ends when nothing was called for a while.
pub(super) struct Link {
    pub(super) address: SocketAddr,
    calls: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
    state: Mutex<State>,
    /// There is something to send.
    pub(super) sendable: Notify,
    /// The link shall look whether it should end.
    pub(super) attention: Notify,
}

struct State {
    outbox: Outbox,
    inbox: Inbox,
    waiting: BTreeMap<u32, Waiting>,
    next_id: u32,
    /// After a failure: until when nothing is tried, and why.
    down: Option<(Instant, Arc<str>)>,
    last_used: Instant,
    /// The peer is no member any more.
    leaving: bool,
    /// Nothing more begins on the present connection; what waits gets the next one.
    retiring: bool,
    ended: bool,
}

struct Waiting {
    kind: Kind,
    /// The whole request has gone.
    sent: bool,
    done: oneshot::Sender<CallResult>,
    _room: Room,
}

/// A call's share of the link's limits.
pub(super) struct Room {
    _bulk: Option<OwnedSemaphorePermit>,
    _call: OwnedSemaphorePermit,
}

/// Whether the present connection is to close.
pub(super) enum Retirement {
    None,
    /// Calls are under way on it.
    Waiting,
    /// Nothing is.
    Ended,
}

/// What became of a call that was handed over.
pub(super) enum Enqueued {
    Waiting(PendingCall),
    LinkEnded,
}

impl Link {
    pub(super) fn new(address: SocketAddr) -> Self {
        let state = State {
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            waiting: BTreeMap::new(),
            next_id: 0,
            down: None,
            last_used: clock::now(),
            leaving: false,
            retiring: false,
            ended: false,
        };
        Self {
            address,
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            bulk: Arc::new(Semaphore::new(BULK_BYTES_MAX)),
            state: Mutex::new(state),
            sendable: Notify::new(),
            attention: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more call fits, of which `bulk` bytes count.
    pub(super) async fn room(&self, bulk: usize) -> Room {
        const OPEN: &str = "the semaphore is never closed";
        let bulk = match u32::try_from(bulk).expect("a call fits an empty connection") {
            0 => None,
            bytes => Some(Arc::clone(&self.bulk).acquire_many_owned(bytes).await.expect(OPEN)),
        };
        // After the bulk, so that transfers which wait take no call's place.
        Room { _bulk: bulk, _call: Arc::clone(&self.calls).acquire_owned().await.expect(OPEN) }
    }

    pub(super) fn enqueue(
        self: &Arc<Self>,
        kind: Kind,
        payload: Bytes,
        deadline: Instant,
        room: Room,
    ) -> Result<Enqueued, NotDone> {
        let now = clock::now();
        let mut state = self.state();
        if state.ended {
            return Ok(Enqueued::LinkEnded);
        }
        if let Some((until, why)) = &state.down
            && now < *until
        {
            return Err(NotDone::Unreachable(Arc::clone(why)));
        }
        let (done, reply) = oneshot::channel();
        let id = state.free_id();
        let millis = deadline.saturating_duration_since(now).as_millis();
        state.outbox.push(id, kind as u8, u32::try_from(millis).unwrap_or(u32::MAX), payload);
        state.waiting.insert(id, Waiting { kind, sent: false, done, _room: room });
        state.last_used = now;
        drop(state);
        self.sendable.notify_one();
        Ok(Enqueued::Waiting(PendingCall { link: Arc::clone(self), id, reply }))
    }

    /// Puts what waits into a record.
    pub(super) fn fill(&self, record: &mut Vec<u8>) {
        let mut state = self.state();
        let State { outbox, waiting, retiring, .. } = &mut *state;
        let ended = |id| {
            if let Some(call) = waiting.get_mut(&id) {
                call.sent = true;
            }
        };
        match *retiring {
            true => outbox.fill_begun(record, ended),
            false => outbox.fill(record, ended),
        }
    }

    /// Takes the replies of a record.
    pub(super) fn take(&self, record: &[u8]) -> Result<(), Violation> {
        let mut state = self.state();
        for frame in Frames(record) {
            match frame? {
                Frame::Begin { id, head, data } => state.begin_reply(id, head, data)?,
                Frame::More { id, data } => {
                    if let Some(whole) = state.inbox.more(id, data)? {
                        state.settle(id, whole.head, whole.payload)?;
                    }
                }
                Frame::Pong => {}
                Frame::Leave => state.retiring = true,
                Frame::Cancel { .. } | Frame::Ping => return Err(Violation::WrongDirection),
            }
        }
        if state.retiring {
            // A reply may have been the last.
            self.attention.notify_one();
        }
        Ok(())
    }

    pub(super) fn ping(&self) {
        self.state().outbox.push_control(Frame::Ping);
        self.sendable.notify_one();
    }

    pub(super) fn has_work(&self) -> bool {
        !self.state().outbox.is_empty()
    }

    /// Begins nothing more on the present connection.
    pub(super) fn retire(&self) {
        self.state().retiring = true;
    }

    /// How far the end of the present connection is.
    pub(super) fn retirement(&self) -> Retirement {
        let state = self.state();
        if !state.retiring {
            return Retirement::None;
        }
        match state.outbox.is_amid() || state.waiting.values().any(|call| call.sent) {
            true => Retirement::Waiting,
            false => Retirement::Ended,
        }
    }

    /// Begins calls on the present connection again.
    pub(super) fn carry_on(&self) {
        self.state().retiring = false;
        self.sendable.notify_one();
    }

    /// Whether nobody will use the link.
    pub(super) fn is_unwanted(&self) -> bool {
        let state = self.state();
        state.leaving || clock::now() >= state.last_used + IDLE_MAX
    }

    pub(super) fn leave(&self) {
        self.state().leaving = true;
        self.attention.notify_one();
    }

    pub(super) fn end_if_quiet(&self) -> bool {
        let mut state = self.state();
        state.ended = state.waiting.is_empty();
        state.ended
    }

    /// A connection is there.
    pub(super) fn connected(&self) {
        self.state().down = None;
    }

    /// No connection could be made: every call learns of it, and those that come before `until`.
    pub(super) fn unreachable(&self, until: Instant, why: &Arc<str>) {
        let mut state = self.state();
        state.down = Some((until, Arc::clone(why)));
        state.outbox = Outbox::default();
        for (_, call) in std::mem::take(&mut state.waiting) {
            // A caller who has gone does not mind.
            call.done.send(Err(CallError::NotDone(NotDone::Unreachable(Arc::clone(why))))).ok();
        }
    }

    /// The connection has ended. What was not begun waits for the next one.
    pub(super) fn disconnected(&self) {
        let mut state = self.state();
        state.retiring = false;
        let State { outbox, inbox, waiting, .. } = &mut *state;
        *inbox = Inbox::default();
        outbox.restart();
        let (kept, lost): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(waiting).into_iter().partition(|(id, _)| outbox.is_unsent(*id));
        *waiting = kept;
        for (_, call) in lost {
            let error = match call.sent {
                true => CallError::Unknown(Lost::Disconnected),
                // A part is never acted on.
                false => CallError::NotDone(NotDone::Disconnected),
            };
            call.done.send(Err(error)).ok();
        }
    }

    /// The caller does not wait any more. `None`: the call has ended already.
    fn abandon(&self, id: u32) -> Option<CallError> {
        let mut state = self.state();
        let call = state.waiting.remove(&id)?;
        state.inbox.withdraw(id);
        let withdrawn = state.outbox.withdraw(id);
        if withdrawn != Withdrawn::Unsent {
            state.outbox.push_control(Frame::Cancel { id });
        }
        drop(state);
        self.sendable.notify_one();
        Some(match call.sent {
            true => CallError::Unknown(Lost::Deadline),
            false => CallError::NotDone(NotDone::Deadline),
        })
    }
}

impl State {
    fn free_id(&mut self) -> u32 {
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            if !self.waiting.contains_key(&self.next_id) {
                return self.next_id;
            }
        }
    }

    fn begin_reply(&mut self, id: u32, head: Head, data: &[u8]) -> Result<(), Violation> {
        // Nobody waits for it any more.
        let Some(call) = self.waiting.get(&id) else { return Ok(()) };
        let outcome = Outcome::of(head.code).ok_or(Violation::UnknownOutcome(head.code))?;
        let limit = if outcome == Outcome::Done { call.kind.limits().reply } else { FAILURE_BYTES_MAX };
        if head.total as usize > limit {
            return Err(Violation::ReplyTooLarge);
        }
        match self.inbox.begin(id, head, data)? {
            Some(whole) => self.settle(id, whole.head, whole.payload),
            None => Ok(()),
        }
    }

    fn settle(&mut self, id: u32, head: Head, payload: Bytes) -> Result<(), Violation> {
        let outcome = Outcome::of(head.code).ok_or(Violation::UnknownOutcome(head.code))?;
        self.last_used = clock::now();
        if let Some(call) = self.waiting.remove(&id) {
            if !call.sent {
                // Refused, before the whole request has gone.
                self.outbox.withdraw(id);
            }
            call.done.send(outcome.into_result(payload)).ok();
        }
        Ok(())
    }
}

/// A call that was handed over; dropped, it is given up.
pub(super) struct PendingCall {
    link: Arc<Link>,
    id: u32,
    reply: oneshot::Receiver<CallResult>,
}

impl PendingCall {
    pub(super) fn reply(&mut self) -> impl Future<Output = Result<CallResult, oneshot::error::RecvError>> + '_ {
        &mut self.reply
    }

    /// Its time is over; it may have ended at this very moment.
    pub(super) fn give_up(mut self) -> CallResult {
        match self.link.abandon(self.id) {
            Some(error) => Err(error),
            None => self.reply.try_recv().unwrap_or(Err(CallError::Unknown(Lost::Disconnected))),
        }
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        self.link.abandon(self.id);
    }
}
