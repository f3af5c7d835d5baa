//! What happens to a function, counted without locks: calls, requests in flight, requests waiting. This node's own are
//! counted as they come; those of the other nodes are what these have last told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::clock::Tick;
use crate::model::stats::{Durations, StatusCounts};
use crate::table::start::StartTrace;

/// Counters of one function. They outlive views and replicas.
#[derive(Default)]
pub struct Live {
    last_call: AtomicU64,
    /// Requests that hold a slot of this node; only `proxy::slot` changes it.
    pub in_flight: AtomicU32,
    /// Requests that wait on this node for an endpoint or a slot; only `proxy::{wake, slot}` change it.
    pub waiting: AtomicU32,
    /// Kept apart from `last_call`: what others have told must not be told to others.
    remote_last_call: AtomicU64,
    remote_in_flight: AtomicU32,
    remote_waiting: AtomicU32,
    /// Nothing happens here, and the other nodes know it: the next call is news to them.
    news_awaited: AtomicBool,
    /// Of the table: wakes who tells the other nodes.
    news: Arc<Notify>,
    /// Stored requests that are still to be delivered, on whichever node; only `queue::worker` changes it.
    pub queued: AtomicU32,
    /// Something sleeps that the next call would wake: the scaler wants to hear of it.
    call_awaited: AtomicBool,
    /// Where the search for the least loaded endpoint starts, so that ties go round.
    pub rotation: AtomicU32,
    pub slot_queue: SlotQueue,
    pub statuses: StatusCounts,
    pub durations: Durations,
    /// Requests that found no ready endpoint, by how long they waited for one.
    pub cold_starts: Durations,
    /// Of the present start from zero, or the last one.
    pub start: StartTrace,
    /// Wakes those who wait for an endpoint, at each change of the function.
    changed: Notify,
}

impl Live {
    /// `news` is notified as [`Self::await_news`] asks.
    pub fn new(news: Arc<Notify>) -> Self {
        Self { news, ..Self::default() }
    }

    /// Counts as a call at `tick`: keeps the function awake for its inactivity timeout.
    pub fn note_call(&self, tick: Tick) {
        // In one order with `call_awaited`, so that either the caller sees the flag or the scaler sees the call.
        // A load first: most calls within one millisecond need no write to the shared line.
        if self.last_call.load(Ordering::SeqCst) < tick.0 {
            self.last_call.fetch_max(tick.0, Ordering::SeqCst);
        }
        if self.news_awaited.load(Ordering::SeqCst) && self.news_awaited.swap(false, Ordering::SeqCst) {
            self.news.notify_one();
        }
    }

    /// Counts as a call that another node had at `tick` (of this node's clock).
    pub fn note_remote_call(&self, tick: Tick) {
        self.remote_last_call.fetch_max(tick.0, Ordering::SeqCst);
    }

    /// Replaces what all other nodes together are doing.
    pub fn set_remote(&self, in_flight: u32, waiting: u32) {
        self.remote_in_flight.store(in_flight, Ordering::Relaxed);
        self.remote_waiting.store(waiting, Ordering::Relaxed);
    }

    /// Of any node.
    pub fn last_call(&self) -> Tick {
        Tick(self.last_call.load(Ordering::SeqCst).max(self.remote_last_call.load(Ordering::SeqCst)))
    }

    /// Of this node.
    pub fn last_local_call(&self) -> Tick {
        Tick(self.last_call.load(Ordering::SeqCst))
    }

    /// Asks that the next call on this node be announced; read the counters again afterwards.
    pub fn await_news(&self) {
        self.news_awaited.store(true, Ordering::SeqCst);
    }

    /// Asks that the next call be told to the scaler; read `last_call` again afterwards. True: nobody had asked yet.
    pub fn await_call(&self) -> bool {
        !self.call_awaited.swap(true, Ordering::SeqCst)
    }

    /// After `note_call`: whether the scaler must be told. True once per [`Self::await_call`].
    pub fn take_call_awaited(&self) -> bool {
        self.call_awaited.load(Ordering::SeqCst) && self.call_awaited.swap(false, Ordering::SeqCst)
    }

    /// Requests that hold a slot, on any node.
    pub fn in_flight(&self) -> u32 {
        self.local_in_flight().saturating_add(self.remote_in_flight())
    }

