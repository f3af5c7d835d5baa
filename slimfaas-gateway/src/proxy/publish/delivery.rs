//! One delivery: an event to one replica or external address, in its turn, with further attempts.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::request;
use tokio::sync::mpsc;

use super::Publishing;
use super::report::Report;
use crate::clock::{self, Instant, Tick};
use crate::drain;
use crate::events::spool::Payload;
use crate::model::spec::CallPolicy;
use crate::proxy::body::RequestBody;
use crate::proxy::rejection::Rejection;
use crate::proxy::slot::{self, Slot};
use crate::proxy::upstream::{self, Failure, Outbound};
use crate::proxy::{Core, wake};
use crate::table::turns;
use crate::table::view::{Endpoint, Function};
use crate::telemetry::events::{DeliveryOutcome, EventCounts};

/// What every delivery of an event shares.
pub(super) struct Event {
    /// As targets get it.
    pub(super) head: request::Parts,
    pub(super) payload: Payload,
    /// When its body was whole.
    pub(super) began: Instant,
    pub(super) counts: Arc<EventCounts>,
    pub(super) _publishing: Publishing,
}

impl Event {
    /// A copy to be sent. The error: the body cannot be read any more.
    fn outbound(&self) -> std::io::Result<Outbound> {
        let body = match &self.payload {
            Payload::Memory(bytes) => RequestBody::of(bytes.clone()),
            Payload::File(file) => RequestBody::stored(file.open()?, self.payload.bytes()),
        };
        Ok(Outbound::new(self.head.clone(), body))
    }
}

/// Where an event goes.
pub(super) enum Target {
    Replica(Arc<Function>, Arc<Endpoint>),
    External(Arc<Endpoint>),
    /// It has no replica.
    Asleep(Arc<Function>),
}

/// A function's: every ready replica, each address once (a template may lead to one address for all replicas).
pub(super) fn targets(function: Arc<Function>) -> Vec<Target> {
    if function.endpoints.is_empty() {
        return vec![Target::Asleep(function)];
    }
    let mut endpoints: Vec<&Arc<Endpoint>> = Vec::with_capacity(function.endpoints.len());
    let mut seen = std::collections::HashSet::with_capacity(function.endpoints.len());
    endpoints.extend(function.endpoints.iter().filter(|e| seen.insert((&e.address, &e.base_path))));
    endpoints.into_iter().map(|endpoint| Target::Replica(Arc::clone(&function), Arc::clone(endpoint))).collect()
}

/// Delivers in a task of its own, which goes on when the publisher has gone away, until the drain's deadline.
#[expect(clippy::disallowed_methods, reason = "a delivery's task is held by its drain watch")]
pub(super) fn start(
    core: &Rc<Core>,
    event: Rc<Event>,
    target: Target,
    reports: mpsc::UnboundedSender<Report>,
    mut drain: drain::Watch,
) {
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        let stats = core.gateway.events.stats();
        stats.delivering.fetch_add(1, Ordering::Relaxed);
        let mut report = Report::begin(&target);
        let further = drain.clone();
        let delivery = deliver(&core, &event, target, &mut report, &reports, &further);
        let outcome = tokio::select! {
            biased; // what has ended has ended
            outcome = delivery => outcome,
            () = drain.forced() => Some(DeliveryOutcome::Cut),
        };
        stats.delivering.fetch_sub(1, Ordering::Relaxed);
        // `None`: others go on with it.
        let Some(outcome) = outcome else { return };
        let took = event.began.elapsed();
        stats.deliveries.record(took);
        event.counts.count(outcome);
        report.end(outcome, took);
        if outcome != DeliveryOutcome::Delivered {
            tracing::debug!(?report, "an event was not delivered");
        }
        // Nobody waits any more: it is counted all the same.
        let _told = reports.send(report).is_ok();
    });
}

async fn deliver(
    core: &Rc<Core>,
    event: &Rc<Event>,
    target: Target,
    report: &mut Report,
    reports: &mpsc::UnboundedSender<Report>,
    drain: &drain::Watch,
) -> Option<DeliveryOutcome> {
    match target {
        Target::Replica(function, endpoint) => Some(attempts(core, event, Some(&function), &endpoint, report).await),
        Target::External(endpoint) => Some(attempts(core, event, None, &endpoint, report).await),
        Target::Asleep(function) if !function.spec.wake_on_event => Some(DeliveryOutcome::Asleep),
        Target::Asleep(function) => match awake(core, function).await {
            Ok(function) => {
                for target in targets(function) {
                    start(core, Rc::clone(event), target, reports.clone(), drain.clone());
                }
                None
            }
            Err(outcome) => Some(outcome),
        },
    }
}

