//! The replicated state: the queue, the jobs, and which batches of which process were applied, so that none is applied twice.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::command::{Batch, BatchReply, decode_entry};
use crate::jobs::plan::Jobs;
use crate::queue::codec::{DecodeError, Reader, Writer};
use crate::queue::command::{Command, Effect, Reply};
use crate::queue::plan::{Queue, element};
use crate::queue::tables::{Reading, Result, Table, TableError, Tables, pair, unpair};

/// Row of a node's [`Session`]; batches count from 1.
const SESSION: u64 = 0;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct State {
    pub queue: Queue,
    pub jobs: Jobs,
    sessions: BTreeMap<u64, Session>,
}

/// How far the process of a node is with its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    incarnation: u64,
    /// The replies to batches below this number are no longer kept: the process has them.
    settled: u64,
}

impl State {
    pub fn load(tables: &impl Reading) -> Result<Self> {
        let mut state = Self { queue: Queue::load(tables)?, jobs: Jobs::load(tables)?, sessions: BTreeMap::new() };
        let mut next = pair(0, SESSION);
        while let Some((key, value)) = tables.first(Table::Replies, &next)? {
            let (node, row) = unpair(&key).ok_or_else(|| damaged(&key, "is not a pair of numbers"))?;
            if row == SESSION {
                state.sessions.insert(node, Session::decode(&key, &value)?);
            }
            let Some(above) = node.checked_add(1) else { break };
            next = pair(above, SESSION);
        }
        Ok(state)
    }

    /// Applies the log entry with this index and content.
    pub fn apply<T: Tables>(
        &mut self,
        index: u64,
        content: Bytes,
        tables: &mut T,
        effects: &mut Vec<Effect>,
    ) -> Result<Vec<BatchReply>> {
        let (now_ms, batches) = decode_entry(content).map_err(undecodable(index))?;
        self.queue.advance(now_ms);
        let mut replies = Vec::with_capacity(batches.len());
        for mut batch in batches {
            for command in &mut batch.commands {
                if let Command::Enqueue(enqueue) = command {
                    enqueue.place.entry = index;
                }
            }
            let already = effects.len();
            replies.push(self.apply_batch(batch, tables, effects)?);
            let gone = effects[already..].iter().filter_map(|effect| match effect {
                Effect::PeerGone(run) => Some(run.node),
                _ => None,
            });
            gone.collect::<Vec<_>>().into_iter().try_for_each(|node| self.end_session(tables, node))?;
        }
        Ok(replies)
    }

    /// Writes what changed in memory; to be called at the end of each entry.
    pub fn save(&mut self, tables: &mut impl Tables) -> Result<()> {
        self.queue.save(tables)
    }

    fn apply_batch<T: Tables>(
        &mut self,
        batch: Batch,
        tables: &mut T,
        effects: &mut Vec<Effect>,
    ) -> Result<BatchReply> {
        if batch.number == 0 {
            return Ok(BatchReply::Applied(self.apply_commands(batch, tables, effects)?));
        }
        if !self.queue.is_up(batch.from) {
            return Ok(BatchReply::NotUp);
        }
        let (node, number, settled) = (batch.from.node, batch.number, batch.settled);
        self.begin_session(tables, &batch)?;
        if self.sessions.get(&node).is_some_and(|session| number < session.settled) {
            return Ok(BatchReply::Settled);
        }
        let key = pair(node, number);
        if let Some(row) = tables.value(Table::Replies, &key)? {
            cov_mark::hit!(batch_is_not_applied_twice);
            let replies = Reader::new(row).list(Reply::read);
            return Ok(BatchReply::Applied(replies.map_err(TableError::undecodable(Table::Replies, &key))?));
        }
        let replies = self.apply_commands(batch, tables, effects)?;
        let mut writer = Writer::with_capacity(replies.len() + 8);
        writer.list(replies.iter(), |writer, reply| reply.write(writer));
        tables.put(Table::Replies, &key, &writer.0)?;
        self.settle(tables, node, settled)?;
        Ok(BatchReply::Applied(replies))
    }

