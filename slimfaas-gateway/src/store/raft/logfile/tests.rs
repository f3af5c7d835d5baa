//! The log's file by itself, on a disk that loses and changes what it is told to.

use std::sync::Arc;

use openraft::{CommittedLeaderId, EntryPayload};

use super::{Frame, Kept, LogFile, SLOT_BYTES};
use crate::queue::tables::TableError;
use crate::store::StorageBackend;
use crate::store::raft::types::{Content, Entry, LogId};
use crate::store::tests::disk::{Half, Luck, PowerDisk};

/// What an entry of this index and term holds.
fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let log_id = LogId::new(CommittedLeaderId::new(term, 1), index);
    Entry { log_id, payload: EntryPayload::Normal(Content(vec![index as u8; bytes].into())) }
}

fn open(disk: &PowerDisk, kept: Option<Kept>) -> (Arc<LogFile>, Option<u64>) {
    let (file, last) = LogFile::open(Box::new(disk.log()), kept, None).unwrap();
    (file, last.map(|last| last.index))
}

fn append(file: &LogFile, entries: &[Entry]) {
    let mut frame = Frame::default();
    entries.iter().for_each(|entry| frame.entry(entry));
    file.write(&mut frame).unwrap();
}

fn cut(file: &LogFile, from: u64) {
    let mut frame = Frame::default();
    frame.cut(from);
    file.write(&mut frame).unwrap();
}

/// Term and index of what is there.
fn found(file: &Arc<LogFile>) -> Vec<(u64, u64)> {
    let (entries, is_cut) = file.pin().entries(0, u64::MAX, usize::MAX).unwrap();
    assert!(!is_cut);
    entries.iter().map(|entry| (entry.log_id.leader_id.term, entry.log_id.index)).collect()
}

fn damage(disk: &PowerDisk, kept: Kept) -> Option<u64> {
    match LogFile::open(Box::new(disk.log()), Some(kept), None) {
        Err(TableError::DamagedLog { index, .. }) => Some(index),
        Err(error) => panic!("{error}"),
        Ok(_) => None,
    }
}

#[test]
fn entries_are_read_as_they_were_written_and_overwritten() {
    let disk = PowerDisk::default();
    let (file, last) = open(&disk, None);
    assert_eq!(last, None);
    file.grow(SLOT_BYTES).unwrap();
    append(&file, &[entry(1, 0, 10), entry(1, 1, 10), entry(1, 2, 10)]);
    append(&file, &[entry(1, 3, 10)]);
    assert_eq!(found(&file), [(1, 0), (1, 1), (1, 2), (1, 3)]);
    cut(&file, 3);
    cut(&file, 2);
    assert_eq!(found(&file), [(1, 0), (1, 1)], "it ends where it was cut");
    append(&file, &[entry(2, 2, 10), entry(2, 3, 10)]);
    append(&file, &[entry(3, 3, 10)]);
    let expected = [(1, 0), (1, 1), (2, 2), (3, 3)];
    assert_eq!(found(&file), expected);
    let (some, is_cut) = file.pin().entries(1, 9, 1).unwrap();
    assert_eq!((some.len(), is_cut), (1, true));
    file.sync().unwrap();
    let (again, last) = open(&disk, Some(file.kept()));
    assert_eq!((found(&again), last), (expected.to_vec(), Some(3)));
    assert_eq!(again.pin().content(2).unwrap().unwrap(), [2; 10][..]);
    assert_eq!(again.pin().content(4).unwrap(), None);
}

#[test]
fn slots_are_used_again_once_nobody_reads_them() {
    let disk = PowerDisk::default();
    let (file, _) = open(&disk, None);
    let large = usize::try_from(SLOT_BYTES).unwrap() * 3 / 4;
    let mut reader = None;
    for index in 0..20 {
        file.grow(2 * SLOT_BYTES).unwrap();
        append(&file, &[entry(1, index, large)]);
        file.sync().unwrap();
        if index == 2 {
            reader = Some(file.pin());
        }
        if let Some(upto) = index.checked_sub(2) {
            file.purge(upto);
            file.release();
        }
        if index == 10 {
            assert_eq!(reader.as_ref().unwrap().content(0).unwrap().unwrap().len(), large, "it is kept for its reader");
            reader = None;
        }
    }
    let slots = disk.log().len().unwrap() / SLOT_BYTES;
    assert!((8..=12).contains(&slots), "what was read is as much as eleven entries: {slots}");
    let (again, last) = open(&disk, Some(file.kept()));
    assert_eq!((found(&again), last), (vec![(1, 18), (1, 19)], Some(19)));
    again.purge(50);
    again.release();
    again.grow(SLOT_BYTES).unwrap();
    append(&again, &[entry(2, 51, 10)]);
    again.sync().unwrap();
    assert_eq!(open(&disk, Some(again.kept())).1, Some(51), "after the installation of a state");
}

