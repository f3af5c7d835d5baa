//! Counts that many cores write without a lock and a scrape reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the duration buckets, in microseconds: 0.5 ms × 2ⁿ up to 131 s, so that a proxied hop and a
/// call at its time limit both have a bucket of their own.
pub const BUCKETS_MICROS: [u64; 19] = {
    let mut bounds = [500; 19];
    let mut i = 1;
    while i < bounds.len() {
        bounds[i] = bounds[i - 1] * 2;
        i += 1;
    }
    bounds
};

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Durations {
    /// The last one has no upper bound. Not cumulative.
    buckets: [AtomicU64; BUCKETS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

impl Durations {
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Counts per bucket (the last one unbounded) and the sum in seconds.
    pub fn read(&self) -> (Vec<u64>, f64) {
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        (counts, Duration::from_micros(self.sum_micros.load(Ordering::Relaxed)).as_secs_f64())
    }
}

/// First digit of a status as a text: what metrics are labelled with.
pub const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Ended requests by class of status.
#[derive(Debug, Default)]
pub struct StatusCounts([AtomicU64; STATUS_CLASSES.len()]);

impl StatusCounts {
    pub fn count(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, STATUS_CLASSES.len());
        self.0[class - 1].fetch_add(1, Ordering::Relaxed);
    }

    /// In the order of [`STATUS_CLASSES`].
    pub fn read(&self) -> [u64; STATUS_CLASSES.len()] {
        std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed))
    }
}

/// Asynchronous calls, as far as this node has to do with them.
#[derive(Debug, Default)]
pub struct AsyncStats {
    /// From the end of a request's body until it was on the disks of a majority.
    pub stored: Durations,
    /// From then to the start of its first attempt.
    pub waited: Durations,
    pub attempts: Durations,
    /// Of attempts that were answered.
    pub statuses: StatusCounts,
    pub timed_out: AtomicU64,
    pub failed: AtomicU64,
    /// Given back, for another node to make.
    pub unsent: AtomicU64,
}

/// What is stored for one function, and what became of what was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueDepths {
    pub function: String,
    pub namespace: String,
    pub ready: u64,
    pub running: u64,
    /// Answered with 202, not called back yet.
    pub accepted: u64,
    /// Between two attempts.
    pub waiting: u64,
    pub dead: u64,
    pub enqueued: u64,
    pub refused: u64,
    pub succeeded: u64,
    pub failed_attempts: u64,
}

/// The store of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreState {
    pub leads: bool,
    pub term: u64,
    pub last_log: u64,
    pub last_applied: u64,
    pub voters: u64,
    pub votes: bool,
    pub syncs: u64,
    pub sync_time: Duration,
    pub commands: u64,
}

/// Bodies that are files, on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyState {
    pub files: u64,
    pub bytes: u64,
    /// Of stored requests, and not here.
    pub missing: u64,
    pub stored: u64,
    /// Uploads that did not become a stored request, by reason.
    pub refused: Vec<(&'static str, u64)>,
    pub repaired: u64,
    pub damaged: u64,
    pub swept: u64,
}

/// Runs of one job at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobDepths {
    pub job: String,
    pub namespace: String,
    pub queued: u64,
    pub started: u64,
    pub finished: u64,
}

/// What this node has counted of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobCounts {
    pub asked: u64,
    pub refused: u64,
    pub fired: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub not_taken: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_of_its_upper_bound() {
        let durations = Durations::default();
        for micros in [0, 500, 501, 1_000_000_000] {
            durations.record(Duration::from_micros(micros));
        }
        let (counts, sum) = durations.read();
        assert_eq!((counts[0], counts[1], counts[19]), (2, 1, 1));
        assert!((sum - 1_000.001_001).abs() < 1e-9);
    }

    #[test]
    fn a_status_is_counted_by_its_class() {
        let counts = StatusCounts::default();
        for status in [101, 200, 204, 404, 499, 503, 999, 0] {
            counts.count(status);
        }
        assert_eq!(counts.read(), [2, 2, 0, 2, 2]);
    }
}
