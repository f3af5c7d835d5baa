//! The state machine of the queue: the same commands in the same order give the same state and the same effects on every
//! gateway node.
//!
//! Each command costs O(log n) at any depth: what an element needs to be found by lies in ordered tables, and memory
//! holds a few numbers for each function and peer. An element is in exactly one phase, and has exactly the index rows
//! of that phase; only `enter` and `leave` touch them.

mod attempt;
mod dead;
mod peers;
mod place;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::codec::{Reader, Writer};
use super::command::{Command, Effect, Enqueue, Limit, Limits, Reply};
use super::element::{Element, ElementId, End, Phase};
use super::function::FunctionQueue;
use super::request::BodyFile;
use super::tables::{Reading, Result, Table, TableError, Tables};
use crate::model::function::FunctionId;

/// Timers that one `Due` acts on, so that no log entry takes long to apply.
pub const DUE_MAX: u32 = 1000;

/// What an element takes beside its request, by and large: its rows in the tables.
pub const ELEMENT_OVERHEAD_BYTES: u64 = 256;

const META_KEY: &[u8] = b"queue";

/// The part of the state that is in memory. It equals what `save` wrote, and what a later `load` reads.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Time of the last command: never goes back, whatever the leaders' clocks do.
    clock_ms: u64,
    next_order: u64,
    next_function: u64,
    limits: Limits,
    /// Elements of all functions and phases.
    elements: u64,
    bytes: u64,
    /// The peer that got the last element; ties go to the one after it.
    last_assigned: u64,
    functions: BTreeMap<u64, FunctionQueue>,
    numbers: BTreeMap<FunctionId, u64>,
    peers: BTreeMap<u64, peers::Peer>,
    /// Changed since the last `save`.
    changed_functions: BTreeSet<u64>,
    changed_peers: BTreeSet<u64>,
}

/// What one command works with.
struct Step<'a, T> {
    tables: &'a mut T,
    effects: &'a mut Vec<Effect>,
}

impl Queue {
    pub fn load(tables: &impl Reading) -> Result<Self> {
        let mut queue = Self::default();
        if let Some(bytes) = tables.value(Table::Meta, META_KEY)? {
            let damaged = TableError::undecodable(Table::Meta, META_KEY);
            queue.read_meta(&mut Reader::new(bytes)).map_err(damaged)?;
        }
        place::for_each(tables, Table::Functions, |key, value| {
            let damaged = TableError::undecodable(Table::Functions, key);
            let number = Reader::of(key).fixed().map_err(&damaged)?;
            let function = FunctionQueue::decode(value).map_err(&damaged)?;
            queue.numbers.insert(function.id.clone(), number);
            queue.functions.insert(number, function);
            Ok(())
        })?;
        place::for_each(tables, Table::Nodes, |key, value| {
            let damaged = TableError::undecodable(Table::Nodes, key);
            let node = Reader::of(key).fixed().map_err(&damaged)?;
            queue.peers.insert(node, peers::Peer::decode(value).map_err(&damaged)?);
            Ok(())
        })?;
        Ok(queue)
    }

    /// Moves the clock to the time of a log entry, unless that would be back.
    pub fn advance(&mut self, now_ms: u64) {
        self.clock_ms = self.clock_ms.max(now_ms);
    }

    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    pub fn apply<T: Tables>(&mut self, command: Command, tables: &mut T, effects: &mut Vec<Effect>) -> Result<Reply> {
        let step = &mut Step { tables, effects };
        match command {
            Command::Enqueue(enqueue) => self.enqueue(step, enqueue),
            Command::Complete { element, attempt, end } => self.complete(step, element, attempt, end),
            Command::Callback { element, succeeded } => self.callback(step, element, succeeded),
            Command::Due => self.due(step),
            Command::PeerUp(peer) => self.peer_up(step, peer),
            Command::PeerDraining(peer) => Ok(self.peer_draining(peer)),
            Command::PeerDown(peer) => self.peer_down(step, peer),
            Command::Budget { function, slots } => {
                self.set_function(step, function, slots > 0, |queue| queue.slots = slots)
            }
            Command::Pause { function, paused } => {
                self.set_function(step, function, paused, |queue| queue.paused = paused)
            }
            Command::Replay(element) => self.replay(step, element),
            Command::ReplayAll { function, max } => self.replay_all(step, &function, max),
            Command::Delete(element) => self.delete(step, element),
            Command::DeleteDead { function, max } => self.delete_dead(step, &function, max),
            Command::Purge { function, max } => self.purge(step, &function, max),
            Command::Limits(limits) => {
                self.limits = limits;
                Ok(Reply::Done)
            }
            // The store gives them to their own state machine.
            Command::Job(_) => Ok(Reply::Stale),
        }
    }

