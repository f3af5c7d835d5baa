//! The only place that reads a clock, so that a simulation can replace it and pure code never needs one.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
pub use tokio::time::Instant;

/// Monotonic time.
#[expect(clippy::disallowed_methods, reason = "this is the one caller")]
pub fn now() -> Instant {
    Instant::now()
}

/// Resolves at the instant; never, without one.
pub async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Wall-clock time, for schedules and for people; never for durations.
#[expect(clippy::disallowed_methods, reason = "this is the one caller")]
pub fn utc() -> DateTime<Utc> {
    match SIMULATED.get() {
        Some((at, shown)) => shown + now().saturating_duration_since(at),
        None => Utc::now(),
    }
}

thread_local! {
    static SIMULATED: Cell<Option<(Instant, DateTime<Utc>)>> = const { Cell::new(None) };
}

/// For simulations, which run on one thread: there the wall clock shows `shown` at the instant `at`, and goes on from it
/// with the monotonic clock.
pub fn simulate_utc(at: Instant, shown: DateTime<Utc>) {
    SIMULATED.set(Some((at, shown)));
}

/// Wall-clock time in milliseconds since 1970, for ids and for what is shown to people.
pub fn unix_millis() -> u64 {
    u64::try_from(utc().timestamp_millis()).unwrap_or(0)
}

/// Milliseconds since this process first read its clock: an instant that fits an atomic. Zero is "never".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

static ORIGIN: OnceLock<Instant> = OnceLock::new();

impl Tick {
    pub const NEVER: Self = Self(0);

    /// The tick of an instant already read.
    pub fn of(instant: Instant) -> Self {
        // One second ahead of the first reading, so that no real tick is zero.
        let origin = *ORIGIN.get_or_init(|| instant - Duration::from_secs(1));
        let millis = instant.saturating_duration_since(origin).as_millis();
        Self(u64::try_from(millis).unwrap_or(u64::MAX).max(1))
    }

    /// Time from `self` to `later`; zero when `later` is not later.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

impl std::ops::Add<Duration> for Tick {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)))
    }
}
