//! What the peer port counts, without locks.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::peer::service::{CallError, Kind};

/// How calls end, as metrics name it.
pub const OUTCOMES: [&str; 4] = ["done", "failed", "not-done", "unknown"];

#[derive(Debug, Default)]
pub struct PeerStats {
    /// Calls that this node made, by [`Kind::ALL`] and [`OUTCOMES`].
    pub calls: [[AtomicU64; OUTCOMES.len()]; Kind::ALL.len()],
    /// Requests that this node's services ran, by [`Kind::ALL`].
    pub served: [AtomicU64; Kind::ALL.len()],
    /// Encrypted, in both roles.
    pub bytes_sent: AtomicU64,
    pub bytes_received: AtomicU64,
    /// Connections that are open, by who opened them.
    pub outgoing: AtomicI64,
    pub incoming: AtomicI64,
    pub handshakes_failed_outgoing: AtomicU64,
    pub handshakes_failed_incoming: AtomicU64,
    /// Ready peers of which nothing has been heard for too long.
    pub silent: AtomicI64,
}

impl PeerStats {
    pub(super) fn called<T>(&self, kind: Kind, result: &Result<T, CallError>) {
        let outcome = match result {
            Ok(_) => 0,
            Err(CallError::Failed(_)) => 1,
            Err(CallError::NotDone(_)) => 2,
            Err(CallError::Unknown(_)) => 3,
        };
        self.calls[kind.index()][outcome].fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts a connection for as long as it is open.
pub(super) struct Open<'a>(&'a AtomicI64);

impl<'a> Open<'a> {
    pub(super) fn count(gauge: &'a AtomicI64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
