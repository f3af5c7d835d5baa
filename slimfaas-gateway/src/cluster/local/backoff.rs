//! Time between the end of a process and its next start.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// A process that ran this long was well: its next end is a first one again.
const STABLE: Duration = Duration::from_secs(30);

pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The delay after a process that ran for `ran`.
    pub(super) fn after(&mut self, ran: Duration) -> Duration {
        if ran >= STABLE {
            self.next = FIRST;
        }
        let delay = self.next;
        self.next = (delay * 2).min(LONGEST);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_start_again_after_a_stable_run() {
        let mut backoff = Backoff::new();
        let ran = [0, 0, 29, 0, 0, 0, 0, 30, 0].map(Duration::from_secs);
        let delays = ran.map(|ran| backoff.after(ran).as_secs());
        assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30, 1, 2]);
    }
}
