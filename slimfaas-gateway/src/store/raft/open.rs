//! Opens a database, new or with a past, and gives its parts to openraft.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::RngCore;
use redb::{Database, ReadableDatabase};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::damage::Files;
use super::database::{self, LogContents, OpenState, RAFT, StateImage, failed, put_raft, raft_row, row};
use super::log::{Found, Log};
use super::logfile::{LogFile, SLOT_BYTES};
use super::machine::{self, Machine};
use super::shared::{Shared, lock};
use super::types::Entropy;
use super::writer::{Disk, Writer};
use crate::queue::codec::{self, Reader};
use crate::queue::element::PeerRun;
use crate::queue::plan::next_due_ms;
use crate::queue::tables::{Result, Table, TableError};
use crate::store::Effect;
use crate::store::state::State;

/// Version of the file's layout; `docs/storage-format.md` draws it.
const FORMAT: u8 = 2;

/// Of the log that is kept, this part is applied again at a start at most: one slot at least.
const AHEAD: u64 = 32;

pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) machine: Machine,
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<Disk>,
    pub(super) database: Arc<Database>,
    pub(super) file: Arc<LogFile>,
    /// Ends when nobody can ask it to write any more.
    pub(super) thread: Option<std::thread::JoinHandle<()>>,
    pub(super) task: JoinSet<()>,
    /// The node's identity in the cluster: as long as its disk lives.
    pub(super) node: u64,
    pub(super) cluster: Option<u64>,
}

/// Who writes.
#[derive(Clone)]
pub enum DiskWriter {
    Thread,
    /// Whoever has something to write.
    Inline,
    /// What the thread does, as a task: simulations have one thread, and let the disk take simulated time.
    Task(DiskPace),
}

/// How long the disk takes for its next sync.
pub type DiskPace = Arc<dyn Fn() -> Duration + Send + Sync>;

pub(super) fn open(
    files: Files,
    name: &str,
    log_bytes: u64,
    writer: DiskWriter,
    effects: mpsc::UnboundedSender<Effect>,
    mark: Option<PathBuf>,
) -> Result<Opened> {
    let Files { database, file, last } = files;
    let (node, cluster) = prepare(&database, &file, name)?;
    let found = Found::read(&database, last)?;
    let generation = database::generation(&database.begin_read().map_err(failed)?)?;
    let image = StateImage::now(&database, &file)?;
    let state = State::load(&image)?;
    let me = PeerRun { node, incarnation: Entropy.next_u64() };
    let shared = Arc::new(Shared::new(me, effects, mark));
    let applied = machine::applied(&image)?;
    let settled = match image.raft_row(row::SETTLED)? {
        Some(settled) => Reader::new(settled).fixed().map_err(TableError::undecodable(Table::Meta, b"settled"))?,
        None => 0,
    };
    shared.durable.send_replace(found.last.or(found.purged));
    shared.visible.send_replace(applied.0.map(|applied| applied.index));
    shared.next_due.send_replace(next_due_ms(&image)?);
    shared.reached(state.queue.clock_ms());
    *lock(&shared.applied) = applied;
    let contents = LogContents::settled_below(settled, Arc::clone(&file));
    let ahead = (log_bytes / AHEAD).max(SLOT_BYTES);
    let disk_writer = Writer::new(Arc::clone(&database), Arc::clone(&shared), state, generation, contents, ahead);
    let (mut thread, mut task) = (None, JoinSet::new());
    let disk = match writer {
        DiskWriter::Thread => {
            let (disk, running) = Disk::thread(disk_writer).map_err(failed)?;
            thread = Some(running);
            disk
        }
        DiskWriter::Inline => Disk::inline(disk_writer),
        DiskWriter::Task(pace) => Disk::task(disk_writer, pace, &mut task),
    };
    let disk = Arc::new(disk);
    let log = Log::new(Arc::clone(&file), Arc::clone(&disk), Arc::clone(&shared), node, found);
    let machine = Machine::new(Arc::clone(&database), Arc::clone(&file), Arc::clone(&disk), Arc::clone(&shared));
    Ok(Opened { log, machine, shared, disk, database, file, thread, task, node, cluster })
}

/// Makes what a new file lacks, refuses a file of another version, and removes what an interrupted snapshot left.
fn prepare(database: &Database, file: &Arc<LogFile>, name: &str) -> Result<(u64, Option<u64>)> {
    let transaction = database.begin_write().map_err(failed)?;
    let (node, cluster) = {
        let mut raft = transaction.open_table(RAFT).map_err(failed)?;
        match raft_row(&raft, row::FORMAT)? {
            Some(format) if format[..] == [FORMAT] => {}
            Some(_) => return Err(damaged(row::FORMAT, "is of another version: use the release that wrote it")),
            None => {
                put_raft(&mut raft, row::FORMAT, &[FORMAT])?;
                put_raft(&mut raft, row::GENERATION, &0_u64.to_be_bytes())?;
                put_raft(&mut raft, row::NODE, &new_node(name).to_be_bytes())?;
                put_raft(&mut raft, row::LOG, &file.kept().encode())?;
            }
        }
        let node = number(&raft, row::NODE)?.ok_or_else(|| damaged(row::NODE, "is missing"))?;
        (node, number(&raft, row::CLUSTER)?)
    };
    let generation = {
        let raft = transaction.open_table(RAFT).map_err(failed)?;
        number(&raft, row::GENERATION)?.ok_or_else(|| damaged(row::GENERATION, "is missing"))?
    };
    database::remove_others(&transaction, generation)?;
    drop(OpenState::open(&transaction, generation, &LogContents::settled_below(0, Arc::clone(file)))?);
    transaction.commit().map_err(failed)?;
    Ok((node, cluster))
}

/// The upper half says whose disk it is, to people; the lower half makes each disk another node, so that a pod that
/// comes back without its disk is not taken for the one that had promised something.
fn new_node(name: &str) -> u64 {
    let half = u64::from(crc32fast::hash(name.as_bytes()));
    half << 32 | Entropy.next_u64() >> 32
}

fn number(table: &impl redb::ReadableTable<&'static [u8], &'static [u8]>, name: &'static str) -> Result<Option<u64>> {
    let Some(row) = raft_row(table, name)? else { return Ok(None) };
    let read = |row| -> codec::Result<u64> { Reader::new(row).fixed() };
    read(row).map(Some).map_err(TableError::undecodable(Table::Meta, name.as_bytes()))
}

fn damaged(name: &'static str, problem: &'static str) -> TableError {
    TableError::damaged(Table::Meta, name.as_bytes(), problem)
}
