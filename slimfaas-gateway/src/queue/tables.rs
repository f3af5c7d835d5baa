//! Where the state machine keeps what does not fit in memory: ordered tables of bytes, changed in one transaction.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::codec::DecodeError;

/// One ordered table. The number is part of the format of snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// A fixed text → what exists once.
    Meta = 0,
    /// Function's number → its name, limits and counters.
    Functions = 1,
    /// Peer → its incarnation.
    Nodes = 2,
    /// Element → its state and attempts.
    Elements = 3,
    /// Element → its request, if the log entry that brought it is no longer kept.
    Requests = 4,
    /// Function's number, sequence number → element that waits for a slot.
    Ready = 5,
    /// Peer, sequence number → element that the peer is delivering.
    Held = 6,
    /// Time, sequence number → element to look at then.
    Timers = 7,
    /// Function's number, sequence number → dead letter.
    Dead = 8,
    /// Peer, number of its batch → replies that it may not have received.
    Replies = 9,
    /// Element → the file that is its body, for those that have one.
    Bodies = 10,
    /// Run of a job → where it is in its life.
    JobRuns = 11,
    /// Run of a job that has not ended → what it is to be.
    JobSpecs = 12,
    /// Schedule of a job → how far it has come.
    JobSchedules = 13,
}

impl Table {
    pub const ALL: [Self; 14] = [
        Self::Meta,
        Self::Functions,
        Self::Nodes,
        Self::Elements,
        Self::Requests,
        Self::Ready,
        Self::Held,
        Self::Timers,
        Self::Dead,
        Self::Replies,
        Self::Bodies,
        Self::JobRuns,
        Self::JobSpecs,
        Self::JobSchedules,
    ];

    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Its name in the database and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Functions => "functions",
            Self::Nodes => "nodes",
            Self::Elements => "elements",
            Self::Requests => "requests",
            Self::Ready => "ready",
            Self::Held => "held",
            Self::Timers => "timers",
            Self::Dead => "dead",
            Self::Replies => "replies",
            Self::Bodies => "bodies",
            Self::JobRuns => "job_runs",
            Self::JobSpecs => "job_specs",
            Self::JobSchedules => "job_schedules",
        }
    }
}

/// The state cannot be read or written any more. The node must stop: going on would make it differ from its peers.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("the database failed: check the disk")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("table {} is damaged at key {}: {problem}", table.as_str(), hex(key))]
    Damaged { table: Table, key: Vec<u8>, problem: &'static str },
    #[error("log entry {index} {problem}")]
    DamagedLog { index: u64, problem: &'static str },
}

impl TableError {
    pub fn damaged(table: Table, key: &[u8], problem: &'static str) -> Self {
        Self::Damaged { table, key: key.to_vec(), problem }
    }

    /// What is on the disk is not what was written there.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::DamagedLog { .. })
    }

    pub fn undecodable(table: Table, key: &[u8]) -> impl Fn(DecodeError) -> Self {
        move |error| Self::damaged(table, key, error.0)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub type Result<T> = std::result::Result<T, TableError>;

/// A key and its value.
pub type Row = (Vec<u8>, Bytes);

/// Reads.
pub trait Reading {
    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>>;

    /// The row with the smallest key that is at least `from`.
    fn first(&self, table: Table, from: &[u8]) -> Result<Option<Row>>;

    /// The content of a log entry; `None`: it is no longer kept.
    fn entry(&self, index: u64) -> Result<Option<Bytes>>;
}

/// Reads and changes within one transaction.
pub trait Tables: Reading {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()>;

    /// Does nothing when there is no such key.
    fn remove(&mut self, table: Table, key: &[u8]) -> Result<()>;

    /// Removes a request that `entry` brought, if it is in [`Table::Requests`].
    fn forget_request(&mut self, key: &[u8], entry: u64) -> Result<()>;
}

/// Two numbers as one key, ordered by the first and then by the second.
pub fn pair(first: u64, second: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&first.to_be_bytes());
    key[8..].copy_from_slice(&second.to_be_bytes());
    key
}

/// The numbers of [`pair`].
pub fn unpair(key: &[u8]) -> Option<(u64, u64)> {
    let (first, second) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*first), u64::from_be_bytes(second.try_into().ok()?)))
}

/// Tables in memory, for tests and for models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTables {
    rows: BTreeMap<(Table, Vec<u8>), Bytes>,
    /// The log.
    pub entries: BTreeMap<u64, Bytes>,
}

impl MemoryTables {
    /// All rows in order.
    pub fn rows(&self) -> impl Iterator<Item = (Table, &[u8], &Bytes)> {
        self.rows.iter().map(|((table, key), value)| (*table, &**key, value))
    }

    pub fn count(&self, table: Table) -> usize {
        self.rows().filter(|(of, ..)| *of == table).count()
    }
}

impl Reading for MemoryTables {
    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.rows.get(&(table, key.to_vec())).cloned())
    }

    fn first(&self, table: Table, from: &[u8]) -> Result<Option<Row>> {
        let next = self.rows.range((table, from.to_vec())..).next();
        Ok(next.filter(|((of, _), _)| *of == table).map(|((_, key), value)| (key.clone(), value.clone())))
    }

    fn entry(&self, index: u64) -> Result<Option<Bytes>> {
        Ok(self.entries.get(&index).cloned())
    }
}

impl Tables for MemoryTables {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.rows.insert((table, key.to_vec()), Bytes::copy_from_slice(value));
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<()> {
        self.rows.remove(&(table, key.to_vec()));
        Ok(())
    }

    fn forget_request(&mut self, key: &[u8], _entry: u64) -> Result<()> {
        self.remove(Table::Requests, key)
    }
}