/// Whatever is left of what was not synced: what was synced is there, and what is written afterwards follows it.
#[test]
fn unfinished_writes_leave_nothing() {
    let lucks = [Luck::Nothing, Luck::Everything, Luck::Some(0), Luck::Some(1), Luck::Some(2)];
    let torn = [Luck::Torn(Half::First), Luck::Torn(Half::Second)];
    for luck in lucks.into_iter().chain(torn) {
        let disk = PowerDisk::default();
        let (file, _) = open(&disk, None);
        file.grow(SLOT_BYTES).unwrap();
        append(&file, &[entry(1, 0, 100)]);
        file.sync().unwrap();
        let kept = file.kept();
        for index in 1..=6 {
            append(&file, &[entry(1, index, 100)]);
        }
        let disk = disk.after_power_failure(luck);
        let (file, last) = open(&disk, Some(kept.clone()));
        let last = last.expect("what was synced is there");
        // As long as a former one was: behind it the next former one would begin.
        append(&file, &[entry(2, last + 1, 100)]);
        file.sync().unwrap();
        let (_, after) = open(&disk, Some(kept));
        assert_eq!(after, Some(last + 1), "{luck:?}");
    }
}

#[test]
fn what_a_killed_process_wrote_is_on_the_disk_before_it_counts() {
    let disk = PowerDisk::default();
    let (file, _) = open(&disk, None);
    file.grow(SLOT_BYTES).unwrap();
    file.sync().unwrap();
    append(&file, &[entry(1, 0, 100)]);
    assert_eq!(open(&disk, Some(file.kept())).1, Some(0));
    let disk = disk.after_power_failure(Luck::Nothing);
    assert_eq!(open(&disk, Some(file.kept())).1, Some(0));
}

#[test]
fn any_bit_that_changes_before_the_last_sync_is_found_and_its_entry_is_named() {
    let disk = PowerDisk::default();
    let (file, _) = open(&disk, None);
    file.grow(SLOT_BYTES).unwrap();
    let early = file.kept();
    for index in 0..4 {
        append(&file, &[entry(1, index, 5)]);
        file.sync().unwrap();
    }
    let late = file.kept();
    let end = usize::try_from(late.end).unwrap();
    // Frames are of one length here, and its last bytes fill it up.
    let (frame, filling) = (end / 4, frame_filling());
    for at in (0..end).filter(|at| at % frame < frame - filling) {
        for bit in 0..8 {
            let changed = disk.after_power_failure(Luck::Nothing);
            let mut byte = [0];
            changed.log().read(at as u64, &mut byte).unwrap();
            changed.log().write(at as u64, &[byte[0] ^ 1 << bit]).unwrap();
            let entry = (at / frame) as u64;
            assert_eq!(damage(&changed, late.clone()), Some(entry), "{at}.{bit}, and the database knows the end");
            // Otherwise the last frame might be one that was not synced.
            let expected = (entry < 3).then_some(entry);
            assert_eq!(damage(&changed, early.clone()), expected, "{at}.{bit}, and later frames know it");
        }
    }
}

/// Bytes at the end of the frames of that test that belong to nothing.
fn frame_filling() -> usize {
    let mut frame = Frame::default();
    frame.entry(&entry(1, 0, 5));
    let bytes = frame.sealed(0, 0, 0);
    let body = usize::try_from(u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]])).unwrap();
    bytes.len() - super::HEAD_BYTES - body
}

#[test]
fn a_file_of_another_log_is_empty() {
    let disk = PowerDisk::default();
    let (file, _) = open(&disk, None);
    file.grow(SLOT_BYTES).unwrap();
    append(&file, &[entry(1, 0, 10)]);
    file.sync().unwrap();
    let (other, last) = open(&disk, None);
    assert_eq!(last, None);
    other.grow(SLOT_BYTES).unwrap();
    assert_eq!(disk.log().len().unwrap(), SLOT_BYTES, "its space is used");
    append(&other, &[entry(1, 0, 10)]);
    assert_eq!(found(&other), [(1, 0)]);
}
