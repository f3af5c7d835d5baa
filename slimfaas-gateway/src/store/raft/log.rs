//! The log as openraft sees it.
//!
//! **The leader writes while its followers do.** openraft would have the leader's disk finish before it sends an entry
//! on, which makes every commit wait for two disks in a row. Entries that this node appends as the leader are reported
//! as written at once. That is sound because nothing that follows from counting the leader in can leave this node
//! before its disk is done:
//! - entries are applied, answered and acted on only once they are durable here (`writer.rs`);
//! - the commit index that followers are told never exceeds what is durable here (`network.rs`);
//! - votes and everything else go through the same writer in order, so a node that leaves leadership has its whole log
//!   durable before it says anything as a voter or follower of another term;
//! - a restart never resumes the leadership of its term (`read_vote`), so no index of a term is ever written twice with
//!   different content.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, EntryPayload, LogIdOptionExt, LogState, OptionalSend, RaftLogReader, StorageIOError};
use redb::{Database, ReadableDatabase};

use super::database::{self, failed};
use super::logfile::LogFile;
use super::shared::{Shared, lock};
use super::types::{Entry, LogId, StorageError, Types, Vote};
use super::wire;
use super::writer::{Disk, Job};
use crate::queue::codec::Reader;
use crate::queue::tables::{self, Table, TableError};

/// Entries kept in memory behind the durable end, for applying and for followers that are almost level.
const CACHE_BYTES: usize = 8 << 20;

/// Entries that are sent to a follower at once.
const SEND_BYTES: usize = 2 << 20;

#[derive(Clone)]
pub(super) struct Log {
    me: u64,
    file: Arc<LogFile>,
    disk: Arc<Disk>,
    shared: Arc<Shared>,
    memory: Arc<Mutex<Memory>>,
}

/// What must not wait for the disk. Holds every entry that is not durable yet.
struct Memory {
    purged: Option<LogId>,
    last: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
    bytes: usize,
}

impl Log {
    /// The log in `file`. The shared durable end must be its last entry.
    pub(super) fn new(file: Arc<LogFile>, disk: Arc<Disk>, shared: Arc<Shared>, me: u64, found: Found) -> Self {
        let Found { vote, purged, last } = found;
        *lock(&shared.vote) = vote;
        let memory = Memory { purged, last: last.or(purged), entries: BTreeMap::new(), bytes: 0 };
        Self { me, file, disk, shared, memory: Arc::new(Mutex::new(memory)) }
    }

    /// Entries in order, without a gap, from the first that is not purged; past `bytes_max` it stops.
    fn read(&self, from: u64, below: u64, bytes_max: usize) -> tables::Result<Vec<Entry>> {
        // Memory first: what leaves it meanwhile has gone to the disk before.
        let (cached, from, end) = {
            let memory = lock(&self.memory);
            let (from, below) = (from.max(memory.purged.next_index()), below.min(memory.last.next_index()));
            if from >= below {
                return Ok(Vec::new());
            }
            let cached: Vec<Entry> = memory.entries.range(from..below).map(|(_, entry)| entry.clone()).collect();
            let end = cached.first().map_or(below, |entry| entry.log_id.index);
            (cached, from, end)
        };
        let (mut entries, is_cut) =
            if from < end { self.file.pin().entries(from, end, bytes_max)? } else { (Vec::new(), false) };
        let mut bytes: usize = entries.iter().map(wire::entry_size).sum();
        if !is_cut {
            for entry in cached {
                if bytes >= bytes_max {
                    break;
                }
                bytes += wire::entry_size(&entry);
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

/// What is on the disk when it is opened.
#[derive(Default)]
pub(super) struct Found {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
}

impl Found {
    /// `last`: what the log's file ends with.
    pub(super) fn read(database: &Database, last: Option<LogId>) -> tables::Result<Self> {
        let transaction = database.begin_read().map_err(failed)?;
        let raft = transaction.open_table(database::RAFT).map_err(failed)?;
        let parse = |name: &'static str| {
            let row = database::raft_row(&raft, name)?;
            Ok::<_, TableError>(row.map(|row| (name, Reader::new(row))))
        };
        let damaged = |name: &'static str| TableError::undecodable(Table::Meta, name.as_bytes());
        let vote = match parse(database::row::VOTE)? {
            Some((name, mut reader)) => Some(wire::read_vote(&mut reader).map_err(damaged(name))?),
            None => None,
        };
        let purged = match parse(database::row::PURGED)? {
            Some((name, mut reader)) => Some(wire::read_log_id(&mut reader).map_err(damaged(name))?),
            None => None,
        };
        Ok(Self { vote, purged, last })
    }
}

impl Memory {
    fn push(&mut self, entry: Entry) {
        self.bytes += wire::entry_size(&entry);
        self.last = Some(entry.log_id);
        self.entries.insert(entry.log_id.index, entry);
    }

    /// Drops what the disk has, the oldest first, until the rest fits.
    fn evict(&mut self, durable: Option<u64>) {
        while self.bytes > CACHE_BYTES {
            let Some(first) = self.entries.first_entry().filter(|first| Some(*first.key()) <= durable) else { return };
            self.bytes -= wire::entry_size(&first.remove());
        }
    }

    fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.entries.retain(|index, _| keep(*index));
        self.bytes = self.entries.values().map(wire::entry_size).sum();
    }
}

/// Whether this node appends the entry as the leader of its term.
fn leads(me: u64, vote: Option<Vote>, entry: &Entry) -> bool {
    vote.is_some_and(|vote| {
        let leader = vote.leader_id;
        let of_term = entry.log_id.leader_id;
        leader.node_id == me && (leader.term, leader.node_id) == (of_term.term, of_term.node_id)
    })
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let below = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(below) => *below,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, below, usize::MAX).map_err(|error| self.read_failed(&error))
    }

