//! The database: one redb file with Raft's own rows and the state's tables. The log is in a file beside it (`logfile`).
//!
//! Every value ends in a checksum over its table, its key and itself. redb checks its pages when it opens a file that
//! was not closed; the checksums of ours are checked whenever a value is read.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
pub use redb::StorageBackend;
use redb::{
    Builder, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    TableError as RedbTableError, TableHandle, WriteTransaction,
};

use super::logfile::{Kept, LogFile, Pin};
use super::types::LogId;
use super::wire;
use crate::queue::codec::Reader;
use crate::queue::tables::{Reading, Result, Row, Table, TableError, Tables};

/// redb's own cache of pages; with what is dirty, the store's memory.
const CACHE_BYTES: usize = 48 << 20;

const SUM_BYTES: usize = 4;

type BytesTable<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;

/// Raft's own rows, by the names below.
pub(super) const RAFT: BytesTable<'static> = TableDefinition::new("raft");

/// Stands in checksums for that table, which is none of the state's.
pub(super) const RAFT_SUM: u8 = 0xf1;

/// Stands before the keys of Raft's rows among the state's, and in their checksums.
const OWN_SUM: u8 = 0xf2;

/// Name of the state's table, with its generation behind it.
const STATE: &str = "state.";

/// Opens the file, or makes it. A file whose making was interrupted cannot be opened, so it is made under another name
/// and renamed when it is whole.
pub(super) fn open(path: &Path) -> std::result::Result<Arc<Database>, redb::DatabaseError> {
    let mut builder = Builder::new();
    // Reading the whole file takes a second for each gigabyte or so, and a start is the time for it.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    if !path.try_exists()? {
        let unfinished = path.with_extension("new");
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        builder.create(&unfinished)?.close()?;
        std::fs::rename(&unfinished, path)?;
        if let Some(folder) = path.parent() {
            std::fs::File::open(folder)?.sync_all()?;
        }
    }
    builder.open(path).map(Arc::new)
}

pub(super) fn open_backend(
    backend: Box<dyn StorageBackend>,
) -> std::result::Result<Arc<Database>, redb::DatabaseError> {
    Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(Boxed(backend)).map(Arc::new)
}

#[derive(Debug)]
struct Boxed(Box<dyn StorageBackend>);

impl StorageBackend for Boxed {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> std::io::Result<()> {
        self.0.close()
    }
}

pub(super) fn failed(error: impl std::error::Error + Send + Sync + 'static) -> TableError {
    TableError::Database(Box::new(error))
}

/// The checksum that ends a value.
pub(super) fn sum(table: u8, key: &[u8], value: &[u8]) -> [u8; SUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[table]);
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().to_be_bytes()
}

/// What is before the checksum, if it is the right one.
pub(super) fn checked(table: u8, key: &[u8], stored: &[u8]) -> std::result::Result<Bytes, &'static str> {
    let at = stored.len().checked_sub(SUM_BYTES).ok_or("is too short")?;
    let (value, found) = stored.split_at(at);
    if sum(table, key, value) != found {
        return Err("does not have its checksum: the disk changed it");
    }
    Ok(Bytes::copy_from_slice(value))
}

pub(super) fn put(
    table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    number: u8,
    key: &[u8],
    value: &[u8],
) -> Result<()> {
    let mut place = table.insert_reserve(key, value.len() + SUM_BYTES).map_err(failed)?;
    let (content, end) = place.as_mut().split_at_mut(value.len());
    content.copy_from_slice(value);
    end.copy_from_slice(&sum(number, key, value));
    Ok(())
}

/// Raft's own rows.
pub(super) mod row {
    /// Version of the whole file.
    pub(crate) const FORMAT: &str = "format";
    pub(crate) const VOTE: &str = "vote";
    /// Last log id that was removed from the log's front.
    pub(crate) const PURGED: &str = "purged";
    /// Where in its file the log is.
    pub(crate) const LOG: &str = "log";
    pub(crate) const APPLIED: &str = "applied";
    pub(crate) const MEMBERSHIP: &str = "membership";
    /// Up to where the log's requests lie in the state.
    pub(crate) const SETTLED: &str = "settled";
    /// Which of several sets of state tables is the present one.
    pub(crate) const GENERATION: &str = "generation";
    /// This node's identity.
    pub(crate) const NODE: &str = "node";
    /// The cluster that it belongs to.
    pub(crate) const CLUSTER: &str = "cluster";
}