    fn apply_commands<T: Tables>(
        &mut self,
        batch: Batch,
        tables: &mut T,
        effects: &mut Vec<Effect>,
    ) -> Result<Vec<Reply>> {
        let now_ms = self.queue.clock_ms();
        let apply = |command| match command {
            Command::Job(command) => self.jobs.apply(command, now_ms, tables),
            command => self.queue.apply(command, tables, effects),
        };
        batch.commands.into_iter().map(apply).collect()
    }

    /// A new process of a node counts its batches anew.
    fn begin_session(&mut self, tables: &mut impl Tables, batch: &Batch) -> Result<()> {
        let incarnation = batch.from.incarnation;
        if self.sessions.get(&batch.from.node).is_some_and(|session| session.incarnation == incarnation) {
            return Ok(());
        }
        self.end_session(tables, batch.from.node)?;
        let session = Session { incarnation, settled: 0 };
        self.sessions.insert(batch.from.node, session);
        tables.put(Table::Replies, &pair(batch.from.node, SESSION), &session.encode())
    }

    fn end_session(&mut self, tables: &mut impl Tables, node: u64) -> Result<()> {
        self.sessions.remove(&node);
        self.drop_replies(tables, node, SESSION, u64::MAX)
    }

    /// Drops replies that the process has.
    fn settle(&mut self, tables: &mut impl Tables, node: u64, settled: u64) -> Result<()> {
        let Some(session) = self.sessions.get_mut(&node).filter(|session| session.settled < settled) else {
            return Ok(());
        };
        session.settled = settled;
        let row = session.encode();
        tables.put(Table::Replies, &pair(node, SESSION), &row)?;
        self.drop_replies(tables, node, SESSION + 1, settled)
    }

    fn drop_replies(&self, tables: &mut impl Tables, node: u64, from: u64, below: u64) -> Result<()> {
        while let Some((key, _)) = tables.first(Table::Replies, &pair(node, from))? {
            if !unpair(&key).is_some_and(|(of, number)| of == node && number < below) {
                break;
            }
            tables.remove(Table::Replies, &key)?;
        }
        Ok(())
    }
}

impl Session {
    fn encode(self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.fixed(self.incarnation);
        writer.number(self.settled);
        writer.0
    }

    fn decode(key: &[u8], value: &[u8]) -> Result<Self> {
        let mut reader = Reader::of(value);
        let read = || Ok(Self { incarnation: reader.fixed()?, settled: reader.number()? });
        let mut read = read;
        read().map_err(TableError::undecodable(Table::Replies, key))
    }
}

/// Puts the requests that an entry brought, and that are still needed, where they stay when the entry is removed.
pub fn settle_requests(tables: &mut impl Tables, index: u64, content: &Bytes) -> Result<()> {
    let (_, batches) = decode_entry(content.clone()).map_err(undecodable(index))?;
    for command in batches.into_iter().flat_map(|batch| batch.commands) {
        let Command::Enqueue(enqueue) = command else { continue };
        let Some(element) = element(tables, enqueue.id)? else { continue };
        // A batch that came twice is in two entries, and its elements are of the first.
        if element.request.entry == index {
            tables.put(Table::Requests, &enqueue.id.0, &enqueue.request)?;
        }
    }
    Ok(())
}

fn undecodable(index: u64) -> impl Fn(DecodeError) -> TableError {
    move |error| TableError::DamagedLog { index, problem: error.0 }
}