    /// Forgets functions without anything, and writes what changed in memory. To be called at the end of each log entry:
    /// what is forgotten when is part of the state.
    pub fn save(&mut self, tables: &mut impl Tables) -> Result<()> {
        for number in std::mem::take(&mut self.changed_functions) {
            let key = number.to_be_bytes();
            match self.functions.get(&number) {
                Some(function) if !function.is_blank() => tables.put(Table::Functions, &key, &function.encode())?,
                Some(_) => {
                    if let Some(blank) = self.functions.remove(&number) {
                        self.numbers.remove(&blank.id);
                    }
                    tables.remove(Table::Functions, &key)?;
                }
                None => tables.remove(Table::Functions, &key)?,
            }
        }
        for node in std::mem::take(&mut self.changed_peers) {
            match self.peers.get(&node) {
                Some(peer) => tables.put(Table::Nodes, &node.to_be_bytes(), &peer.encode())?,
                None => tables.remove(Table::Nodes, &node.to_be_bytes())?,
            }
        }
        tables.put(Table::Meta, META_KEY, &self.meta())
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Elements of all functions, and their bytes.
    pub fn totals(&self) -> (u64, u64) {
        (self.elements, self.bytes)
    }

    pub fn functions(&self) -> impl Iterator<Item = &FunctionQueue> {
        self.functions.values()
    }

    pub fn function(&self, id: &FunctionId) -> Option<&FunctionQueue> {
        self.functions.get(self.numbers.get(id)?)
    }

    /// The number that stands for a function in keys.
    pub fn number_of(&self, id: &FunctionId) -> Option<u64> {
        self.numbers.get(id).copied()
    }

    pub fn function_by_number(&self, number: u64) -> Option<&FunctionQueue> {
        self.functions.get(&number)
    }

    /// Functions changed since the last `save`, by number.
    pub fn changed(&self) -> impl Iterator<Item = u64> {
        self.changed_functions.iter().copied()
    }

    fn enqueue(&mut self, step: &mut Step<'_, impl Tables>, enqueue: Enqueue) -> Result<Reply> {
        if step.tables.value(Table::Elements, &enqueue.id.0)?.is_some() {
            return Ok(Reply::Done);
        }
        let body = enqueue.body_file.map_or(0, |file| file.bytes);
        let bytes = (enqueue.request.len() as u64).saturating_add(body).saturating_add(ELEMENT_OVERHEAD_BYTES);
        if let Some(limit) = self.limit_reached(&enqueue.function, bytes) {
            if let Some(number) = self.number_of(&enqueue.function) {
                self.function_mut(number)?.totals.refused += 1;
            }
            return Ok(Reply::Refused(limit));
        }
        let function = self.number_for(enqueue.function);
        self.function_mut(function)?.totals.enqueued += 1;
        self.elements += 1;
        self.bytes += bytes;
        if let Some(file) = enqueue.body_file {
            let mut row = Writer::default();
            file.write(&mut row);
            step.tables.put(Table::Bodies, &enqueue.id.0, &row.0)?;
        }
        let mut element = Element {
            phase: Phase::Ready,
            request: enqueue.place,
            order: self.take_order(),
            function,
            enqueued_ms: self.clock_ms,
            bytes,
            body_file: enqueue.body_file,
            policy: enqueue.policy,
            attempts: 0,
            tries: 0,
            losses: 0,
            timer_ms: None,
            history: Vec::new(),
        };
        // Nobody waits, so the element need not join the queue first.
        let runs_at_once = self.functions.get(&function).is_some_and(|queue| queue.ready == 0 && queue.has_free_slot());
        match self.peer_for_next().filter(|_| runs_at_once) {
            Some(peer) => self.start(step, enqueue.id, &mut element, peer)?,
            None => self.enter(step, enqueue.id, &mut element, Phase::Ready, None)?,
        }
        Ok(Reply::Done)
    }

    fn limit_reached(&self, function: &FunctionId, bytes: u64) -> Option<Limit> {
        let (pending, pending_bytes) = self.function(function).map_or((0, 0), |queue| (queue.pending(), queue.bytes));
        let limits = &self.limits;
        let exceeds = |used: u64, more: u64, limit: u64| used.saturating_add(more) > limit;
        [
            (exceeds(pending, 1, limits.function_elements), Limit::FunctionElements),
            (exceeds(pending_bytes, bytes, limits.function_bytes), Limit::FunctionBytes),
            (exceeds(self.elements, 1, limits.total_elements), Limit::TotalElements),
            (exceeds(self.bytes, bytes, limits.total_bytes), Limit::TotalBytes),
        ]
        .into_iter()
        .find_map(|(reached, limit)| reached.then_some(limit))
    }

    /// Acts on timers whose time has come, the oldest first.
    fn due(&mut self, step: &mut Step<'_, impl Tables>) -> Result<Reply> {
        for count in 0..DUE_MAX {
            let Some((key, value)) = step.tables.first(Table::Timers, &[])? else {
                return Ok(Reply::Changed { count, more: false });
            };
            let time = Reader::of(&key).fixed().map_err(TableError::undecodable(Table::Timers, &key))?;
            if time > self.clock_ms {
                return Ok(Reply::Changed { count, more: false });
            }
            let id = place::id_in(Table::Timers, &key, &value)?;
            let mut element = place::element(step.tables, id, (Table::Timers, &key))?;
            match element.phase {
                Phase::Waiting => {
                    self.leave(step, &mut element)?;
                    self.enter(step, id, &mut element, Phase::Ready, None)?;
                    self.dispatch(step, element.function)?;
                }
                Phase::Running { by, .. } => {
                    let attempt = element.attempts;
                    step.effects.push(Effect::Revoked { element: id, attempt, from: by });
                    self.end_attempt(step, id, element, End::TimedOut)?;
                }
                Phase::Accepted { .. } => self.end_attempt(step, id, element, End::NoCallback)?,
                Phase::Dead { .. } => self.forget(step, id, element)?,
                Phase::Ready => {
                    return Err(TableError::damaged(Table::Timers, &key, "names an element without a timer"));
                }
            }
        }
        Ok(Reply::Changed { count: DUE_MAX, more: true })
    }

    /// Changes a function that exists, or is created by `creates`.
    fn set_function(
        &mut self,
        step: &mut Step<'_, impl Tables>,
        function: FunctionId,
        creates: bool,
        set: impl FnOnce(&mut FunctionQueue),
    ) -> Result<Reply> {
        let number = match self.number_of(&function) {
            Some(number) => number,
            None if creates => self.number_for(function),
            None => return Ok(Reply::Done),
        };
        set(self.function_mut(number)?);
        self.dispatch(step, number)?;
        Ok(Reply::Done)
    }

    fn number_for(&mut self, id: FunctionId) -> u64 {
        if let Some(number) = self.numbers.get(&id) {
            return *number;
        }
        let number = self.next_function;
        self.next_function += 1;
        self.numbers.insert(id.clone(), number);
        self.functions.insert(number, FunctionQueue::new(id));
        number
    }

    fn function_mut(&mut self, number: u64) -> Result<&mut FunctionQueue> {
        self.changed_functions.insert(number);
        let missing = || TableError::damaged(Table::Functions, &number.to_be_bytes(), "is missing");
        self.functions.get_mut(&number).ok_or_else(missing)
    }

    fn take_order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order
    }

