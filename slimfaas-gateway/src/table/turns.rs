//! Deliveries of events to one replica: so many at once, further ones in the order in which they came, and not too many
//! of those. What hangs holds up nobody else's.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// Deliveries of events at once from this gateway to one replica.
pub const AT_ONCE: usize = 16;

/// Those that wait for one replica; further ones are not made.
pub const WAITING_MAX: u32 = 256;

#[derive(Debug)]
pub struct Turns {
    permits: Semaphore,
    waiting: AtomicU32,
    /// A slot of the replica was given back.
    freed: Notify,
    /// Those who want to hear of it: nobody, mostly.
    awaiting: AtomicU32,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(AT_ONCE),
            waiting: AtomicU32::new(0),
            freed: Notify::new(),
            awaiting: AtomicU32::new(0),
        }
    }
}

/// As many wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun;

impl Turns {
    /// Waits for a turn, first come, first served.
    pub async fn take(&self) -> Result<SemaphorePermit<'_>, Overrun> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        let _place = Count::enter(&self.waiting, WAITING_MAX)?;
        // An error means that it was closed, which nobody does.
        self.permits.acquire().await.map_err(|_closed| Overrun)
    }

    /// Somebody has given a slot of the replica back.
    pub fn slot_freed(&self) {
        if self.awaiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_waiters();
        }
    }

    /// For who waits for a slot of this very replica: look again after enabling, then wait.
    pub fn await_slot(&self) -> (Notified<'_>, Count<'_>) {
        (self.freed.notified(), Count::add(&self.awaiting))
    }
}

/// Counts for as long as it lives.
pub struct Count<'a>(&'a AtomicU32);

impl<'a> Count<'a> {
    fn add(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }

    fn enter(count: &'a AtomicU32, limit: u32) -> Result<Self, Overrun> {
        let below = |current| (current < limit).then_some(current + 1);
        count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, below).map_err(|_full| Overrun)?;
        Ok(Self(count))
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn so_many_at_once_so_many_wait_and_no_more() {
        let turns = Turns::default();
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(turns.take().await.expect("free"));
        }
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(turns.take())).collect();
        for place in &mut waiting {
            assert!(tokio::time::timeout(Duration::ZERO, place.as_mut()).await.is_err());
        }
        assert_eq!(turns.take().await.err(), Some(Overrun));
        held.pop();
        // The first who came.
        let first = waiting.remove(0).await.expect("its turn");
        assert!(tokio::time::timeout(Duration::ZERO, waiting[0].as_mut()).await.is_err());
        let _last = Box::pin(turns.take());
        drop((first, held, waiting));
        assert_eq!(turns.waiting.load(Ordering::SeqCst), 0);
        assert!(turns.take().await.is_ok());
    }

    #[tokio::test]
    async fn who_awaits_a_slot_hears_of_it() {
        let turns = Turns::default();
        turns.slot_freed();
        let (freed, _count) = turns.await_slot();
        let mut freed = std::pin::pin!(freed);
        freed.as_mut().enable();
        assert!(tokio::time::timeout(Duration::ZERO, freed.as_mut()).await.is_err());
        turns.slot_freed();
        freed.await;
    }
}