    /// For a follower, which takes the first entry to be the one at `start`. One who leads no more may have purged that
    /// before its last call is made: then there is nothing to send, and openraft makes a heartbeat of it. It does not look
    /// itself at where they begin (databendlabs/openraft#1795).
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let entries = self.read(start, end, SEND_BYTES).map_err(|error| self.read_failed(&error))?;
        let is_whole = entries.first().is_some_and(|first| first.log_id.index == start);
        Ok(if is_whole { entries } else { Vec::new() })
    }
}

impl Log {
    /// A log that cannot be read ends the node: it cannot tell what it promised.
    fn read_failed(&self, error: &TableError) -> StorageError {
        self.shared.fail(error);
        StorageIOError::read_logs(AnyError::new(error)).into()
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let memory = lock(&self.memory);
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let saved = self.disk.ask(|done| Job::SaveVote { vote: *vote, done }).await;
        saved.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)))?;
        *lock(&self.shared.vote) = Some(*vote);
        Ok(())
    }

    /// A leadership ends with its process: entries that it reported as written may be lost with it, and an index must
    /// not get other content in the same term.
    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let vote = *lock(&self.shared.vote);
        Ok(vote.map(|vote| match vote.leader_id.node_id == self.me {
            true => Vote { committed: false, ..vote },
            false => vote,
        }))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut stored: Vec<Entry> = Vec::new();
        let vote = *lock(&self.shared.vote);
        let (last, is_own) = {
            let mut memory = lock(&self.memory);
            let mut is_own = true;
            for entry in entries {
                stored.push(entry.clone());
                is_own &= leads(self.me, vote, &entry) && !matches!(entry.payload, EntryPayload::Membership(_));
                memory.push(entry);
            }
            memory.evict(self.shared.durable.borrow().map(|durable| durable.index));
            (memory.last, is_own)
        };
        let Some(last) = last else {
            callback.log_io_completed(Ok(()));
            return Ok(());
        };
        let (now, later) = if is_own { (Some(callback), None) } else { (None, Some(callback)) };
        let submitted = self.disk.submit(Job::Append { entries: stored, last, flushed: later });
        submitted.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)))?;
        if let Some(callback) = now {
            callback.log_io_completed(Ok(()));
        }
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let before = self.read(log_id.index.saturating_sub(1), log_id.index, usize::MAX);
        let before = before.map_err(|error| self.read_failed(&error))?;
        let previous = before.last().map(|entry| entry.log_id);
        let last = {
            let mut memory = lock(&self.memory);
            memory.retain(|index| index < log_id.index);
            memory.last = previous.or(memory.purged);
            memory.last
        };
        let done = self.disk.ask(|done| Job::Truncate { from: log_id.index, last, done }).await;
        done.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        {
            let mut memory = lock(&self.memory);
            memory.retain(|index| index > log_id.index);
            memory.purged = memory.purged.max(Some(log_id));
            memory.last = memory.last.max(memory.purged);
        }
        let done = self.disk.ask(|done| Job::Purge { upto: log_id, done }).await;
        done.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)).into())
    }
}
