//! Which gateway node scales down and publishes: the holder of a `coordination.k8s.io` Lease.
//!
//! A holder counts as gone once its lease has not changed for its duration *on our own clock*: clocks of different
//! nodes are never compared. The lower its ordinal, the sooner a node reaches for a free lease.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use crate::clock::{self, Instant};
use crate::drain;

/// A holder that is silent for this long has lost it.
const DURATION: Duration = Duration::from_secs(8);
const DURATION_SECONDS: i32 = 8;

/// Between two looks at it; a holder renews each time.
const PERIOD: Duration = Duration::from_secs(2);

/// For one exchange with the API server. Shorter than what is left after a missed renewal.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What a node of the next ordinal waits longer for.
const PER_ORDINAL: Duration = Duration::from_millis(500);

/// Who wants the lease.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) namespace: String,
    /// Of the Lease object.
    pub(super) lease: String,
    /// This pod's name.
    pub(super) name: String,
    pub(super) ordinal: u32,
}

/// The lease as last seen.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    holder: String,
    /// Changes with each write.
    version: Option<String>,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    /// Write our name into it.
    Take,
    Wait,
}

/// From when on `me` may take a lease that somebody else holds, or nobody.
fn free_at(seen: &Seen, me: &Candidate) -> Instant {
    let held = if seen.holder.is_empty() { Duration::ZERO } else { DURATION };
    seen.since + held + PER_ORDINAL * me.ordinal
}

/// What to do about the lease at `now`.
fn step(seen: Option<&Seen>, me: &Candidate, now: Instant) -> Step {
    match seen {
        None => Step::Create,
        Some(seen) if seen.holder == me.name || now >= free_at(seen, me) => Step::Take,
        Some(_) => Step::Wait,
    }
}

/// When to look again.
fn next_look(seen: Option<&Seen>, me: &Candidate, now: Instant) -> Instant {
    let next = now + PERIOD;
    match seen.filter(|seen| seen.holder != me.name) {
        Some(seen) => free_at(seen, me).clamp(now + Duration::from_millis(10), next),
        None => next,
    }
}

/// Holds the lease whenever it can, until `end`; then gives it up. `leads` is true while it certainly holds it.
pub(super) async fn run(client: Client, me: Candidate, leads: watch::Sender<bool>, mut end: drain::Watch) {
    let api: Api<LeaseObject> = Api::namespaced(client, &me.namespace);
    let mut seen: Option<Seen> = None;
    let mut held_until: Option<Instant> = None;
    loop {
        let began = clock::now();
        match timeout(ANSWER_TIMEOUT, turn(&api, &me, &mut seen)).await.unwrap_or(Err(Failed::Timeout)) {
            // Counted from before the write: others count from after it.
            Ok(true) => held_until = Some(began + DURATION),
            Ok(false) => held_until = None,
            Err(error) => tracing::warn!(%error, lease = me.lease, "the lease of the leader could not be looked at"),
        }
        let now = clock::now();
        let holds = held_until.is_some_and(|until| now < until);
        announce(&leads, holds, &me);
        let mut next = next_look(seen.as_ref(), &me, now);
        if let Some(until) = held_until.filter(|_| holds) {
            next = next.min(until);
        }
        tokio::select! {
            biased;
            () = end.signaled() => break,
            () = sleep_until(next) => {}
        }
    }
    announce(&leads, false, &me);
    if held_until.is_some() {
        // Without an answer it ends by itself.
        let _given_up = timeout(ANSWER_TIMEOUT, give_up(&api, &me)).await.is_ok();
    }
}

