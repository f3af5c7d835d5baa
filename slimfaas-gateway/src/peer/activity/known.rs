//! What the other nodes have told of their functions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Instant, Tick};
use crate::model::function::FunctionId;
use crate::model::peer::Peer;
use crate::peer::digest::{Digest, Scope, Told};

/// Everything is told every five seconds; one second more for what is under way or tried again.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(6);

/// What a peer has told is forgotten when it is neither ready nor heard of for this long: its process is gone, though
/// its pod is still there (a crash loop), and nothing of it may keep functions awake for ever.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// More functions than any node serves.
const FUNCTIONS_PER_PEER_MAX: usize = 50_000;

/// By the name of each other node of the membership.
#[derive(Default)]
pub(super) struct Known(BTreeMap<Arc<str>, KnownPeer>);

struct KnownPeer {
    ready: bool,
    /// Last told, or, before that, when it was first a member.
    heard: Instant,
    /// Everything has been told once in this run.
    complete: bool,
    run: u64,
    sequence: u64,
    functions: BTreeMap<FunctionId, KnownFunction>,
}

struct KnownFunction {
    told: Told,
    /// `told.called` on this node's clock.
    called: Tick,
    /// It was in a part of what is being told as everything.
    marked: bool,
}

/// What all peers together do with a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) called: Tick,
    pub(super) in_flight: u32,
    pub(super) waiting: u32,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotHeard {
    #[error("this node does not know the caller as a peer")]
    Stranger,
    #[error("the digest is older than one before")]
    Outdated,
    #[error("more than 50000 functions were told")]
    TooMany,
}

impl Known {
    /// Takes over the membership; returns the functions of peers that left.
    pub(super) fn follow(&mut self, peers: &[Peer], now: Instant) -> BTreeSet<FunctionId> {
        let mut former = std::mem::take(&mut self.0);
        for peer in peers {
            let known = former.remove(&peer.name);
            let new = || KnownPeer {
                ready: false,
                heard: now,
                complete: false,
                run: 0,
                sequence: 0,
                functions: BTreeMap::new(),
            };
            self.0.insert(Arc::clone(&peer.name), KnownPeer { ready: peer.ready, ..known.unwrap_or_else(new) });
        }
        former.into_values().flat_map(|peer| peer.functions.into_keys()).collect()
    }

    /// Takes what `from` tells; returns the functions that it concerns.
    pub(super) fn hear(&mut self, from: &str, digest: Digest, now: Instant) -> Result<BTreeSet<FunctionId>, NotHeard> {
        let peer = self.0.get_mut(from).ok_or(NotHeard::Stranger)?;
        if digest.run != peer.run {
            // Another life of the node: nothing that was told before is true, until it has told everything.
            (peer.run, peer.complete) = (digest.run, false);
        } else if digest.sequence <= peer.sequence {
            return Err(NotHeard::Outdated);
        }
        peer.sequence = digest.sequence;
        peer.heard = now;
        let (first, last) = match digest.scope {
            Scope::Changes => (false, false),
            Scope::Everything { first, last } => (first, last),
        };
        if first {
            peer.functions.values_mut().for_each(|function| function.marked = false);
        }
        let mut concerned = BTreeSet::new();
        for told in digest.functions {
            if peer.functions.len() >= FUNCTIONS_PER_PEER_MAX && !peer.functions.contains_key(&told.id) {
                return Err(NotHeard::TooMany);
            }
            concerned.insert(told.id.clone());
            peer.take(told, digest.now, now);
        }
        if last {
            peer.complete = true;
            peer.functions.retain(|id, function| {
                if !function.marked {
                    concerned.insert(id.clone());
                }
                function.marked
            });
        }
        Ok(concerned)
    }

    pub(super) fn sum(&self, id: &FunctionId) -> Sum {
        let mut sum = Sum { called: Tick::NEVER, in_flight: 0, waiting: 0 };
        for function in self.0.values().filter_map(|peer| peer.functions.get(id)) {
            sum.called = sum.called.max(function.called);
            sum.in_flight = sum.in_flight.saturating_add(function.told.in_flight);
            sum.waiting = sum.waiting.saturating_add(function.told.waiting);
        }
        sum
    }

    /// Forgets what was told by peers that are lost; returns their functions.
    pub(super) fn forget_lost(&mut self, now: Instant) -> BTreeSet<FunctionId> {
        let lost = self.0.values_mut().filter(|peer| !peer.ready && now >= peer.heard + LOST_AFTER);
        lost.flat_map(|peer| std::mem::take(&mut peer.functions).into_keys()).collect()
    }

    /// Ready peers of which this node does not know what they do.
    pub(super) fn silent(&self, now: Instant) -> Vec<Arc<str>> {
        let silent = self.0.iter().filter(|(_, peer)| peer.ready && (!peer.complete || now > peer.heard + SILENCE_MAX));
        silent.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// When one of the answers above may change by itself.
    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        let changes = self.0.values().map(|peer| match peer.ready {
            true => peer.heard + SILENCE_MAX + Duration::from_millis(1),
            false => peer.heard + LOST_AFTER,
        });
        changes.filter(|change| *change > now).min()
    }
}

impl KnownPeer {
    fn take(&mut self, told: Told, told_at: Tick, now: Instant) {
        let called = match self.functions.get(&told.id) {
            // The same call: when it was is known better from the first time it was told, with less on the way.
            Some(known) if known.told.called == told.called => known.called,
            _ if told.called == Tick::NEVER => Tick::NEVER,
            _ => before(Tick::of(now), told.called.until(told_at)),
        };
        self.functions.insert(told.id.clone(), KnownFunction { told, called, marked: true });
    }
}

/// `tick` less `age`; not [`Tick::NEVER`].
fn before(tick: Tick, age: Duration) -> Tick {
    Tick(tick.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)).max(1))
}

#[cfg(test)]
mod tests;
