//! When this node asks for votes.
//!
//! openraft could do it, but draws its patience once for the life of a process, and looks at it at fixed ticks: two
//! followers that happen to be close then collide in one election after the other, and nobody leads for seconds. Here
//! every wait is drawn anew. And of two candidates the one with more of the log goes first: the other cannot win, and
//! whenever it asks it takes the next term, which its peer then cannot win any more either.

use std::sync::Mutex;
use std::time::Duration;

use openraft::raft::{VoteRequest, VoteResponse};
use rand::RngCore;
use tokio::sync::Notify;

use super::proposer::Way;
use super::serve::leads;
use super::shared::lock;
use super::types::{Entropy, LogId};
use crate::clock::{self, Instant};

/// For so long after it heard a leader, a node gives its vote to nobody else. Three and a half heartbeats outlive a sync
/// of 250 ms, which disks that are not broken rarely need.
pub(super) const LEASE: Duration = Duration::from_millis(350);

/// The others heard the leader last at almost the same time.
const MARGIN: Duration = Duration::from_millis(20);

/// Waits are spread over so much; a vote takes two syncs and a round trip, a small part of it.
const SPREAD: Duration = Duration::from_millis(250);

/// For the votes to come, at least, before they are asked for again.
const VOTES: Duration = Duration::from_millis(150);

/// Whoever wakes so much too late stood still, and so has not listened either.
const OVERSLEPT: Duration = Duration::from_millis(100);

/// What was heard of leaders and candidates.
#[derive(Default)]
pub(super) struct Heard {
    led: Mutex<Option<Instant>>,
    /// When a peer was found to have more of the log.
    behind: Mutex<Option<Instant>>,
    /// A candidate has less of it.
    ahead: Notify,
}

impl Heard {
    /// A leader has spoken.
    pub(super) fn leader(&self) {
        *lock(&self.led) = Some(clock::now());
    }

    fn leader_since(&self, since: Instant) -> Option<Instant> {
        lock(&self.led).filter(|led| *led > since)
    }

    fn lease_is_over(&self) -> bool {
        lock(&self.led).is_none_or(|led| clock::now().saturating_duration_since(led) > LEASE)
    }

    /// A peer is about to be asked for its vote by another one. If it will give it, it had better not ask for votes while
    /// that is being written.
    pub(super) fn candidate(&self, request: &VoteRequest<u64>, last: Option<LogId>) {
        if self.lease_is_over() && request.last_log_id >= last {
            self.leader();
        }
    }

    /// What this node has answered to a candidate.
    pub(super) fn answered(&self, request: &VoteRequest<u64>, response: &VoteResponse<u64>) {
        if response.vote_granted {
            self.leader();
        } else if response.last_log_id > request.last_log_id && self.lease_is_over() {
            self.ahead.notify_one();
        }
    }

    /// What a peer has answered to this node as a candidate.
    pub(super) fn was_answered(&self, request: &VoteRequest<u64>, response: &VoteResponse<u64>) {
        if response.vote_granted {
            return;
        }
        if response.last_log_id > request.last_log_id {
            *lock(&self.behind) = Some(clock::now());
        } else if response.last_log_id < request.last_log_id && !response.vote.is_committed() {
            // It has asked for votes itself, in this term or a later one.
            self.ahead.notify_one();
        }
    }

    fn is_behind_since(&self, since: Instant) -> bool {
        lock(&self.behind).is_some_and(|behind| behind >= since)
    }
}

/// What the next wait is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// A leader was heard.
    Leader,
    /// Votes were asked for.
    Votes,
}

/// From then on until votes are asked for.
fn patience(wait: Wait, random: u64) -> Duration {
    let spread = u64::try_from(SPREAD.as_micros()).expect("less than a second");
    let base = match wait {
        Wait::Leader => LEASE + MARGIN,
        Wait::Votes => VOTES,
    };
    base + Duration::from_micros(random % spread)
}

