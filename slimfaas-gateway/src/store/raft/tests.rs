use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader};
use tokio::sync::mpsc;

use super::damage;
use super::database;
use super::log::Log;
use super::machine::Machine;
use super::open::{DiskWriter, Opened, open};
use super::types::{Content, Entry, LogId, SnapshotMeta, StorageError, StoredMembership, Types};
use super::writer::Job;
use crate::model::function::FunctionId;
use crate::queue::command::{Command, Enqueue};
use crate::queue::element::{ElementId, PeerRun, Place, Policy};
use crate::store::Effect;
use crate::store::command::{Batch, encode_entry};

struct Fresh(DiskWriter);

impl StoreBuilder<Types, Log, Machine, tempfile::TempDir> for Fresh {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, Machine), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        let files = damage::open(folder.path(), false).unwrap();
        let Opened { log, machine, .. } =
            open(files, "a", 0, self.0.clone(), mpsc::unbounded_channel().0, None).unwrap();
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

fn entry(index: u64, from: PeerRun, commands: Vec<Command>) -> Entry {
    let log_id = LogId::new(CommittedLeaderId::new(1, from.node), index);
    let batch = Batch { from, number: 0, settled: 0, commands };
    Entry { log_id, payload: EntryPayload::Normal(Content(encode_entry(1000, &[batch.encode()]))) }
}

/// openraft asks for a state's installation and for the removal of the log that it replaces at once, while entries are
/// still being applied to the state of before.
#[tokio::test]
async fn the_log_is_there_until_the_state_that_replaces_it_is_installed() {
    cov_mark::check!(log_goes_with_the_installed_state);
    let folder = tempfile::tempdir().unwrap();
    let files = damage::open(folder.path(), false).unwrap();
    let (effects, mut told) = mpsc::unbounded_channel();
    let Opened { disk, shared, .. } = open(files, "a", 0, DiskWriter::Inline, effects, None).unwrap();
    let (me, function) = (*shared.me.borrow(), FunctionId::new("demo", "f"));
    let enqueue = Enqueue {
        id: ElementId([1; 16]),
        function: function.clone(),
        policy: Policy { timeout_ms: 1000, retry_delays_ms: Vec::new(), retry_statuses: Vec::new() },
        request: "the request".into(),
        place: Place::default(),
        body_file: None,
    };
    let first = entry(1, me, vec![Command::PeerUp(me), Command::Enqueue(enqueue)]);
    let second = entry(2, me, vec![Command::Budget { function, slots: 1 }]);
    for entry in [&first, &second] {
        let entries = vec![entry.clone()];
        disk.submit(Job::Append { entries, last: entry.log_id, flushed: None }).unwrap();
    }
    disk.ask(|done| Job::Apply { entries: vec![first], done }).await.unwrap();
    disk.ask(|done| Job::Receive { rows: Vec::new(), fresh: true, done }).await.unwrap();
    let upto = LogId::new(CommittedLeaderId::new(1, me.node), 3);
    let mut purge = Box::pin(disk.ask(|done| Job::Purge { upto, done }));
    assert!(futures::poll!(&mut purge).is_pending());
    disk.ask(|done| Job::Apply { entries: vec![second], done }).await.unwrap();
    let Some(Effect::Deliver(delivery)) = told.recv().await else { panic!("no delivery") };
    assert_eq!(delivery.request, "the request");
    let (last_log_id, last_membership) = (Some(upto), StoredMembership::default());
    let meta = Box::new(SnapshotMeta { last_log_id, last_membership, snapshot_id: "a".to_owned() });
    disk.ask(|done| Job::Install { meta, done }).await.unwrap();
    purge.await.unwrap();
    assert_eq!(*shared.failure.borrow(), None);
}

/// A leader of before may purge while its last entries are on their way to a follower, which takes the first that comes
/// for the first that was to come.
#[tokio::test]
async fn a_follower_gets_nothing_in_the_place_of_what_was_purged() {
    let (_folder, mut log, _machine) = Fresh(DiskWriter::Thread).build().await.unwrap();
    let from = PeerRun { node: 7, incarnation: 1 };
    log.blocking_append((1..=8).map(|index| entry(index, from, Vec::new()))).await.unwrap();
    log.purge(entry(5, from, Vec::new()).log_id).await.unwrap();
    let indices = |entries: Vec<Entry>| entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>();
    for (from, below, expected) in [(6, 9, &[6, 7, 8][..]), (8, 9, &[8]), (5, 9, &[]), (2, 9, &[]), (2, 5, &[])] {
        let read = log.limited_get_log_entries(from, below).await.unwrap();
        assert_eq!(indices(read), expected, "{from}..{below}");
    }
    assert_eq!(indices(log.try_get_log_entries(2..9).await.unwrap()), [6, 7, 8], "what is there of it");
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
