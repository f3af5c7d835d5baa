//! The calls from one node: their requests come in, services run, replies go out.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::peer::frame::{Frame, Frames, Head, Violation};
use crate::peer::inbox::{Inbox, Whole};
use crate::peer::limits::{BULK_BYTES_MAX, CALLS_MAX, CLOSE_GRACE, SILENCE_MAX, bulk_bytes};
use crate::peer::outbox::Outbox;
use crate::peer::pipe::{Broken, Reader, Writer};
use crate::peer::service::{FAILURE_BYTES_MAX, Kind, Outcome, Service};
use crate::peer::stats::PeerStats;

/// One service a kind.
#[derive(Default)]
pub(super) struct Services(Mutex<[Option<Arc<dyn Service>>; Kind::ALL.len()]>);

impl Services {
    pub(super) fn register(&self, kind: Kind, service: Arc<dyn Service>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[kind.index()] = Some(service);
    }

    fn of(&self, kind: Kind) -> Option<Arc<dyn Service>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[kind.index()].clone()
    }
}

/// One accepted connection.
pub(super) struct Serving {
    from: Arc<str>,
    services: Arc<Services>,
    stats: Arc<PeerStats>,
    state: Mutex<State>,
    /// There is something to send, or nothing any more.
    stir: Notify,
}

#[derive(Default)]
struct State {
    outbox: Outbox,
    inbox: Inbox,
    /// From the first part of the request to the last part of the reply.
    calls: BTreeMap<u32, Call>,
    bulk: usize,
    /// Refusals that wait to be sent.
    refusals: usize,
    closing: bool,
}

struct Call {
    kind: Kind,
    bulk: usize,
    task: Option<AbortHandle>,
    answered: bool,
}

