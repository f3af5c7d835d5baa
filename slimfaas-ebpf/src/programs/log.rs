//! What the programs say, if they are built to: it costs a call of a helper for each connection that is dropped, and
//! whoever is dropped decides how many there are.

use aya_ebpf::programs::SkBuffContext;
use slimfaas_ebpf::policy::GuardOutcome;

/// A connection to a guarded port was dropped.
#[cfg(feature = "log")]
#[inline(always)]
pub(crate) fn dropped(context: &SkBuffContext, port: u16, outcome: GuardOutcome) {
    aya_log_ebpf::info!(context, "dropped a connection to port {}: {}", port, outcome.as_str());
}

#[cfg(not(feature = "log"))]
#[inline(always)]
pub(crate) fn dropped(_context: &SkBuffContext, _port: u16, _outcome: GuardOutcome) {}
