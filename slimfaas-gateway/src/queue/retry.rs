//! What follows the end of an attempt.

use super::element::{End, Policy};

/// A call that was given back unsent is offered again after this time, so that a function whose replicas vanish does
/// not make a peer spin.
pub const RETURNED_DELAY_MS: u64 = 100;

/// An element may take this many peers down with it before that counts as failed attempts.
pub const LOSSES_FREE: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Forget the element.
    Done,
    /// The function answered 202: wait for its callback.
    AwaitCallback,
    /// Another counted attempt after this many milliseconds.
    Retry(u64),
    /// The same attempt again after this many milliseconds; it does not count.
    Repeat(u64),
    /// No attempt is left, or none would help.
    Dead,
}

/// `tries`: counted attempts including the one that ended; `losses`: attempts lost with their peer, including this one.
pub fn decide(policy: &Policy, tries: u32, losses: u32, end: &End) -> Next {
    match end {
        End::Status(202) => Next::AwaitCallback,
        End::Status(status) if policy.retry_statuses.contains(status) => retry(policy, tries),
        // The function will say the same the next time; a person should see it.
        End::Status(400..) => Next::Dead,
        End::Status(_) | End::CalledBack => Next::Done,
        End::Returned => Next::Repeat(RETURNED_DELAY_MS),
        End::PeerLost if losses <= LOSSES_FREE => Next::Repeat(0),
        // Nobody knows whether the function did its work: at least once means again, whatever the statuses say.
        End::PeerLost | End::TimedOut | End::NoCallback | End::CallbackFailed | End::Failed(_) => retry(policy, tries),
    }
}

/// Whether no retry follows the try with this number (counted from 1).
pub fn is_last(policy: &Policy, try_number: u32) -> bool {
    delay(policy, try_number).is_none()
}

fn retry(policy: &Policy, tries: u32) -> Next {
    delay(policy, tries).map_or(Next::Dead, Next::Retry)
}

fn delay(policy: &Policy, tries: u32) -> Option<u64> {
    let index = usize::try_from(tries.saturating_sub(1)).ok()?;
    policy.retry_delays_ms.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tries: u32, end: End, expected: Next) {
        let policy = Policy { timeout_ms: 1000, retry_delays_ms: vec![20, 40], retry_statuses: vec![500, 404] };
        assert_eq!(decide(&policy, tries, 0, &end), expected, "{end:?}");
    }

    #[test]
    fn each_end_has_its_consequence() {
        check(1, End::Status(200), Next::Done);
        check(1, End::Status(302), Next::Done);
        check(1, End::Status(202), Next::AwaitCallback);
        check(1, End::Status(400), Next::Dead);
        check(1, End::Status(504), Next::Dead);
        check(1, End::Status(404), Next::Retry(20));
        check(1, End::Status(500), Next::Retry(20));
        check(2, End::Status(500), Next::Retry(40));
        check(3, End::Status(500), Next::Dead);
        check(1, End::TimedOut, Next::Retry(20));
        check(1, End::NoCallback, Next::Retry(20));
        check(1, End::CallbackFailed, Next::Retry(20));
        check(3, End::Failed("refused".to_owned()), Next::Dead);
        check(3, End::CalledBack, Next::Done);
        check(3, End::Returned, Next::Repeat(RETURNED_DELAY_MS));
        check(3, End::PeerLost, Next::Repeat(0));
    }

    #[test]
    fn losing_peers_again_and_again_counts() {
        let policy = Policy { timeout_ms: 1000, retry_delays_ms: vec![20], retry_statuses: Vec::new() };
        assert_eq!(decide(&policy, 1, LOSSES_FREE, &End::PeerLost), Next::Repeat(0));
        assert_eq!(decide(&policy, 1, LOSSES_FREE + 1, &End::PeerLost), Next::Retry(20));
        assert_eq!(decide(&policy, 2, LOSSES_FREE + 2, &End::PeerLost), Next::Dead);
    }

    #[test]
    fn only_the_last_try_is_the_last() {
        let policy = Policy { timeout_ms: 1000, retry_delays_ms: vec![20, 40], retry_statuses: Vec::new() };
        assert_eq!([1, 2, 3, 4].map(|number| is_last(&policy, number)), [false, false, true, true]);
    }
}