pub(super) fn put_raft(
    table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    name: &str,
    value: &[u8],
) -> Result<()> {
    put(table, RAFT_SUM, name.as_bytes(), value)
}

pub(super) fn raft_row(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    name: &'static str,
) -> Result<Option<Bytes>> {
    let Some(stored) = table.get(name.as_bytes()).map_err(failed)? else { return Ok(None) };
    let checked = checked(RAFT_SUM, name.as_bytes(), stored.value());
    checked.map(Some).map_err(|problem| TableError::damaged(Table::Meta, name.as_bytes(), problem))
}

/// Where the log of this database is, and the last entry that was removed from its front. `None`: of a new one.
pub(super) fn log_row(database: &Database) -> Result<(Option<Kept>, Option<LogId>)> {
    let transaction = database.begin_read().map_err(failed)?;
    let raft = match transaction.open_table(RAFT) {
        Ok(raft) => raft,
        Err(RedbTableError::TableDoesNotExist(_)) => return Ok((None, None)),
        Err(error) => return Err(failed(error)),
    };
    let kept = raft_row(&raft, row::LOG)?.map(Kept::read).transpose();
    let kept = kept.map_err(TableError::undecodable(Table::Meta, row::LOG.as_bytes()))?;
    let purged = raft_row(&raft, row::PURGED)?.map(|row| wire::read_log_id(&mut Reader::new(row))).transpose();
    Ok((kept, purged.map_err(TableError::undecodable(Table::Meta, row::PURGED.as_bytes()))?))
}

/// The state's tables in a transaction that changes them. They are one table of redb's, with the number of ours before
/// each key: a commit then writes few more pages than it has to.
pub(super) struct OpenState<'t> {
    table: redb::Table<'t, &'static [u8], &'static [u8]>,
    log: &'t LogContents,
}

/// What the writer knows of the log's contents.
pub(super) struct LogContents {
    pub(super) file: Arc<LogFile>,
    /// The requests of entries below this index lie in the state.
    pub(super) settled: u64,
    /// The entry that is being applied: what it brings may be delivered at once.
    pub(super) applying: Option<(u64, Bytes)>,
    /// The entry that was read last: elements are delivered in the order in which they came.
    last: RefCell<Option<(u64, Bytes)>>,
}

impl LogContents {
    pub(super) fn settled_below(settled: u64, file: Arc<LogFile>) -> Self {
        Self { file, settled, applying: None, last: RefCell::new(None) }
    }
}

impl<'t> OpenState<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction, generation: u64, log: &'t LogContents) -> Result<Self> {
        let table = transaction.open_table(BytesTable::new(&name(generation))).map_err(failed)?;
        Ok(Self { table, log })
    }

    /// Stores a row of Raft's that changes together with the state.
    pub(super) fn put_raft(&mut self, name: &str, value: &[u8]) -> Result<()> {
        put(&mut self.table, OWN_SUM, &own_key(name), value)
    }
}

/// The state's tables as one transaction sees them.
pub(crate) struct StateImage {
    state: ReadOnlyTable<&'static [u8], &'static [u8]>,
    log: Pin,
}

impl StateImage {
    /// The present state. Holding on to it keeps the disk space of everything in it, requests in the log included.
    pub(super) fn now(database: &Database, file: &Arc<LogFile>) -> Result<Self> {
        // First: what leaves the log after this is still in it for the transaction below.
        let log = file.pin();
        let transaction = database.begin_read().map_err(failed)?;
        let generation = generation(&transaction)?;
        let state = transaction.open_table(BytesTable::new(&name(generation))).map_err(failed)?;
        Ok(Self { state, log })
    }

    pub(super) fn raft_row(&self, name: &'static str) -> Result<Option<Bytes>> {
        let key = own_key(name);
        let Some(stored) = self.state.get(&*key).map_err(failed)? else { return Ok(None) };
        let checked = checked(OWN_SUM, &key, stored.value());
        checked.map(Some).map_err(|problem| TableError::damaged(Table::Meta, name.as_bytes(), problem))
    }
}

