//! What becomes of files that the disk changed. redb's checksums cover every page and are checked when a file is opened,
//! as are those of the log's frames; ours cover every value and are checked when it is read.
//!
//! A node that has peers sets damaged files aside and begins as another node: it promised things that it can no longer
//! vouch for, so the peers take it in anew, with the whole state. A node alone has nobody to ask, and does not start.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, DatabaseError, StorageBackend, StorageError};

use super::database;
use super::logfile::LogFile;
use super::types::LogId;
use super::with_sources;
use crate::queue::tables::TableError;

const FILE: &str = "store.redb";
const LOG: &str = "store.log";

/// What a node keeps, opened and found to be whole.
pub(super) struct Files {
    pub(super) database: Arc<Database>,
    pub(super) file: Arc<LogFile>,
    /// The last entry of the log.
    pub(super) last: Option<LogId>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("cannot open {0}: check the disk and its rights")]
    Database(PathBuf, #[source] DatabaseError),
    #[error("cannot read the log beside {0}: check the disk and its rights")]
    Log(PathBuf, #[source] TableError),
    #[error("{file} is damaged ({damage}): with a backup, put it there; without, move the file away to begin anew")]
    Damaged { file: PathBuf, damage: String },
    #[error("cannot set the damaged file aside")]
    Io(#[from] io::Error),
}

/// Why files were not opened.
enum Failure {
    Damage(PathBuf, String),
    Other(OpenError),
}

/// Where a running node notes damage that it finds.
pub(super) fn mark_in(folder: &Path) -> PathBuf {
    folder.join("store.damaged")
}

/// Where a damaged file is kept for people. While it is there, the node only joins others: to found a cluster would be to
/// forget what the file held.
pub(super) fn aside_in(folder: &Path) -> PathBuf {
    folder.join("store.redb.damaged")
}

pub(super) fn open(folder: &Path, has_peers: bool) -> Result<Files, OpenError> {
    let (file, damage) = match noted(folder)? {
        Some(noted) => (folder.join(FILE), noted),
        None => match open_in(folder) {
            Ok(files) => return Ok(files),
            Err(Failure::Damage(file, damage)) => (file, damage),
            Err(Failure::Other(error)) => return Err(error),
        },
    };
    if !has_peers {
        return Err(OpenError::Damaged { file, damage });
    }
    let aside = aside_in(folder);
    tracing::error!(
        damage,
        file = %file.display(),
        aside = %aside.display(),
        "the store's file is damaged: asking the peers for its content"
    );
    // The database last: as long as it is there, a log that is not is found to be missing.
    rename(&folder.join(LOG), &folder.join("store.log.damaged"))?;
    std::fs::rename(folder.join(FILE), &aside)?;
    remove(&mark_in(folder))?;
    open_in(folder).map_err(|failure| match failure {
        Failure::Damage(file, damage) => OpenError::Damaged { file, damage },
        Failure::Other(error) => error,
    })
}

fn open_in(folder: &Path) -> Result<Files, Failure> {
    let (file, log) = (folder.join(FILE), folder.join(LOG));
    let database = database::open(&file).map_err(|error| match error {
        DatabaseError::Storage(StorageError::Corrupted(damage)) => Failure::Damage(file.clone(), damage),
        error => Failure::Other(OpenError::Database(file.clone(), error)),
    })?;
    let disk = LogDisk::open(&log).map_err(|error| Failure::Other(error.into()))?;
    Files::of(database, Box::new(disk)).map_err(|error| match error.is_damage() {
        true => Failure::Damage(log, with_sources(&error)),
        false => Failure::Other(OpenError::Log(file, error)),
    })
}

impl Files {
    /// Reads the log of a database.
    pub(super) fn of(database: Arc<Database>, log: Box<dyn StorageBackend>) -> Result<Self, TableError> {
        let (kept, purged) = database::log_row(&database)?;
        let (file, last) = LogFile::open(log, kept, purged.map(|purged| purged.index))?;
        Ok(Self { database, file, last })
    }
}

/// The log's file, which nobody opens but who has opened the database.
#[derive(Debug)]
struct LogDisk(File);

impl LogDisk {
    fn open(path: &Path) -> io::Result<Self> {
        let is_new = !path.try_exists()?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if let (true, Some(folder)) = (is_new, path.parent()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self(file))
    }
}

impl StorageBackend for LogDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

fn noted(folder: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(mark_in(folder)) {
        Ok(noted) => Ok(Some(noted)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn rename(file: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(file, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
