//! Counts of the traffic plane, over all functions: written without locks, read by a scrape.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use slimfaas_ebpf::contract::Verdict;

use crate::model::stats::{Durations, StatusCounts};
use crate::table::start::ColdStart;

/// Methods that are counted under their own name; every other one is `OTHER`, since clients can invent names.
pub const METHODS: [&str; 8] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "OTHER"];

/// Reasons of `Rejection::name`, in a fixed order.
pub const REASONS: [&str; 18] = [
    "not-found",
    "method-not-allowed",
    "bad-request",
    "body-too-large",
    "body-too-slow",
    "too-many-waiting",
    "wake-timeout",
    "slot-timeout",
    "queue-full",
    "storage-full",
    "queue-unavailable",
    "invalid-event",
    "unsupported-event-format",
    "events-full",
    "function-removed",
    "connect-failed",
    "response-timeout",
    "response-failed",
];

/// What the answer to "who calls?" stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The kernel's word.
    Kernel,
    /// The exact address of a pod, or a process's sockets: nothing better was there.
    Address,
}

impl Proof {
    pub(super) const NAMES: [&str; 2] = ["kernel", "address"];
}

/// What the kernel says of accepted connections, in the order of the numbers of `Verdict`; then that it says nothing,
/// since no agent's programs run on this node.
pub(super) const VERDICTS: [&str; 5] = ["untagged", "known", "foreign", "forged", "no-agent"];

#[derive(Debug, Default)]
pub struct TrafficStats {
    /// Requests between their head and the end of their response.
    pub in_progress: AtomicI64,
    pub(super) connections: AtomicI64,
    pub(super) statuses: [StatusCounts; METHODS.len()],
    pub(super) durations: Durations,
    /// In the order of `ColdStart::PARTS`, and the gateway's own share.
    pub(super) cold_starts: [Durations; ColdStart::PARTS.len() + 1],
    pub(super) rejections: [AtomicU64; REASONS.len()],
    /// Decisions about callers, by what they stand on.
    pub(super) proofs: [AtomicU64; Proof::NAMES.len()],
    /// Accepted connections, where the kernel's word is understood.
    pub(super) verdicts: [AtomicU64; VERDICTS.len()],
    pub(super) clients_gone: AtomicU64,
    pub(super) responses_cut: AtomicU64,
    /// Further attempts of synchronous calls.
    pub retries: AtomicU64,
}

impl TrafficStats {
    pub fn ended(&self, method: &Method, status: u16, took: Duration) {
        let method = METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1);
        self.statuses[method].count(status);
        self.durations.record(took);
    }

    /// A call got the replica that it had waited for.
    pub fn started_cold(&self, receipt: &ColdStart) {
        let times = receipt.parts().map(|(_, time)| time).chain([receipt.own()]);
        self.cold_starts.iter().zip(times).for_each(|(durations, time)| durations.record(time));
    }

    pub fn rejected(&self, reason: &str) {
        let index = REASONS.iter().position(|name| *name == reason);
        debug_assert!(index.is_some(), "{reason} is not in REASONS");
        if let Some(index) = index {
            self.rejections[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It had to be known who calls.
    pub fn proven(&self, proof: Proof) {
        self.proofs[proof as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The kernel's word on an accepted connection; an unknown one counts as none.
    pub fn told(&self, verdict: Option<Verdict>) {
        let place = verdict.unwrap_or(Verdict::Untagged).as_u32() as usize;
        self.verdicts[place].fetch_add(1, Ordering::Relaxed);
    }

    /// No agent's programs are there to answer.
    pub fn untold(&self) {
        self.verdicts[VERDICTS.len() - 1].fetch_add(1, Ordering::Relaxed);
    }

    /// The client went away before the end of its response.
    pub fn client_gone(&self) {
        self.clients_gone.fetch_add(1, Ordering::Relaxed);
    }

    /// The function broke off after the head of its response.
    pub fn cut(&self) {
        self.responses_cut.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an open client connection until dropped.
    pub fn connection(self: &Arc<Self>) -> OpenConnection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(self))
    }
}

pub struct OpenConnection(Arc<TrafficStats>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