    /// Requests that wait for the function to wake or for a slot, on any node.
    pub fn waiting(&self) -> u32 {
        self.local_waiting().saturating_add(self.remote_waiting())
    }

    pub fn local_in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn local_waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    pub fn remote_in_flight(&self) -> u32 {
        self.remote_in_flight.load(Ordering::Relaxed)
    }

    pub fn remote_waiting(&self) -> u32 {
        self.remote_waiting.load(Ordering::Relaxed)
    }

    /// Stored requests that are still to be delivered, by whichever node.
    pub fn queued(&self) -> u32 {
        self.queued.load(Ordering::SeqCst)
    }

    /// Work that needs the function now, on any node, whatever the last call's time.
    pub fn is_busy(&self) -> bool {
        self.in_flight() > 0 || self.waiting() > 0 || self.queued() > 0
    }

    /// Resolves at the next change of the function; enable it before reading the view.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub fn wake_waiters(&self) {
        self.changed.notify_waiters();
        self.slot_queue.notify_head();
    }
}

/// Those who wait for a slot, first come, first served: only the head may try to take one.
#[derive(Default)]
pub struct SlotQueue {
    waiters: Mutex<VecDeque<Arc<Notify>>>,
    /// Its length, so that nobody takes the lock while nobody waits.
    len: AtomicU32,
}

impl SlotQueue {
    pub fn is_empty(&self) -> bool {
        self.len.load(Ordering::SeqCst) == 0
    }

    /// Joins the end of the queue; the place is given up when dropped.
    pub fn join(&self) -> Place<'_> {
        let turn = Arc::new(Notify::new());
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.push_back(Arc::clone(&turn));
        self.len.store(u32::try_from(waiters.len()).unwrap_or(u32::MAX), Ordering::SeqCst);
        if waiters.len() == 1 {
            // A slot may have been given back before we were seen in the queue.
            turn.notify_one();
        }
        Place { queue: self, turn }
    }

    /// Something changed that may let the head take a slot.
    pub fn notify_head(&self) {
        if self.is_empty() {
            return;
        }
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(head) = waiters.front() {
            head.notify_one();
        }
    }
}

/// One waiter's place in a [`SlotQueue`].
pub struct Place<'a> {
    queue: &'a SlotQueue,
    turn: Arc<Notify>,
}

impl Place<'_> {
    /// Resolves when this waiter is the head and should try (again).
    pub async fn turn(&self) {
        self.turn.notified().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiters = self.queue.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.retain(|waiter| !Arc::ptr_eq(waiter, &self.turn));
        self.queue.len.store(u32::try_from(waiters.len()).unwrap_or(u32::MAX), Ordering::SeqCst);
        // Whether we took a slot or gave up: there may be another one for the next.
        if let Some(head) = waiters.front() {
            head.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_nodes_do_counts_and_stays_apart() {
        let live = Live::default();
        live.note_call(Tick(5));
        live.note_remote_call(Tick(9));
        live.note_remote_call(Tick(7));
        assert_eq!((live.last_call(), live.last_local_call()), (Tick(9), Tick(5)));
        assert!(!live.is_busy());
        live.in_flight.fetch_add(1, Ordering::Relaxed);
        live.set_remote(2, 3);
        assert_eq!((live.in_flight(), live.local_in_flight(), live.remote_in_flight()), (3, 1, 2));
        assert_eq!((live.waiting(), live.local_waiting(), live.remote_waiting()), (3, 0, 3));
        live.in_flight.fetch_sub(1, Ordering::Relaxed);
        assert!(live.is_busy());
        live.set_remote(0, 0);
        assert!(!live.is_busy());
    }

    #[tokio::test]
    async fn a_call_after_quiet_is_announced_once() {
        let news = Arc::new(Notify::new());
        let live = Live::new(Arc::clone(&news));
        let announced = || tokio::time::timeout(std::time::Duration::from_millis(1), news.notified());
        live.note_call(Tick(1));
        assert!(announced().await.is_err());
        live.await_news();
        live.note_remote_call(Tick(2));
        assert!(announced().await.is_err());
        live.note_call(Tick(3));
        live.note_call(Tick(4));
        assert!(announced().await.is_ok());
        assert!(announced().await.is_err());
    }
}
