//! Whether this process should get traffic: each part that must be up first holds a blocker until it is.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Default)]
pub struct Readiness {
    pending: Arc<Mutex<BTreeSet<&'static str>>>,
}

/// Keeps the process not ready until dropped.
pub struct Blocker {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// `name` says what is waited for, in `/ready`.
    pub fn block(&self, name: &'static str) -> Blocker {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        Blocker { name, readiness: self.clone() }
    }

    /// What is still waited for; empty when ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        self.readiness.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_every_blocker_is_dropped() {
        let readiness = Readiness::default();
        let (cluster, listeners) = (readiness.block("cluster"), readiness.block("listeners"));
        assert_eq!(readiness.pending(), ["cluster", "listeners"]);
        drop(cluster);
        assert_eq!(readiness.pending(), ["listeners"]);
        drop(listeners);
        assert!(readiness.pending().is_empty());
    }
}