pub(super) fn generation(transaction: &ReadTransaction) -> Result<u64> {
    let raft = transaction.open_table(RAFT).map_err(failed)?;
    let row = raft_row(&raft, row::GENERATION)?;
    let number = row.and_then(|row| row[..].try_into().ok()).map(u64::from_be_bytes);
    number.ok_or_else(|| TableError::damaged(Table::Meta, row::GENERATION.as_bytes(), "is missing"))
}

/// Removes the state of every generation but one.
pub(super) fn remove_others(transaction: &WriteTransaction, keep: u64) -> Result<()> {
    let kept = name(keep);
    let tables: Vec<_> = transaction.list_tables().map_err(failed)?.collect();
    for table in tables {
        if table.name().starts_with(STATE) && table.name() != kept {
            transaction.delete_table(table).map_err(failed)?;
        }
    }
    Ok(())
}

fn name(generation: u64) -> String {
    format!("{STATE}{generation}")
}

/// A key of one of our tables. Most are short enough for the stack.
fn key_in(table: Table, key: &[u8]) -> Key {
    let mut bytes = [0; KEY_BYTES];
    bytes[0] = table as u8;
    match bytes.get_mut(1..=key.len()) {
        Some(place) => {
            place.copy_from_slice(key);
            Key::Short(bytes, key.len() + 1)
        }
        None => Key::Long([&[table as u8], key].concat()),
    }
}

const KEY_BYTES: usize = 32;

enum Key {
    Short([u8; KEY_BYTES], usize),
    Long(Vec<u8>),
}

impl std::ops::Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short(bytes, length) => &bytes[..*length],
            Self::Long(bytes) => bytes,
        }
    }
}

fn own_key(name: &str) -> Vec<u8> {
    [&[OWN_SUM], name.as_bytes()].concat()
}

fn value(table: &impl ReadableTable<&'static [u8], &'static [u8]>, of: Table, key: &[u8]) -> Result<Option<Bytes>> {
    let whole = key_in(of, key);
    let Some(stored) = table.get(&*whole).map_err(failed)? else { return Ok(None) };
    checked(of as u8, &whole, stored.value()).map(Some).map_err(|problem| TableError::damaged(of, key, problem))
}

fn first(table: &impl ReadableTable<&'static [u8], &'static [u8]>, of: Table, from: &[u8]) -> Result<Option<Row>> {
    let (start, end) = (key_in(of, from), [of as u8 + 1]);
    let Some(row) = table.range::<&[u8]>(&*start..&end[..]).map_err(failed)?.next() else { return Ok(None) };
    let (key, stored) = row.map_err(failed)?;
    let whole = key.value();
    let key = whole[1..].to_vec();
    match checked(of as u8, whole, stored.value()) {
        Ok(value) => Ok(Some((key, value))),
        Err(problem) => Err(TableError::damaged(of, &key, problem)),
    }
}

impl Reading for OpenState<'_> {
    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        value(&self.table, table, key)
    }

    fn first(&self, table: Table, from: &[u8]) -> Result<Option<Row>> {
        first(&self.table, table, from)
    }

    fn entry(&self, index: u64) -> Result<Option<Bytes>> {
        let mut last = self.log.last.borrow_mut();
        for (known, content) in self.log.applying.iter().chain(&*last) {
            if *known == index {
                return Ok(Some(content.clone()));
            }
        }
        let content = self.log.file.pin().content(index)?;
        *last = content.clone().map(|content| (index, content));
        Ok(content)
    }
}

impl Tables for OpenState<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        put(&mut self.table, table as u8, &key_in(table, key), value)
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<()> {
        self.table.remove(&*key_in(table, key)).map_err(failed)?;
        Ok(())
    }

    fn forget_request(&mut self, key: &[u8], entry: u64) -> Result<()> {
        if entry < self.log.settled { self.remove(Table::Requests, key) } else { Ok(()) }
    }
}

impl Reading for StateImage {
    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        value(&self.state, table, key)
    }

    fn first(&self, table: Table, from: &[u8]) -> Result<Option<Row>> {
        first(&self.state, table, from)
    }

    fn entry(&self, index: u64) -> Result<Option<Bytes>> {
        self.log.content(index)
    }
}
