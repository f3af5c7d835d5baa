//! Counts of what happens to bodies.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::stats::BodyState;

/// Why an upload did not become a stored request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client broke off, or sent what is refused.
    Abandoned,
    /// Too many uploads were under way.
    Busy,
    /// The disk of this node, or of too many others, is nearly full.
    Full,
    /// No majority of nodes took it, or the log did not.
    NotStored,
    /// This node's disk failed.
    Failed,
}

impl Ended {
    const ALL: [(Self, &str); 5] = [
        (Self::Abandoned, "abandoned"),
        (Self::Busy, "busy"),
        (Self::Full, "full"),
        (Self::NotStored, "not-stored"),
        (Self::Failed, "failed"),
    ];
}

#[derive(Debug, Default)]
pub(super) struct BodyStats {
    pub(super) stored: AtomicU64,
    ended: [AtomicU64; Ended::ALL.len()],
    /// Fetched from another node.
    pub(super) repaired: AtomicU64,
    /// Found not to be what they should be.
    pub(super) damaged: AtomicU64,
    /// Removed because no element named them.
    pub(super) swept: AtomicU64,
    /// As of the last look, named by an element and not here.
    pub(super) missing: AtomicU64,
}

impl BodyStats {
    pub(super) fn count(&self, ended: Ended) {
        if let Some(at) = Ended::ALL.iter().position(|(known, _)| *known == ended) {
            add(&self.ended[at]);
        }
    }

    pub(super) fn state(&self, files: u64, bytes: u64) -> BodyState {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        BodyState {
            files,
            bytes,
            missing: read(&self.missing),
            stored: read(&self.stored),
            refused: Ended::ALL.iter().zip(&self.ended).map(|((_, name), count)| (*name, read(count))).collect(),
            repaired: read(&self.repaired),
            damaged: read(&self.damaged),
            swept: read(&self.swept),
        }
    }
}

pub(super) fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}
