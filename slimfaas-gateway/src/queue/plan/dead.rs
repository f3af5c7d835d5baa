//! Dead letters, and what people do to elements: replay, delete, purge.

use super::{Queue, Step, place};
use crate::model::function::FunctionId;
use crate::queue::command::{Effect, Reply};
use crate::queue::element::{Element, ElementId, Phase};
use crate::queue::tables::{Result, Table, Tables};

impl Queue {
    /// Makes an element that is nowhere a dead letter. Over the limits, the oldest dead letters make room.
    pub(super) fn bury(
        &mut self,
        step: &mut Step<'_, impl Tables>,
        id: ElementId,
        element: &mut Element,
    ) -> Result<()> {
        let phase = Phase::Dead { since_ms: self.clock_ms, order: self.take_order() };
        let age = self.limits.dead_age_ms;
        let expiry = (age > 0).then(|| self.clock_ms.saturating_add(age));
        self.enter(step, id, element, phase, expiry)?;
        self.function_mut(element.function)?.totals.died += 1;
        while self.has_too_many_dead(element.function) {
            let Some((oldest, dead)) = place::first_below(step.tables, Table::Dead, element.function)? else { break };
            cov_mark::hit!(oldest_dead_letter_makes_room);
            self.forget(step, oldest, dead)?;
            self.function_mut(element.function)?.totals.dead_dropped += 1;
        }
        Ok(())
    }

    fn has_too_many_dead(&self, function: u64) -> bool {
        let limits = &self.limits;
        // One whose body alone exceeds the limit is kept all the same, until another one dies.
        let exceeds = |dead: u64, bytes: u64| dead > limits.dead_elements || dead > 1 && bytes > limits.dead_bytes;
        self.functions.get(&function).is_some_and(|queue| exceeds(queue.dead, queue.dead_bytes))
    }

    pub(super) fn replay(&mut self, step: &mut Step<'_, impl Tables>, id: ElementId) -> Result<Reply> {
        match super::element(step.tables, id)? {
            Some(element) if matches!(element.phase, Phase::Dead { .. }) => {
                self.revive(step, id, element)?;
                Ok(Reply::Done)
            }
            _ => Ok(Reply::Stale),
        }
    }

    /// All its tries are before it again; what happened before is remembered.
    fn revive(&mut self, step: &mut Step<'_, impl Tables>, id: ElementId, mut element: Element) -> Result<()> {
        self.leave(step, &mut element)?;
        (element.tries, element.losses) = (0, 0);
        self.enter(step, id, &mut element, Phase::Ready, None)?;
        self.dispatch(step, element.function)
    }

    pub(super) fn delete(&mut self, step: &mut Step<'_, impl Tables>, id: ElementId) -> Result<Reply> {
        let Some(element) = super::element(step.tables, id)? else { return Ok(Reply::Stale) };
        if let Phase::Running { by, .. } = element.phase {
            step.effects.push(Effect::Revoked { element: id, attempt: element.attempts, from: by });
        }
        let function = element.function;
        self.forget(step, id, element)?;
        self.dispatch(step, function)?;
        Ok(Reply::Done)
    }

    pub(super) fn replay_all(
        &mut self,
        step: &mut Step<'_, impl Tables>,
        function: &FunctionId,
        max: u32,
    ) -> Result<Reply> {
        self.take_first(step, function, max, Table::Dead, Self::revive)
    }

    pub(super) fn delete_dead(
        &mut self,
        step: &mut Step<'_, impl Tables>,
        function: &FunctionId,
        max: u32,
    ) -> Result<Reply> {
        self.take_first(step, function, max, Table::Dead, Self::forget)
    }

    pub(super) fn purge(&mut self, step: &mut Step<'_, impl Tables>, function: &FunctionId, max: u32) -> Result<Reply> {
        self.take_first(step, function, max, Table::Ready, Self::forget)
    }

    /// Does `act` to the first `max` elements of one of the function's indexes; `act` takes each out of it.
    fn take_first<T: Tables>(
        &mut self,
        step: &mut Step<'_, T>,
        function: &FunctionId,
        max: u32,
        table: Table,
        act: impl Fn(&mut Self, &mut Step<'_, T>, ElementId, Element) -> Result<()>,
    ) -> Result<Reply> {
        let Some(number) = self.number_of(function) else { return Ok(Reply::Changed { count: 0, more: false }) };
        for count in 0..max {
            match place::first_below(step.tables, table, number)? {
                Some((id, element)) => act(self, step, id, element)?,
                None => return Ok(Reply::Changed { count, more: false }),
            }
        }
        let more = place::first_below(step.tables, table, number)?.is_some();
        Ok(Reply::Changed { count: max, more })
    }
}
