//! One permission to have a request in flight, for a function and for one endpoint of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::clock::Tick;
use crate::model::function::FunctionId;
use crate::proxy::rejection::Rejection;
use crate::proxy::wake::Waiting;
use crate::table::Table;
use crate::table::activity::Live;
use crate::table::view::{Endpoint, Function};

/// Held while a request is in flight; given back when dropped.
pub struct Slot {
    pub endpoint: Arc<Endpoint>,
    live: Arc<Live>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.live.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.live.slot_queue.notify_head();
        self.endpoint.turns.slot_freed();
    }
}

/// A slot of this very endpoint within `timeout`, in the same queue as all other requests of the function: but who waits
/// for an endpoint of its own leaves the others' way. `Ok(None)`: the endpoint is gone.
pub(super) async fn acquire_at(
    table: &Table,
    id: &FunctionId,
    endpoint: &Arc<Endpoint>,
    timeout: std::time::Duration,
) -> Result<Option<Slot>, Rejection> {
    let queued = async {
        let Some(function) = table.view().function(id).cloned() else { return Err(Rejection::FunctionRemoved) };
        if function.live.slot_queue.is_empty() {
            match take_at(&function, endpoint) {
                Ok(slot) => return Ok(Some(slot)),
                Err(RefusalAt::Gone) => return Ok(None),
                Err(RefusalAt::Busy | RefusalAt::EndpointBusy) => {}
            }
        }
        loop {
            let place = function.live.slot_queue.join();
            let (freed, _awaiting) = endpoint.turns.await_slot();
            tokio::pin!(freed);
            loop {
                place.turn().await;
                freed.as_mut().enable();
                let Some(current) = table.view().function(id).cloned() else { return Err(Rejection::FunctionRemoved) };
                match take_at(&current, endpoint) {
                    Ok(slot) => return Ok(Some(slot)),
                    Err(RefusalAt::Gone) => return Ok(None),
                    Err(RefusalAt::Busy) => {}
                    Err(RefusalAt::EndpointBusy) => break,
                }
            }
            drop(place);
            freed.await;
        }
    };
    tokio::time::timeout(timeout, queued).await.map_err(|_elapsed| Rejection::SlotTimeout { after: timeout })?
}

/// What keeps a request from a slot of one endpoint.
enum RefusalAt {
    /// Every slot of the function is taken.
    Busy,
    /// Every slot of this endpoint is.
    EndpointBusy,
    Gone,
}

fn take_at(function: &Function, endpoint: &Arc<Endpoint>) -> Result<Slot, RefusalAt> {
    let limits = function.spec.parallel;
    if !raise(&function.live.in_flight, limits.per_function) {
        return Err(RefusalAt::Busy);
    }
    if !raise(&endpoint.in_flight, limits.per_pod) {
        function.live.in_flight.fetch_sub(1, Ordering::SeqCst);
        return Err(RefusalAt::EndpointBusy);
    }
    let slot = Slot { endpoint: Arc::clone(endpoint), live: Arc::clone(&function.live) };
    // After the count: whoever retires an endpoint looks at that.
    if endpoint.is_retired() { Err(RefusalAt::Gone) } else { Ok(slot) }
}

/// What keeps a request from a slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Every slot is taken: wait.
    Busy,
    /// The view has no endpoint any more: wake again.
    NoEndpoint,
}

/// A slot of the least loaded endpoint: at once, or first come, first served, within `timeout`.
/// `Ok(None)`: the function's endpoints are gone, so it must be woken again.
pub(super) async fn acquire(
    table: &Table,
    function: &Function,
    now: Tick,
    waiting_max: u32,
    timeout: std::time::Duration,
) -> Result<Option<Slot>, Rejection> {
    if function.live.slot_queue.is_empty() {
        match take(function, now) {
            Ok(slot) => return Ok(Some(slot)),
            // The view that this request read is older than the endpoints' end.
            Err(Refusal::NoEndpoint) => return Ok(None),
            Err(Refusal::Busy) => {}
        }
    }
    let _waiting = Waiting::enter(function, waiting_max)?;
    let place = function.live.slot_queue.join();
    let queued = async {
        loop {
            place.turn().await;
            let view = table.view();
            let Some(current) = view.function(&function.id) else { return Err(Rejection::FunctionRemoved) };
            match take(current, now) {
                Ok(slot) => return Ok(Some(slot)),
                Err(Refusal::NoEndpoint) => return Ok(None),
                Err(Refusal::Busy) => {}
            }
        }
    };
    tokio::time::timeout(timeout, queued).await.map_err(|_elapsed| Rejection::SlotTimeout { after: timeout })?
}

fn take(function: &Function, now: Tick) -> Result<Slot, Refusal> {
    let limits = function.spec.parallel;
    if !raise(&function.live.in_flight, limits.per_function) {
        return Err(Refusal::Busy);
    }
    let refusal = match least_loaded(function, now) {
        None => Refusal::NoEndpoint,
        Some(endpoint) if raise(&endpoint.in_flight, limits.per_pod) => {
            let slot = Slot { endpoint: Arc::clone(endpoint), live: Arc::clone(&function.live) };
            if !slot.endpoint.is_retired() {
                return Ok(slot);
            }
            drop(slot);
            return Err(Refusal::NoEndpoint);
        }
        Some(_) => Refusal::Busy,
    };
    function.live.in_flight.fetch_sub(1, Ordering::SeqCst);
    Err(refusal)
}

/// Adds one unless that goes over `limit`.
fn raise(counter: &AtomicU32, limit: Option<u32>) -> bool {
    match limit {
        None => {
            counter.fetch_add(1, Ordering::SeqCst);
            true
        }
        Some(limit) => {
            let below = |count| (count < limit).then_some(count + 1);
            counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, below).is_ok()
        }
    }
}

/// The endpoint with the fewest requests in flight; ties go round. One that refused a connection lately comes last.
fn least_loaded(function: &Function, now: Tick) -> Option<&Arc<Endpoint>> {
    let endpoints = &function.endpoints;
    if let [only] = &**endpoints {
        return Some(only);
    }
    let start = function.live.rotation.fetch_add(1, Ordering::Relaxed) as usize;
    let load = |endpoint: &Endpoint| {
        (endpoint.is_retired(), endpoint.avoided_until() > now, endpoint.in_flight.load(Ordering::Relaxed))
    };
    (0..endpoints.len())
        .map(|i| &endpoints[(start + i) % endpoints.len()])
        .min_by_key(|endpoint| load(endpoint))
        .filter(|endpoint| !endpoint.is_retired())
}