/// Asks for votes whenever no leader is heard. Ends with Raft.
pub(super) async fn run(way: Way) {
    let heard = &way.links.elections;
    let (mut since, mut wait) = (clock::now(), Wait::Leader);
    loop {
        if !stands_by(&way).await {
            return;
        }
        let mut until = since + patience(wait, Entropy.next_u64());
        let is_first = tokio::select! {
            biased;
            () = heard.ahead.notified() => true,
            () = tokio::time::sleep_until(until) => false,
        };
        if wait == Wait::Votes && !is_first && heard.is_behind_since(since) {
            // The other has had the time to ask, and is asked itself by those who had none.
            until += VOTES + SPREAD;
            tokio::time::sleep_until(until).await;
        }
        let now = clock::now();
        let is_too_late = now > until + OVERSLEPT;
        // A candidate that nobody votes for was refused before there was a leader.
        let is_outdated = is_first && !heard.lease_is_over();
        if let Some(led) = heard.leader_since(since) {
            (since, wait) = (led, Wait::Leader);
        } else if is_too_late || is_outdated {
            (since, wait) = (now, Wait::Leader);
        } else if is_voter(&way) && !leads(&way.raft, way.links.node) {
            (since, wait) = (now, Wait::Votes);
            if way.raft.trigger().elect().await.is_err() {
                return;
            }
        } else {
            (since, wait) = (now, Wait::Leader);
        }
    }
}

/// Waits while this node leads, when there is nothing to ask for. False: Raft has ended.
async fn stands_by(way: &Way) -> bool {
    let mut metrics = way.raft.server_metrics();
    metrics.wait_for(|now| now.current_leader != Some(way.links.node)).await.is_ok()
}

fn is_voter(way: &Way) -> bool {
    let metrics = way.raft.server_metrics();
    let metrics = metrics.borrow();
    metrics.membership_config.voter_ids().any(|voter| voter == way.links.node)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use openraft::{CommittedLeaderId, Vote};

    use super::*;

    #[test]
    fn nobody_asks_while_the_others_would_refuse() {
        for random in [0, 1, 12_345_678, u64::MAX] {
            let first = patience(Wait::Leader, random);
            assert!(first > LEASE && first < LEASE + MARGIN + SPREAD, "{first:?}");
            assert!(patience(Wait::Votes, random) >= VOTES);
        }
        assert_ne!(patience(Wait::Votes, 1000), patience(Wait::Votes, 2000));
    }

    fn log(index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId::new(1, 1), index))
    }

    /// What is noted of an answer: a leader (soon), being behind, being ahead.
    fn noted(heard: &Heard) -> (bool, bool, bool) {
        let ahead = heard.ahead.notified().now_or_never().is_some();
        (lock(&heard.led).is_some(), lock(&heard.behind).is_some(), ahead)
    }

    #[test]
    fn of_two_candidates_the_one_with_more_goes_first() {
        let request = |last| VoteRequest::new(Vote::new(3, 1), log(last));
        let response = |last, granted| VoteResponse::new(Vote::new(3, 2), log(last), granted);
        let asked = |mine, theirs, granted| {
            let heard = Heard::default();
            heard.answered(&request(theirs), &response(mine, granted));
            noted(&heard)
        };
        assert_eq!(asked(5, 5, true), (true, false, false));
        assert_eq!(asked(6, 5, false), (false, false, true));
        assert_eq!(asked(5, 5, false), (false, false, false));
        let asks = |mine, theirs, granted| {
            let heard = Heard::default();
            heard.was_answered(&request(mine), &response(theirs, granted));
            noted(&heard)
        };
        assert_eq!(asks(5, 5, true), (false, false, false));
        assert_eq!(asks(5, 6, false), (false, true, false));
        assert_eq!(asks(6, 5, false), (false, false, true));
        assert_eq!(asks(5, 5, false), (false, false, false));
    }

    #[test]
    fn a_vote_that_will_be_given_is_waited_for() {
        let request = VoteRequest::new(Vote::new(3, 1), log(5));
        let heard = Heard::default();
        heard.candidate(&request, log(6));
        assert_eq!(noted(&heard), (false, false, false));
        heard.candidate(&request, log(5));
        assert_eq!(noted(&heard), (true, false, false));
        // Who has heard a leader just now refuses, whoever asks.
        heard.answered(&request, &VoteResponse::new(Vote::new(3, 2), log(6), false));
        assert_eq!(noted(&heard), (true, false, false));
    }
}