/// The function with a replica, once it has one.
async fn awake(core: &Core, function: Arc<Function>) -> Result<Arc<Function>, DeliveryOutcome> {
    let gateway = &core.gateway;
    // Fewer than events at once: a function that does not start must not take all of them.
    let waiting_max = gateway.limits.waiting_per_function.min(turns::WAITING_MAX);
    let timeout = function.spec.publish_calls.http_timeout;
    let ready = wake::ready(&gateway.table, &*gateway.wake, function, waiting_max, timeout).await;
    let ready = ready.map_err(|rejection| match rejection {
        Rejection::WakeTimeout { .. } => DeliveryOutcome::NotWoken,
        Rejection::FunctionRemoved => DeliveryOutcome::Gone,
        _ => DeliveryOutcome::Overloaded,
    })?;
    if let Some(receipt) = ready.cold_start {
        gateway.stats.started_cold(&receipt);
    }
    Ok(ready.function)
}

/// How one attempt ended.
enum Attempt {
    Status(u16),
    /// Tried again if there is another attempt.
    Failed(DeliveryOutcome),
    /// No further attempt makes sense.
    Over(DeliveryOutcome),
}

async fn attempts(
    core: &Core,
    event: &Event,
    function: Option<&Arc<Function>>,
    endpoint: &Arc<Endpoint>,
    report: &mut Report,
) -> DeliveryOutcome {
    let external = CallPolicy::queued_default();
    let policy = function.map_or(&external, |function| &function.spec.publish_calls);
    let mut delays = policy.retry_delays.iter();
    loop {
        report.attempts += 1;
        let outcome = match attempt(core, event, function, endpoint, policy).await {
            Attempt::Over(outcome) => {
                // Nothing was sent.
                report.attempts -= 1;
                return outcome;
            }
            Attempt::Status(status) => {
                report.status = Some(status);
                let is_delivered = status < 400 && !policy.retry_statuses.contains(&status);
                let outcome = if is_delivered { DeliveryOutcome::Delivered } else { DeliveryOutcome::Refused };
                if !policy.retry_statuses.contains(&status) {
                    return outcome;
                }
                outcome
            }
            Attempt::Failed(outcome) => {
                report.status = None;
                outcome
            }
        };
        let Some(delay) = delays.next() else { return outcome };
        core.gateway.events.stats().retries.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(*delay).await;
    }
}

/// One attempt, with its turn at the target, its share of what is sent at once, and a slot.
async fn attempt(
    core: &Core,
    event: &Event,
    function: Option<&Arc<Function>>,
    endpoint: &Arc<Endpoint>,
    policy: &CallPolicy,
) -> Attempt {
    let gateway = &core.gateway;
    let turns = async { (endpoint.turns.take().await, gateway.events.sending.acquire().await) };
    let Ok((Ok(_turn), _sending)) = tokio::time::timeout(gateway.limits.slot_timeout, turns).await else {
        return Attempt::Over(DeliveryOutcome::Overloaded);
    };
    let _slot = match function {
        None => None,
        Some(function) => match slot(core, function, endpoint).await {
            Ok(slot) => Some(slot),
            Err(outcome) => return Attempt::Over(outcome),
        },
    };
    let outbound = match event.outbound() {
        Ok(outbound) => outbound,
        Err(error) => {
            tracing::error!(%error, "an event's body cannot be read: look at the disk");
            return Attempt::Over(DeliveryOutcome::Failed);
        }
    };
    let deadline = clock::now() + policy.http_timeout;
    let sent = upstream::send(&core.pool, endpoint, outbound, policy.http_timeout).await;
    let ended = match sent {
        Ok(answered) => finish(answered, deadline).await,
        Err(Failure::Unsent(_)) => Attempt::Failed(DeliveryOutcome::Unreachable),
        Err(Failure::Sent(Rejection::ResponseTimeout { .. })) => Attempt::Failed(DeliveryOutcome::TimedOut),
        Err(Failure::Sent(_)) => Attempt::Failed(DeliveryOutcome::Failed),
        Err(Failure::ClientGone) => Attempt::Over(DeliveryOutcome::Failed),
    };
    if let Some(function) = function {
        function.live.note_call(Tick::of(clock::now()));
    }
    ended
}

/// The status counts, also if the rest of the answer does not come in time.
async fn finish(answered: upstream::Answered, deadline: Instant) -> Attempt {
    let status = answered.status().as_u16();
    let _in_time = tokio::time::timeout_at(deadline, answered.finish()).await.is_ok();
    Attempt::Status(status)
}

/// A slot counts as a call: it keeps the function awake, and the replica in place.
async fn slot(core: &Core, function: &Function, endpoint: &Arc<Endpoint>) -> Result<Slot, DeliveryOutcome> {
    let gateway = &core.gateway;
    let slot = slot::acquire_at(&gateway.table, &function.id, endpoint, gateway.limits.slot_timeout).await;
    match slot {
        Ok(Some(slot)) => {
            let now = Tick::of(clock::now());
            function.live.note_call(now);
            gateway.wake.called(function, now);
            Ok(slot)
        }
        Ok(None) | Err(Rejection::FunctionRemoved) => Err(DeliveryOutcome::Gone),
        Err(_no_slot_in_time) => Err(DeliveryOutcome::Overloaded),
    }
}
