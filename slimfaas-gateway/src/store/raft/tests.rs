use openraft::testing::{StoreBuilder, Suite};
use tokio::sync::mpsc;

use super::database;
use super::log::Log;
use super::machine::Machine;
use super::open::{DiskWriter, Opened, open};
use super::types::{StorageError, Types};

struct Fresh(DiskWriter);

impl StoreBuilder<Types, Log, Machine, tempfile::TempDir> for Fresh {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, Machine), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        let database = database::open(&folder.path().join("store.redb")).unwrap();
        let Opened { log, machine, .. } =
            open(database, "a", self.0.clone(), mpsc::unbounded_channel().0, None).unwrap();
        Ok((folder, log, machine))
    }
}

#[test]
fn the_storage_contract_is_kept_with_a_thread() {
    Suite::test_all(Fresh(DiskWriter::Thread)).unwrap();
}

#[test]
fn the_storage_contract_is_kept_without_a_thread() {
    Suite::test_all(Fresh(DiskWriter::Inline)).unwrap();
}

#[test]
fn every_changed_bit_of_a_value_is_named() {
    let key = b"key";
    let stored = [&b"value"[..], &database::sum(3, key, b"value")].concat();
    assert_eq!(database::checked(3, key, &stored).unwrap(), &b"value"[..]);
    for bit in 0..stored.len() * 8 {
        let mut changed = stored.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(database::checked(3, key, &changed).is_err(), "{bit}");
    }
    assert!(database::checked(4, key, &stored).is_err(), "another table's value");
    assert!(database::checked(3, b"kez", &stored).is_err(), "another key's value");
    assert_eq!(database::checked(3, key, b"abc"), Err("is too short"));
}

/// An empty database, as a node finds it that begins.
pub(in crate::store) fn make(backend: impl database::StorageBackend) {
    redb::Builder::new().create_with_backend(backend).unwrap().close().unwrap();
}

/// Whether nobody has the file open.
pub(in crate::store) fn is_closed(file: &std::path::Path) -> bool {
    redb::Database::open(file).is_ok()
}