impl Serving {
    pub(super) fn new(from: Arc<str>, services: &Arc<Services>, stats: &Arc<PeerStats>) -> Arc<Self> {
        Arc::new(Self {
            from,
            services: Arc::clone(services),
            stats: Arc::clone(stats),
            state: Mutex::default(),
            stir: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the caller to make another connection; calls are taken until it does.
    pub(super) fn leave(&self) {
        self.state().outbox.push_control(Frame::Leave);
        self.stir.notify_one();
    }

    /// Takes no more calls; the connection ends after those that run.
    pub(super) fn close(&self) {
        self.state().closing = true;
        self.leave();
    }

    /// Reads requests, beginning with a record that was already read, and runs them.
    pub(super) async fn read(self: &Arc<Self>, first: Vec<u8>, reader: &mut Reader) -> Broken {
        let mut tasks = JoinSet::new();
        let mut taken = self.take(&first, &mut tasks).map_err(Broken::from);
        drop(first);
        loop {
            if let Err(broken) = taken {
                return broken;
            }
            // Their ends matter to nobody, only that they do not pile up.
            while tasks.try_join_next().is_some() {}
            taken = match timeout(SILENCE_MAX, reader.record()).await {
                Ok(record) => record.and_then(|record| Ok(self.take(record, &mut tasks)?)),
                Err(_elapsed) => Err(Broken::Silent),
            };
        }
    }

    /// Writes replies. `Ok`: the connection was to close, and the last one is written.
    pub(super) async fn write(&self, writer: &mut Writer) -> Result<(), Broken> {
        loop {
            if writer.flush(|record| self.state().fill(record)).await? {
                continue;
            }
            if self.state().is_over() {
                // Calls that cross the request to leave are still refused, rather than lost.
                tokio::time::sleep(CLOSE_GRACE).await;
                while writer.flush(|record| self.state().fill(record)).await? {}
                return Ok(());
            }
            self.stir.notified().await;
        }
    }

    pub(super) fn take(self: &Arc<Self>, record: &[u8], tasks: &mut JoinSet<()>) -> Result<(), Violation> {
        for frame in Frames(record) {
            match frame? {
                Frame::Begin { id, head, data } => {
                    let whole = self.begin(id, head, data)?;
                    self.start(whole, tasks);
                }
                Frame::More { id, data } => {
                    let whole = self.state().inbox.more(id, data)?;
                    self.start(whole, tasks);
                }
                Frame::Cancel { id } => {
                    // Outside the lock: a task that is dropped looks for its call.
                    let task = self.state().cancel(id);
                    task.inspect(AbortHandle::abort);
                }
                Frame::Ping => {
                    self.state().outbox.push_control(Frame::Pong);
                    self.stir.notify_one();
                }
                Frame::Pong | Frame::Leave => return Err(Violation::WrongDirection),
            }
        }
        Ok(())
    }

    fn begin(&self, id: u32, head: Head, data: &[u8]) -> Result<Option<Whole>, Violation> {
        let mut state = self.state();
        if state.calls.contains_key(&id) {
            return Err(Violation::Repeated(id));
        }
        let kind = Kind::of(head.code).filter(|kind| self.services.of(*kind).is_some());
        match state.admit(kind, head.total as usize) {
            Ok(call) => {
                state.bulk += call.bulk;
                state.calls.insert(id, call);
                state.inbox.begin(id, head, data)
            }
            Err(refusal) => {
                state.refuse(id, refusal)?;
                self.stir.notify_one();
                Ok(None)
            }
        }
    }

    fn start(self: &Arc<Self>, whole: Option<Whole>, tasks: &mut JoinSet<()>) {
        let Some(Whole { id, head, payload }) = whole else { return };
        let service = Kind::of(head.code).and_then(|kind| self.services.of(kind)).expect("the call was admitted");
        if let Some(kind) = Kind::of(head.code) {
            self.stats.served[kind.index()].fetch_add(1, Ordering::Relaxed);
        }
        let answering = Answering { serving: Arc::clone(self), id };
        let task = tasks.spawn(async move {
            let answer = service.serve(Arc::clone(&answering.serving.from), payload);
            match timeout(Duration::from_millis(head.millis.into()), answer).await {
                Ok(Ok(reply)) => answering.give(Outcome::Done, reply),
                Ok(Err(failure)) => answering.fail(failure.0),
                // The caller gives up by itself: what was done is as unknown here as there.
                Err(_elapsed) => drop(answering.serving.state().cancel(id)),
            }
        });
        // It is gone if its reply has gone already.
        if let Some(call) = self.state().calls.get_mut(&id) {
            call.task = Some(task);
        }
    }

    fn answer(&self, id: u32, outcome: Outcome, reply: Bytes) {
        let mut state = self.state();
        // None: it was cancelled, or answered.
        let Some(call) = state.calls.get_mut(&id).filter(|call| !call.answered) else { return };
        call.answered = true;
        let (outcome, reply) = match outcome == Outcome::Done && reply.len() > call.kind.limits().reply {
            true => (Outcome::Failed, Bytes::from_static(b"the reply is larger than its kind allows")),
            false => (outcome, reply),
        };
        state.outbox.push(id, outcome as u8, 0, reply);
        drop(state);
        self.stir.notify_one();
    }
}

impl State {
    fn admit(&self, kind: Option<Kind>, total: usize) -> Result<Call, Outcome> {
        let kind = kind.ok_or(Outcome::NoService)?;
        if self.closing {
            return Err(Outcome::Closing);
        }
        if total > kind.limits().request {
            return Err(Outcome::TooLarge);
        }
        let bulk = bulk_bytes(kind, total);
        if self.calls.len() >= CALLS_MAX || self.bulk + bulk > BULK_BYTES_MAX {
            return Err(Outcome::Busy);
        }
        Ok(Call { kind, bulk, task: None, answered: false })
    }

    fn refuse(&mut self, id: u32, outcome: Outcome) -> Result<(), Violation> {
        self.refusals += 1;
        // A node that keeps to the limits gets few, and reads them.
        if self.refusals > CALLS_MAX {
            return Err(Violation::TooManyRefused);
        }
        self.outbox.push(id, outcome as u8, 0, Bytes::new());
        Ok(())
    }

    fn fill(&mut self, record: &mut Vec<u8>) {
        let Self { outbox, calls, bulk, refusals, .. } = self;
        outbox.fill(record, |id| match calls.remove(&id) {
            Some(call) => *bulk -= call.bulk,
            None => *refusals -= 1,
        });
    }

    fn cancel(&mut self, id: u32) -> Option<AbortHandle> {
        let call = self.calls.remove(&id)?;
        self.bulk -= call.bulk;
        self.inbox.withdraw(id);
        self.outbox.withdraw(id);
        call.task
    }

    fn is_over(&self) -> bool {
        self.closing && self.calls.is_empty() && self.outbox.is_empty()
    }
}

/// Owes an answer; gives one even if the service panics.
struct Answering {
    serving: Arc<Serving>,
    id: u32,
}

impl Answering {
    fn give(&self, outcome: Outcome, reply: Bytes) {
        self.serving.answer(self.id, outcome, reply);
    }

    fn fail(&self, mut text: String) {
        text.truncate(text.floor_char_boundary(FAILURE_BYTES_MAX));
        self.give(Outcome::Failed, text.into());
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        // Counts only if nothing was answered before.
        self.fail("the service panicked".to_owned());
    }
}
