//! The state as openraft sees it. A snapshot is no copy: it is a reading transaction of the database, which is streamed
//! from the disk when a peer needs it.

use std::fmt;
use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError};
use redb::Database;

use super::database::{StateImage, row};
use super::logfile::LogFile;
use super::shared::Shared;
use super::types::{Answer, Entry, LogId, SnapshotMeta, StorageError, StoredMembership, Types};
use super::wire;
use super::writer::{Disk, Job};
use crate::queue::codec::Reader;
use crate::queue::tables::{self, Table, TableError};
use crate::store::snapshot::{Position, chunk_at, rows_of};

#[derive(Clone)]
pub(super) struct Machine {
    database: Arc<Database>,
    file: Arc<LogFile>,
    disk: Arc<Disk>,
    shared: Arc<Shared>,
}

/// A whole state.
pub(crate) enum Image {
    /// Of this database, as one transaction sees it.
    Stored(Box<StateImage>),
    /// In the tables that the writer receives into.
    Received,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stored(_) => "stored",
            Self::Received => "received",
        })
    }
}

impl Machine {
    pub(super) fn new(database: Arc<Database>, file: Arc<LogFile>, disk: Arc<Disk>, shared: Arc<Shared>) -> Self {
        Self { database, file, disk, shared }
    }

    /// The state with everything in it that was applied so far.
    async fn image(&self) -> Result<Snapshot<Types>, StorageError> {
        let shown = self.disk.show(&self.shared).await;
        shown.map_err(|error| StorageIOError::read_state_machine(AnyError::new(&error)))?;
        image(&self.database, &self.file).map_err(|error| {
            self.shared.fail(&error);
            StorageIOError::read_state_machine(AnyError::new(&error)).into()
        })
    }

    /// Takes over a state of another database.
    async fn copy(&self, image: &StateImage) -> Result<(), StorageError> {
        let read = |error: TableError| StorageIOError::read_snapshot(None, AnyError::new(&error));
        let (mut next, mut fresh) = (Some(Position::start()), true);
        while let Some(position) = next {
            let chunk;
            (chunk, next) = chunk_at(image, &position).map_err(read)?;
            let rows = rows_of(chunk).map_err(|error| StorageIOError::read_snapshot(None, AnyError::new(&error)))?;
            let received = self.disk.ask(|done| Job::Receive { rows, fresh, done }).await;
            received.map_err(|error| StorageIOError::write_snapshot(None, AnyError::new(&error)))?;
            fresh = false;
        }
        Ok(())
    }
}

/// What was applied last, as stored.
pub(super) fn applied(state: &StateImage) -> tables::Result<(Option<LogId>, StoredMembership)> {
    let damaged = |name: &'static str| TableError::undecodable(Table::Meta, name.as_bytes());
    let applied = match state.raft_row(row::APPLIED)? {
        Some(row) => Some(wire::read_log_id(&mut Reader::new(row)).map_err(damaged(row::APPLIED))?),
        None => None,
    };
    let membership = match state.raft_row(row::MEMBERSHIP)? {
        Some(row) => wire::read_stored_membership(&mut Reader::new(row)).map_err(damaged(row::MEMBERSHIP))?,
        None => StoredMembership::default(),
    };
    Ok((applied, membership))
}

fn image(database: &Database, file: &Arc<LogFile>) -> tables::Result<Snapshot<Types>> {
    let state = StateImage::now(database, file)?;
    let (last_log_id, last_membership) = applied(&state)?;
    let snapshot_id = last_log_id.map_or("empty".to_owned(), |last| {
        format!("{}-{:x}-{}", last.leader_id.term, last.leader_id.node_id, last.index)
    });
    let meta = SnapshotMeta { last_log_id, last_membership, snapshot_id };
    Ok(Snapshot { meta, snapshot: Box::new(Image::Stored(Box::new(state))) })
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        self.image().await
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok(self.shared.applied())
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().collect();
        let answers = self.disk.ask(|done| Job::Apply { entries, done }).await;
        answers.map_err(|error| StorageIOError::write_state_machine(AnyError::new(&error)).into())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Image>, StorageError> {
        Ok(Box::new(Image::Received))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Box<Image>) -> Result<(), StorageError> {
        if let Image::Stored(image) = &*snapshot {
            self.copy(image).await?;
        }
        let meta = Box::new(meta.clone());
        let installed = self.disk.ask(|done| Job::Install { meta, done }).await;
        installed.map_err(|error| StorageIOError::write_snapshot(None, AnyError::new(&error)).into())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        if self.shared.applied().0.is_none() {
            return Ok(None);
        }
        self.image().await.map(Some)
    }
}
