//! Where an element stands: the index rows and counters of its phase.

use bytes::Bytes;

use super::{Queue, Step};
use crate::queue::command::Effect;
use crate::queue::element::{Element, ElementId, Phase};
use crate::queue::tables::{Reading, Result, Table, TableError, Tables, pair, unpair};

impl Queue {
    /// Takes the element out of the phase that it is in. Its own row stays as it is: `enter` or `erase` follows.
    pub(super) fn leave(&mut self, step: &mut Step<'_, impl Tables>, element: &mut Element) -> Result<()> {
        self.function_mut(element.function)?.discount(element);
        match element.phase {
            Phase::Ready => step.tables.remove(Table::Ready, &pair(element.function, element.order))?,
            Phase::Running { by, .. } => {
                step.tables.remove(Table::Held, &pair(by.node, element.order))?;
                self.peer_released(by);
            }
            Phase::Dead { order, .. } => step.tables.remove(Table::Dead, &pair(element.function, order))?,
            Phase::Accepted { .. } | Phase::Waiting => {}
        }
        if let Some(time) = element.timer_ms.take() {
            step.tables.remove(Table::Timers, &pair(time, element.order))?;
        }
        Ok(())
    }

    /// Puts an element that is nowhere into a phase, and writes it.
    pub(super) fn enter(
        &mut self,
        step: &mut Step<'_, impl Tables>,
        id: ElementId,
        element: &mut Element,
        phase: Phase,
        timer_ms: Option<u64>,
    ) -> Result<()> {
        element.phase = phase;
        element.timer_ms = timer_ms;
        self.function_mut(element.function)?.count(element);
        match phase {
            Phase::Ready => step.tables.put(Table::Ready, &pair(element.function, element.order), &id.0)?,
            Phase::Running { by, .. } => {
                step.tables.put(Table::Held, &pair(by.node, element.order), &id.0)?;
                self.peer_took(by);
            }
            Phase::Dead { order, .. } => step.tables.put(Table::Dead, &pair(element.function, order), &id.0)?,
            Phase::Accepted { .. } | Phase::Waiting => {}
        }
        if let Some(time) = timer_ms {
            step.tables.put(Table::Timers, &pair(time, element.order), &id.0)?;
        }
        step.tables.put(Table::Elements, &id.0, &element.encode())
    }

    /// Takes an element out of its phase and forgets it.
    pub(super) fn forget(
        &mut self,
        step: &mut Step<'_, impl Tables>,
        id: ElementId,
        mut element: Element,
    ) -> Result<()> {
        self.leave(step, &mut element)?;
        self.erase(step, id, &element)
    }

    /// Forgets an element that is nowhere.
    pub(super) fn erase(&mut self, step: &mut Step<'_, impl Tables>, id: ElementId, element: &Element) -> Result<()> {
        step.tables.remove(Table::Elements, &id.0)?;
        step.tables.forget_request(&id.0, element.request.entry)?;
        self.elements -= 1;
        self.bytes -= element.bytes;
        if let Some(file) = element.body_file {
            step.tables.remove(Table::Bodies, &id.0)?;
            step.effects.push(Effect::BodyReleased { element: id, file });
        }
        Ok(())
    }
}

/// The element that an index row names; that there is one is the index's invariant.
pub(super) fn element(tables: &impl Reading, id: ElementId, named_by: (Table, &[u8])) -> Result<Element> {
    let (table, key) = named_by;
    super::element(tables, id)?.ok_or_else(|| TableError::damaged(table, key, "names an element that is missing"))
}

pub(super) fn id_in(table: Table, key: &[u8], value: &[u8]) -> Result<ElementId> {
    let id = value.try_into().map_err(|_length| TableError::damaged(table, key, "does not hold an element's id"))?;
    Ok(ElementId(id))
}

/// The first element of an index below `prefix`.
pub(super) fn first_below(tables: &impl Reading, table: Table, prefix: u64) -> Result<Option<(ElementId, Element)>> {
    let Some((key, value)) = tables.first(table, &pair(prefix, 0))? else { return Ok(None) };
    let (found, _) = unpair(&key).ok_or_else(|| TableError::damaged(table, &key, "is not a pair of numbers"))?;
    if found != prefix {
        return Ok(None);
    }
    let id = id_in(table, &key, &value)?;
    Ok(Some((id, element(tables, id, (table, &key))?)))
}

pub(super) fn for_each(
    tables: &impl Reading,
    table: Table,
    mut take: impl FnMut(&[u8], Bytes) -> Result<()>,
) -> Result<()> {
    let mut from = Vec::new();
    while let Some((key, value)) = tables.first(table, &from)? {
        take(&key, value)?;
        // The smallest key above this one.
        from = key;
        from.push(0);
    }
    Ok(())
}