fn damaged(key: &[u8], problem: &'static str) -> TableError {
    TableError::damaged(Table::Replies, key, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::function::FunctionId;
    use crate::queue::command::Enqueue;
    use crate::queue::element::{ElementId, End, PeerRun, Place, Policy};
    use crate::queue::plan;
    use crate::queue::tables::MemoryTables;
    use crate::store::command::encode_entry;

    const ME: PeerRun = PeerRun { node: 5, incarnation: 1 };

    #[derive(Default)]
    struct Machine {
        state: State,
        tables: MemoryTables,
        last: u64,
    }

    impl Machine {
        fn apply(&mut self, from: PeerRun, number: u64, settled: u64, commands: Vec<Command>) -> BatchReply {
            let batch = Batch { from, number, settled, commands };
            let entry = encode_entry(0, &[batch.encode()]);
            self.last += 1;
            self.tables.entries.insert(self.last, entry.clone());
            let replies = self.state.apply(self.last, entry, &mut self.tables, &mut Vec::new()).unwrap();
            self.state.save(&mut self.tables).unwrap();
            assert_eq!(State::load(&self.tables).unwrap(), self.state);
            replies[0].clone()
        }
    }

    fn enqueue(number: u8) -> Command {
        let policy = Policy { timeout_ms: 1000, retry_delays_ms: Vec::new(), retry_statuses: Vec::new() };
        let function = FunctionId::new("demo", "a");
        let (request, place) = (vec![number; 10].into(), Place::default());
        Command::Enqueue(Enqueue { id: ElementId([number; 16]), function, policy, request, place, body_file: None })
    }

    fn done() -> BatchReply {
        BatchReply::Applied(vec![Reply::Done])
    }

    #[test]
    fn a_batch_that_comes_twice_is_applied_once_even_when_its_element_is_gone() {
        cov_mark::check!(batch_is_not_applied_twice);
        let mut machine = Machine::default();
        let function = FunctionId::new("demo", "a");
        machine.apply(ME, 0, 0, vec![Command::PeerUp(ME), Command::Budget { function, slots: 1 }]);
        assert_eq!(machine.apply(ME, 1, 1, vec![enqueue(1)]), done());
        let end = End::Status(200);
        let complete = Command::Complete { element: ElementId([1; 16]), attempt: 1, end };
        assert_eq!(machine.apply(ME, 2, 1, vec![complete]), done());
        assert_eq!(machine.apply(ME, 1, 1, vec![enqueue(1)]), done());
        assert_eq!(machine.state.queue.totals(), (0, 0), "the element was not stored again");
        assert_eq!(machine.apply(ME, 3, 3, vec![enqueue(2)]), done());
        assert_eq!(machine.apply(ME, 1, 1, vec![enqueue(1)]), BatchReply::Settled);
        assert_eq!(machine.tables.count(Table::Replies), 2, "the session, and what is not settled");
    }

    #[test]
    fn only_processes_that_take_part_propose() {
        let mut machine = Machine::default();
        assert_eq!(machine.apply(ME, 1, 0, vec![enqueue(1)]), BatchReply::NotUp);
        machine.apply(ME, 0, 0, vec![Command::PeerUp(ME)]);
        assert_eq!(machine.apply(ME, 1, 0, vec![enqueue(1)]), done());
        let next = PeerRun { incarnation: 2, ..ME };
        machine.apply(next, 0, 0, vec![Command::PeerUp(next)]);
        assert_eq!(machine.apply(ME, 2, 0, vec![enqueue(2)]), BatchReply::NotUp);
        assert_eq!(machine.apply(next, 1, 0, vec![enqueue(2)]), done());
        machine.apply(next, 0, 0, vec![Command::PeerDown(next)]);
        assert_eq!(machine.tables.count(Table::Replies), 0);
    }

    #[test]
    fn requests_are_found_in_the_log_and_where_they_go_from_there() {
        let mut machine = Machine::default();
        machine.apply(ME, 0, 0, vec![Command::Due, enqueue(1), enqueue(2)]);
        machine.apply(ME, 0, 0, vec![enqueue(1), enqueue(3)]);
        machine.apply(ME, 0, 0, vec![Command::Delete(ElementId([2; 16]))]);
        let request = |tables: &MemoryTables, number: u8| {
            let id = ElementId([number; 16]);
            element(tables, id).unwrap().map(|element| plan::request(tables, id, &element).unwrap())
        };
        let expected = [1, 2, 3].map(|number: u8| (number != 2).then(|| Bytes::from(vec![number; 10])));
        assert_eq!([1, 2, 3].map(|number| request(&machine.tables, number)), expected);
        for index in 1..=3 {
            let content = machine.tables.entries.get(&index).unwrap().clone();
            settle_requests(&mut machine.tables, index, &content).unwrap();
            machine.tables.entries.remove(&index);
            assert_eq!([1, 2, 3].map(|number| request(&machine.tables, number)), expected, "without entry {index}");
        }
        assert_eq!(machine.tables.count(Table::Requests), 2);
        machine.apply(ME, 0, 0, vec![Command::Delete(ElementId([1; 16]))]);
        assert_eq!(machine.tables.count(Table::Requests), 1);
    }
}