    fn meta(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(96);
        for number in [self.clock_ms, self.next_order, self.next_function, self.elements, self.bytes] {
            writer.number(number);
        }
        writer.fixed(self.last_assigned);
        self.limits.write(&mut writer);
        writer.0
    }

    fn read_meta(&mut self, reader: &mut Reader) -> super::codec::Result<()> {
        self.clock_ms = reader.number()?;
        self.next_order = reader.number()?;
        self.next_function = reader.number()?;
        self.elements = reader.number()?;
        self.bytes = reader.number()?;
        self.last_assigned = reader.fixed()?;
        self.limits = Limits::read(reader)?;
        Ok(())
    }
}

/// When a timer is due next, if any is set.
pub fn next_due_ms(tables: &impl Reading) -> Result<Option<u64>> {
    let Some((key, _)) = tables.first(Table::Timers, &[])? else { return Ok(None) };
    Ok(Some(Reader::of(&key).fixed().map_err(TableError::undecodable(Table::Timers, &key))?))
}

/// The request of an element: in the log, or where it was put when its entry was removed there.
pub fn request(tables: &impl Reading, id: ElementId, element: &Element) -> Result<Bytes> {
    if let Some(request) = tables.value(Table::Requests, &id.0)? {
        return Ok(request);
    }
    let content = tables.entry(element.request.entry)?;
    let request = content.as_ref().and_then(|content| element.request.within(content));
    request.ok_or_else(|| TableError::damaged(Table::Requests, &id.0, "is missing"))
}

/// The stored state of an element.
pub fn element(tables: &impl Reading, id: ElementId) -> Result<Option<Element>> {
    let Some(bytes) = tables.value(Table::Elements, &id.0)? else { return Ok(None) };
    Element::decode(bytes).map(Some).map_err(TableError::undecodable(Table::Elements, &id.0))
}

/// The first element from `from` on, by id, whose body is a file.
pub fn body_from(tables: &impl Reading, from: &[u8]) -> Result<Option<(ElementId, BodyFile)>> {
    let Some((key, value)) = tables.first(Table::Bodies, from)? else { return Ok(None) };
    let id = place::id_in(Table::Bodies, &key, &key)?;
    let file = BodyFile::read(&mut Reader::new(value)).map_err(TableError::undecodable(Table::Bodies, &key))?;
    Ok(Some((id, file)))
}

#[cfg(test)]
mod tests;
