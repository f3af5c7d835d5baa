//! Times of day at which a function wakes or changes its inactivity timeout.

use std::time::Duration;

use chrono::NaiveTime;
use chrono_tz::Tz;

/// `SlimFaas/Schedule`, in the wall-clock time of `zone`. What it means at an instant is `scaler::schedule`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub zone: Tz,
    /// Each counts as a call at that time of day. Sorted, without repeats.
    pub wake_ups: Vec<NaiveTime>,
    /// From that time of day on, the inactivity timeout. Sorted by time, one per time.
    pub idle_timeouts: Vec<ScheduledTimeout>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledTimeout {
    pub from: NaiveTime,
    pub timeout: Duration,
}
