//! What becomes of a file that the disk changed. redb's checksums cover every page and are checked when a file is
//! opened; ours cover every value and are checked when it is read.
//!
//! A node that has peers sets a damaged file aside and begins as another node: it promised things that it can no longer
//! vouch for, so the peers take it in anew, with the whole state. A node alone has nobody to ask, and does not start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, DatabaseError, StorageError};

use super::database;

const FILE: &str = "store.redb";

#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("cannot open {0}: check the disk and its rights")]
    Database(PathBuf, #[source] DatabaseError),
    #[error("{file} is damaged ({damage}): with a backup, put it there; without, move the file away to begin anew")]
    Damaged { file: PathBuf, damage: String },
    #[error("cannot set the damaged file aside")]
    Io(#[from] io::Error),
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

pub(super) fn open(folder: &Path, has_peers: bool) -> Result<Arc<Database>, OpenError> {
    let file = folder.join(FILE);
    let damage = match noted(folder)? {
        Some(noted) => noted,
        None => match database::open(&file) {
            Ok(database) => return Ok(database),
            Err(DatabaseError::Storage(StorageError::Corrupted(damage))) => damage,
            Err(error) => return Err(OpenError::Database(file, error)),
        },
    };
    if !has_peers {
        return Err(OpenError::Damaged { file, damage });
    }
    let aside = aside_in(folder);
    tracing::error!(damage, aside = %aside.display(), "the store's file is damaged: asking the peers for its content");
    std::fs::rename(&file, &aside)?;
    remove(&mark_in(folder))?;
    database::open(&file).map_err(|error| OpenError::Database(file, error))
}

fn noted(folder: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(mark_in(folder)) {
        Ok(noted) => Ok(Some(noted)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
