//! What happens to a function, counted without locks: calls, requests in flight, requests waiting.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::clock::Tick;

/// Counters of one function, on this node. They outlive views and replicas.
#[derive(Default)]
pub struct Live {
    last_call: AtomicU64,
    in_flight: AtomicU32,
    waiting: AtomicU32,
    /// Wakes those who wait for an endpoint, at each change of the function.
    changed: Notify,
}

impl Live {
    /// Counts as a call at `tick`: keeps the function awake for its inactivity timeout.
    pub fn note_call(&self, tick: Tick) {
        self.last_call.fetch_max(tick.0, Ordering::Relaxed);
    }

    pub fn last_call(&self) -> Tick {
        Tick(self.last_call.load(Ordering::Relaxed))
    }

    /// Requests that hold a slot.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests that wait for the function to wake or for a slot.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Work that needs the function now, whatever the last call's time.
    pub fn is_busy(&self) -> bool {
        self.in_flight() > 0 || self.waiting() > 0
    }

    /// The in-flight counter itself; only `proxy::slot` changes it.
    pub fn in_flight_counter(&self) -> &AtomicU32 {
        &self.in_flight
    }

    /// The waiting counter itself; only `proxy::{wake, slot}` change it.
    pub fn waiting_counter(&self) -> &AtomicU32 {
        &self.waiting
    }

    /// Resolves at the next change of the function; enable it before reading the view.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub fn wake_waiters(&self) {
        self.changed.notify_waiters();
    }
}