fn announce(leads: &watch::Sender<bool>, holds: bool, me: &Candidate) {
    let changed = leads.send_if_modified(|leads| std::mem::replace(leads, holds) != holds);
    if changed {
        tracing::info!(leads = holds, lease = me.lease, "leadership changed");
    }
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("no answer from the API server in {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    #[error(transparent)]
    Api(#[from] Error),
}

/// One look, and one write where it is due. Whether the lease is ours.
async fn turn(api: &Api<LeaseObject>, me: &Candidate, seen: &mut Option<Seen>) -> Result<bool, Failed> {
    let object = api.get_opt(&me.lease).await?;
    let now = clock::now();
    *seen = object.as_ref().map(|object| look(object, seen.take(), now));
    match step(seen.as_ref(), me, now) {
        Step::Wait => Ok(false),
        Step::Create => {
            api.create(&PostParams::default(), &lease(me, &me.name, None)).await?;
            Ok(true)
        }
        Step::Take => {
            let Some(object) = object else { return Ok(false) };
            match api.replace(&me.lease, &PostParams::default(), &lease(me, &me.name, Some(&object))).await {
                Ok(_) => Ok(true),
                // Somebody else was quicker.
                Err(Error::Api(status)) if status.code == 409 => Ok(false),
                Err(error) => Err(error.into()),
            }
        }
    }
}

fn look(object: &LeaseObject, former: Option<Seen>, now: Instant) -> Seen {
    let holder = object.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
    let version = object.metadata.resource_version.clone();
    match former.filter(|former| former.version == version) {
        Some(former) => former,
        None => Seen { holder, version, since: now },
    }
}

async fn give_up(api: &Api<LeaseObject>, me: &Candidate) -> Result<(), Error> {
    if let Some(object) = api.get_opt(&me.lease).await? {
        api.replace(&me.lease, &PostParams::default(), &lease(me, "", Some(&object))).await?;
    }
    Ok(())
}

/// What to write in place of `former`. An empty holder gives it up.
fn lease(me: &Candidate, holder: &str, former: Option<&LeaseObject>) -> LeaseObject {
    let now = MicroTime(Timestamp::now());
    let former_spec = former.and_then(|former| former.spec.as_ref());
    let transitions = former_spec.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    let acquired = former_spec.and_then(|spec| spec.acquire_time.clone());
    let former_holder = former_spec.and_then(|spec| spec.holder_identity.as_deref());
    // Nobody is no new holder.
    let stays = former_spec.is_some() && (holder.is_empty() || former_holder == Some(holder));
    LeaseObject {
        metadata: ObjectMeta {
            name: Some(me.lease.clone()),
            namespace: Some(me.namespace.clone()),
            // Two writers cannot both succeed.
            resource_version: former.and_then(|former| former.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            acquire_time: acquired.filter(|_| stays).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if stays { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, ordinal: u32) -> Candidate {
        Candidate { namespace: "demo".to_owned(), lease: "slimfaas".to_owned(), name: name.to_owned(), ordinal }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_the_lowest_ordinal_first() {
        let start = clock::now();
        let seen = |holder: &str| Seen { holder: holder.to_owned(), version: None, since: start };
        let check = |seen: Option<&Seen>, ordinal, after: Duration, expected: Step| {
            let me = candidate("me", ordinal);
            assert_eq!(step(seen, &me, start + after), expected, "{seen:?} {ordinal} {after:?}");
        };
        let none = Duration::ZERO;
        check(None, 3, none, Step::Create);
        check(Some(&seen("me")), 3, none, Step::Take);
        check(Some(&seen("")), 0, none, Step::Take);
        check(Some(&seen("")), 1, none, Step::Wait);
        check(Some(&seen("")), 1, PER_ORDINAL, Step::Take);
        check(Some(&seen("other")), 0, DURATION - Duration::from_millis(1), Step::Wait);
        check(Some(&seen("other")), 0, DURATION, Step::Take);
        check(Some(&seen("other")), 2, DURATION, Step::Wait);
        check(Some(&seen("other")), 2, DURATION + PER_ORDINAL * 2, Step::Take);
    }

    #[test]
    fn a_node_looks_again_when_the_lease_may_have_become_free() {
        let start = clock::now();
        let me = candidate("me", 1);
        let other = Seen { holder: "other".to_owned(), version: None, since: start };
        assert_eq!(next_look(Some(&other), &me, start), start + PERIOD);
        let late = start + DURATION;
        assert_eq!(next_look(Some(&other), &me, late), late + PER_ORDINAL);
        let free = Seen { holder: String::new(), ..other };
        assert_eq!(next_look(Some(&free), &me, start), start + PER_ORDINAL);
    }

    #[test]
    fn the_time_of_a_lease_starts_anew_only_when_it_was_written() {
        let start = clock::now();
        let object = |version: &str| LeaseObject {
            metadata: ObjectMeta { resource_version: Some(version.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec { holder_identity: Some("other".to_owned()), ..LeaseSpec::default() }),
        };
        let first = look(&object("1"), None, start);
        let later = start + Duration::from_secs(3);
        assert_eq!(look(&object("1"), Some(first.clone()), later), first);
        assert_eq!(look(&object("2"), Some(first), later).since, later);
    }
}
