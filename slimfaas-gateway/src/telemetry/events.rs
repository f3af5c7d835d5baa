//! Counts of events: by event and by what became of each delivery.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::stats::Durations;

/// What became of an event at one of its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeliveryOutcome {
    /// Answered with a status below 400.
    Delivered,
    /// Answered with another status, on the last attempt if that status is tried again.
    Refused,
    TimedOut,
    /// No connection.
    Unreachable,
    /// The connection broke before an answer.
    Failed,
    /// The function had no replica, and is not woken by events.
    Asleep,
    /// It was woken and did not get ready in time.
    NotWoken,
    /// As many deliveries wait for it as may.
    Overloaded,
    /// The function or the replica went away meanwhile.
    Gone,
    /// The gateway ended.
    Cut,
}

impl DeliveryOutcome {
    pub const ALL: [Self; 10] = [
        Self::Delivered,
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::Failed,
        Self::Asleep,
        Self::NotWoken,
        Self::Overloaded,
        Self::Gone,
        Self::Cut,
    ];

    /// The metric's label, and the text of a report.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::TimedOut => "timed-out",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
            Self::Asleep => "asleep",
            Self::NotWoken => "not-woken",
            Self::Overloaded => "overloaded",
            Self::Gone => "gone",
            Self::Cut => "cut",
        }
    }
}

/// Events that are counted by their own names. Only those with a subscriber are counted at all, so that publishers
/// cannot invent series; owners that keep renaming theirs cannot either.
pub const NAMES_MAX: usize = 256;

/// The label of all further ones.
pub const OTHERS: &str = "(others)";

/// One event's counts.
#[derive(Debug, Default)]
pub struct EventCounts {
    published: AtomicU64,
    outcomes: [AtomicU64; DeliveryOutcome::ALL.len()],
}

impl EventCounts {
    pub fn count(&self, outcome: DeliveryOutcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// In the order of [`DeliveryOutcome::ALL`].
    pub fn outcomes(&self) -> impl Iterator<Item = (DeliveryOutcome, u64)> {
        DeliveryOutcome::ALL.into_iter().zip(self.outcomes.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

/// Of all events.
#[derive(Debug, Default)]
pub struct EventStats {
    events: Mutex<BTreeMap<Arc<str>, Arc<EventCounts>>>,
    /// From the whole body to the end of a delivery, waiting and all attempts included.
    pub deliveries: Durations,
    pub retries: AtomicU64,
    /// Events whose body is being read or whose deliveries have not ended.
    pub publishing: AtomicI64,
    /// Deliveries that have not ended.
    pub delivering: AtomicI64,
    /// Bytes of bodies in files.
    pub spooled: Arc<AtomicU64>,
}

impl EventStats {
    /// `spooled` is counted by whoever keeps the bodies.
    pub fn new(spooled: Arc<AtomicU64>) -> Self {
        Self { spooled, ..Self::default() }
    }

    /// An event has subscribers and a whole body.
    pub fn published(&self, name: &str) -> Arc<EventCounts> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let name = if events.contains_key(name) || events.len() < NAMES_MAX { name } else { OTHERS };
        let counts = Arc::clone(match events.get(name) {
            Some(counts) => counts,
            None => events.entry(name.into()).or_default(),
        });
        counts.published.fetch_add(1, Ordering::Relaxed);
        counts
    }

    pub fn each(&self) -> Vec<(Arc<str>, Arc<EventCounts>)> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().map(|(name, counts)| (Arc::clone(name), Arc::clone(counts))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_limit_share_one_series() {
        let stats = EventStats::default();
        for number in 0..NAMES_MAX + 10 {
            stats.published(&format!("event-{number}")).count(DeliveryOutcome::Delivered);
        }
        stats.published("event-0");
        let each = stats.each();
        let of = |name: &str| each.iter().find(|(found, _)| &**found == name).map(|(_, counts)| counts.published());
        assert_eq!((each.len(), of("event-0"), of(OTHERS)), (NAMES_MAX + 1, Some(2), Some(10)));
    }

    #[test]
    fn outcomes_are_in_the_order_of_their_numbers() {
        for (number, outcome) in DeliveryOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, number);
        }
    }
}
