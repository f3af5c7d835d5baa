//! Attempts: which element runs next and where, and what follows when an attempt ends.

use super::{Queue, Step, place};
use crate::queue::command::{Assignment, Effect, Reply};
use crate::queue::element::{Attempt, Element, ElementId, End, PeerRun, Phase};
use crate::queue::retry::{self, Next};
use crate::queue::tables::{Result, Table, Tables};

/// A peer ends its attempts itself, within the timeout. An attempt without an end so long after it is taken from the
/// peer: something lost it.
pub(super) const LEASE_GRACE_MS: u64 = 15_000;

impl Queue {
    /// Starts elements of a function while it has slots.
    pub(super) fn dispatch(&mut self, step: &mut Step<'_, impl Tables>, function: u64) -> Result<()> {
        while self.functions.get(&function).is_some_and(|queue| queue.ready > 0 && queue.has_free_slot()) {
            let Some(peer) = self.peer_for_next() else { return Ok(()) };
            let Some((id, mut element)) = place::first_below(step.tables, Table::Ready, function)? else {
                return Ok(());
            };
            self.leave(step, &mut element)?;
            self.start(step, id, &mut element, peer)?;
        }
        Ok(())
    }

    /// Gives an element that is nowhere to a peer.
    pub(super) fn start(
        &mut self,
        step: &mut Step<'_, impl Tables>,
        id: ElementId,
        element: &mut Element,
        by: PeerRun,
    ) -> Result<()> {
        element.attempts += 1;
        element.tries += 1;
        let lease = self.clock_ms.saturating_add(element.policy.timeout_ms).saturating_add(LEASE_GRACE_MS);
        self.enter(step, id, element, Phase::Running { by, started_ms: self.clock_ms }, Some(lease))?;
        let function = self.function_mut(element.function)?.id.clone();
        step.effects.push(Effect::Assigned(Assignment {
            to: by,
            element: id,
            attempt: element.attempts,
            try_number: element.tries,
            is_last_try: retry::is_last(&element.policy, element.tries),
            function,
            timeout_ms: element.policy.timeout_ms,
            enqueued_ms: element.enqueued_ms,
        }));
        Ok(())
    }

    pub(super) fn complete(
        &mut self,
        step: &mut Step<'_, impl Tables>,
        id: ElementId,
        attempt: u32,
        end: End,
    ) -> Result<Reply> {
        let Some(element) = super::element(step.tables, id)? else { return Ok(Reply::Stale) };
        let is_a_peers_word = matches!(end, End::Status(_) | End::TimedOut | End::Failed(_) | End::Returned);
        if !is_a_peers_word || element.attempts != attempt || !matches!(element.phase, Phase::Running { .. }) {
            return Ok(Reply::Stale);
        }
        self.end_attempt(step, id, element, end)?;
        Ok(Reply::Done)
    }

    /// A callback may overtake the end of its own attempt, and it may come after the attempt was given up: then success
    /// still spares the function another attempt.
    pub(super) fn callback(
        &mut self,
        step: &mut Step<'_, impl Tables>,
        id: ElementId,
        succeeded: bool,
    ) -> Result<Reply> {
        let Some(element) = super::element(step.tables, id)? else { return Ok(Reply::Stale) };
        match element.phase {
            Phase::Running { by, .. } => {
                cov_mark::hit!(callback_overtakes_its_attempt);
                step.effects.push(Effect::Revoked { element: id, attempt: element.attempts, from: by });
            }
            Phase::Accepted { .. } => {}
            Phase::Ready | Phase::Waiting if succeeded => {
                cov_mark::hit!(late_success_spares_an_attempt);
                let function = element.function;
                self.function_mut(function)?.totals.succeeded += 1;
                self.forget(step, id, element)?;
                return Ok(Reply::Done);
            }
            Phase::Ready | Phase::Waiting | Phase::Dead { .. } => return Ok(Reply::Stale),
        }
        self.end_attempt(step, id, element, if succeeded { End::CalledBack } else { End::CallbackFailed })?;
        Ok(Reply::Done)
    }

    /// Ends the attempt of a running or accepted element, and gives its slot to the next.
    pub(super) fn end_attempt(
        &mut self,
        step: &mut Step<'_, impl Tables>,
        id: ElementId,
        mut element: Element,
        end: End,
    ) -> Result<()> {
        let (node, started_ms) = match element.phase {
            Phase::Running { by, started_ms } => (by.node, started_ms),
            Phase::Accepted { node, started_ms } => (node, started_ms),
            Phase::Ready | Phase::Waiting | Phase::Dead { .. } => return Ok(()),
        };
        self.leave(step, &mut element)?;
        element.losses += u32::from(end == End::PeerLost);
        let next = retry::decide(&element.policy, element.tries, element.losses, &end);
        let totals = &mut self.function_mut(element.function)?.totals;
        match next {
            Next::Done => totals.succeeded += 1,
            Next::Retry(_) | Next::Dead => totals.failed_attempts += 1,
            Next::Repeat(_) => totals.failed_attempts += u64::from(end == End::PeerLost),
            Next::AwaitCallback => {}
        }
        if !matches!(next, Next::Done | Next::AwaitCallback) && end != End::Returned {
            let try_number = element.tries;
            element.remember(Attempt { try_number, node, started_ms, ended_ms: self.clock_ms, end });
        }
        match next {
            Next::Done => self.erase(step, id, &element)?,
            Next::AwaitCallback => {
                let deadline = started_ms.saturating_add(element.policy.timeout_ms);
                self.enter(step, id, &mut element, Phase::Accepted { node, started_ms }, Some(deadline))?;
            }
            Next::Retry(delay) => self.enter_later(step, id, &mut element, delay)?,
            Next::Repeat(delay) => {
                element.tries -= 1;
                self.enter_later(step, id, &mut element, delay)?;
            }
            Next::Dead => self.bury(step, id, &mut element)?,
        }
        self.dispatch(step, element.function)
    }

    fn enter_later(
        &mut self,
        step: &mut Step<'_, impl Tables>,
        id: ElementId,
        element: &mut Element,
        delay_ms: u64,
    ) -> Result<()> {
        if delay_ms == 0 {
            return self.enter(step, id, element, Phase::Ready, None);
        }
        let due = self.clock_ms.saturating_add(delay_ms);
        self.enter(step, id, element, Phase::Waiting, Some(due))
    }
}
