//! Further attempts of a synchronous call, for functions whose owner lists them (`DefaultSync`).
//!
//! Only requests whose body fits a small buffer are tried again: a streamed one is gone once it was sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock::Tick;
use crate::proxy::rejection::Side;
use crate::proxy::upstream::{Failure, Outbound};
use crate::proxy::{Core, Forwarded, forward};
use crate::table::view::Function;

/// A body up to this is kept for further attempts. Bounds what a waiting request holds.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Forwards, and again after each delay of the policy while the attempt before failed in a listed way.
pub(super) async fn forward_with_retries(
    core: &Core,
    function: Arc<Function>,
    mut outbound: Outbound,
    now: Tick,
) -> Result<Forwarded, Failure> {
    if outbound.wants_upgrade() || !outbound.keep(KEPT_BYTES_MAX).await? {
        return forward(core, function, outbound, now).await;
    }
    let policy = function.spec.sync_calls.clone();
    for delay in &policy.retry_delays {
        let attempt = outbound.again();
        let result = forward(core, Arc::clone(&function), attempt, now).await;
        if !failed(&result, &policy.retry_statuses) {
            return result;
        }
        // What the failed attempt holds (its slot, its connection) is given up before the wait.
        drop(result);
        core.gateway.stats.retries.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(*delay).await;
    }
    forward(core, function, outbound, now).await
}

fn failed(result: &Result<Forwarded, Failure>, statuses: &[u16]) -> bool {
    match result {
        Ok(forwarded) => statuses.contains(&forwarded.answered.status().as_u16()),
        Err(Failure::Unsent(_)) => true,
        Err(Failure::Sent(rejection)) => rejection.side() == Side::Function,
        Err(Failure::ClientGone) => false,
    }
}
