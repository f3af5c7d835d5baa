//! The log's file. Entries are appended to it in frames, one write and one sync for all that wait; redb would write a
//! dozen scattered pages for the same.
//!
//! To its readers the log is one sequence of bytes that only grows: a frame's place in it is never used again. The
//! sequence is cut into slots of equal size, which lie in the file in any order: slots whose entries were purged become
//! the next ones, so the file stays as large as the log that is kept, and to write needs no space that is not there
//! already. Which slots there are, and where the log begins, is a row of the database (`Kept`), changed in the
//! transaction that makes it so.
//!
//! What is behind the last whole frame was never synced, unless a frame further on says that it was, or the database
//! does: then the disk changed it.

mod frame;
mod search;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use openraft::EntryPayload;
use rand::RngCore;
use redb::StorageBackend;

pub(super) use self::frame::Frame;
use self::frame::{HEAD_BYTES, Head, Record, records};
use super::database::failed;
use super::shared::lock;
use super::types::{Entropy, Entry, LogId};
use super::wire;
use crate::queue::codec::{self, Reader, Writer};
use crate::queue::tables::{Result, TableError};

/// The database is brought up to date whenever slots are added, so their size is how much is applied again at a start,
/// at least.
pub(super) const SLOT_BYTES: u64 = 1 << 20;

const CHANGED: &str = "does not have its checksum: the disk changed it";

pub(super) struct LogFile {
    disk: Box<dyn StorageBackend>,
    /// Tells the frames of this log from those of one that was in the same file before.
    seed: u64,
    inner: Mutex<Inner>,
}

/// What the database knows of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    seed: u64,
    /// Where the first frame begins.
    start: u64,
    /// Up to here everything was synced.
    end: u64,
    /// Where in the file the slots are, from the one that holds `start` on.
    slots: Vec<u64>,
}

#[derive(Debug)]
struct Inner {
    start: u64,
    /// Where the next frame goes.
    end: u64,
    synced: u64,
    /// The number of the first of `slots`; a slot's number is its place in the log.
    first: u64,
    /// Where in the file they are.
    slots: VecDeque<u64>,
    free: Vec<u64>,
    /// Slots that the file has.
    size: u64,
    /// The first entry of each frame that has any, and where the frame begins; both rise.
    frames: VecDeque<(u64, u64)>,
    last: Option<u64>,
    /// First slots that readers need, and by how many each.
    pins: BTreeMap<u64, u32>,
}

/// Keeps what was in the log when it was made.
pub(super) struct Pin {
    file: Arc<LogFile>,
    first: u64,
}

impl Kept {
    pub(super) fn read(row: Bytes) -> codec::Result<Self> {
        let mut reader = Reader::new(row);
        let kept = Self {
            seed: reader.fixed()?,
            start: reader.number()?,
            end: reader.number()?,
            slots: reader.list(Reader::number)?,
        };
        reader.end()?;
        Ok(kept)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(24 + self.slots.len() * 2);
        writer.fixed(self.seed);
        writer.number(self.start);
        writer.number(self.end);
        writer.list(self.slots.iter(), |writer, slot| writer.number(*slot));
        writer.0
    }
}

impl LogFile {
    /// The log of a database, with the id of its last entry; without `kept` a new one. Entries up to `purged` are gone.
    ///
    /// # Errors
    ///
    /// [`TableError::DamagedLog`] where something that was synced is not there.
    pub(super) fn open(
        disk: Box<dyn StorageBackend>,
        kept: Option<Kept>,
        purged: Option<u64>,
    ) -> Result<(Arc<Self>, Option<LogId>)> {
        let kept = kept.unwrap_or_else(|| Kept { seed: Entropy.next_u64(), start: 0, end: 0, slots: Vec::new() });
        let size = disk.len().map_err(failed)? / SLOT_BYTES;
        let free = (0..size).filter(|place| !kept.slots.contains(place)).collect();
        let inner = Inner {
            start: kept.start,
            end: kept.start,
            synced: kept.start,
            first: kept.start / SLOT_BYTES,
            slots: kept.slots.iter().copied().collect(),
            free,
            size: size.max(kept.slots.iter().map(|place| place + 1).max().unwrap_or(0)),
            frames: VecDeque::new(),
            last: None,
            pins: BTreeMap::new(),
        };
        let file = Arc::new(Self { disk, seed: kept.seed, inner: Mutex::new(inner) });
        let last = file.find_end(kept.end, purged)?;
        Ok((file, last))
    }

    /// For the database, with everything that was synced.
    pub(super) fn kept(&self) -> Kept {
        let inner = lock(&self.inner);
        let needed = inner.start / SLOT_BYTES - inner.first;
        let slots = inner.slots.iter().skip(usize::try_from(needed).unwrap_or(usize::MAX)).copied().collect();
        Kept { seed: self.seed, start: inner.start, end: inner.synced, slots }
    }

    /// How many bytes can be written before [`LogFile::grow`] is due.
    pub(super) fn room(&self) -> u64 {
        let inner = lock(&self.inner);
        (inner.first + inner.slots.len() as u64) * SLOT_BYTES - inner.end
    }

    /// Adds slots until there is room for so much. They are of use once the database has them.
    pub(super) fn grow(&self, room: u64) -> Result<()> {
        while self.room() < room {
            let free = lock(&self.inner).free.pop();
            let place = match free {
                Some(place) => place,
                None => self.add_slot()?,
            };
            lock(&self.inner).slots.push_back(place);
        }
        Ok(())
    }

    /// Written once with zeros, so that later writes change nothing but their own bytes: no length, no map of blocks.
    fn add_slot(&self) -> Result<u64> {
        const ZEROS: &[u8] = &[0; 64 << 10];
        let place = lock(&self.inner).size;
        let begin = place * SLOT_BYTES;
        self.disk.set_len(begin + SLOT_BYTES).map_err(failed)?;
        for at in (begin..begin + SLOT_BYTES).step_by(ZEROS.len()) {
            self.disk.write(at, ZEROS).map_err(failed)?;
        }
        lock(&self.inner).size = place + 1;
        Ok(place)
    }

    /// Appends the frame, and empties it. There must be room.
    pub(super) fn write(&self, frame: &mut Frame) -> Result<()> {
        if frame.is_empty() {
            return Ok(());
        }
        let (at, synced) = {
            let inner = lock(&self.inner);
            (inner.end, inner.synced)
        };
        let bytes = frame.sealed(self.seed, at, synced);
        self.write_at(at, bytes).map_err(failed)?;
        let end = at + bytes.len() as u64;
        let mut inner = lock(&self.inner);
        inner.end = end;
        for (index, is_cut) in &frame.changes {
            inner.note(at, *index, *is_cut);
        }
        drop(inner);
        frame.clear();
        Ok(())
    }

    /// Everything that was written is there after a power failure.
    pub(super) fn sync(&self) -> Result<()> {
        self.disk.sync_data().map_err(failed)?;
        let mut inner = lock(&self.inner);
        inner.synced = inner.end;
        Ok(())
    }

    pub(super) fn is_synced(&self) -> bool {
        let inner = lock(&self.inner);
        inner.synced == inner.end
    }

    /// The log begins behind this entry, as soon as the database says so.
    pub(super) fn purge(&self, upto: u64) {
        let mut inner = lock(&self.inner);
        if inner.last <= Some(upto) {
            inner.start = inner.end;
            return;
        }
        // The frame that holds the entry behind it may hold others as well.
        let (holder, _) = inner.frame_of(upto + 1);
        inner.start = holder.map_or(inner.start, |(_, at)| at);
    }

    /// The database says so: slots before the log's start are free, once nobody reads them.
    pub(super) fn release(&self) {
        let mut inner = lock(&self.inner);
        let below = inner.pins.keys().next().copied().unwrap_or(u64::MAX).min(inner.start / SLOT_BYTES);
        while inner.first < below {
            let Some(place) = inner.slots.pop_front() else { break };
            inner.free.push(place);
            inner.first += 1;
        }
        let begin = inner.first * SLOT_BYTES;
        let gone = inner.frames.partition_point(|(_, at)| *at < begin);
        inner.frames.drain(..gone);
    }

    pub(super) fn pin(self: &Arc<Self>) -> Pin {
        let mut inner = lock(&self.inner);
        let first = inner.first;
        *inner.pins.entry(first).or_default() += 1;
        Pin { file: Arc::clone(self), first }
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let parts = self.parts(at, bytes.len()).ok_or_else(|| io::Error::other("the log has no room"))?;
        parts.into_iter().try_for_each(|(offset, range)| self.disk.write(offset, &bytes[range]))
    }

    /// False: it is not in the file.
    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<bool> {
        let Some(parts) = self.parts(at, out.len()) else { return Ok(false) };
        for (offset, range) in parts {
            match self.disk.read(offset, &mut out[range]) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                read => read.map_err(failed)?,
            }
        }
        Ok(true)
    }

    /// Where in the file these bytes of the log are; each part lies in one slot.
    fn parts(&self, at: u64, length: usize) -> Option<Vec<(u64, Range<usize>)>> {
        let inner = lock(&self.inner);
        let mut parts = Vec::with_capacity(2);
        let mut done = 0;
        while done < length {
            let from = at + done as u64;
            let slot = (from / SLOT_BYTES).checked_sub(inner.first)?;
            let place = inner.slots.get(usize::try_from(slot).ok()?)?;
            let within = from % SLOT_BYTES;
            let here = usize::try_from(SLOT_BYTES - within).unwrap_or(usize::MAX).min(length - done);
            parts.push((place * SLOT_BYTES + within, done..done + here));
            done += here;
        }
        Some(parts)
    }

    /// The frame that begins here, if it is whole.
    fn frame_at(&self, at: u64) -> Result<Option<(Head, Bytes)>> {
        let mut bytes = [0; HEAD_BYTES];
        if !self.read_at(at, &mut bytes)? {
            return Ok(None);
        }
        let Some(head) = Head::read(&bytes, self.seed, at) else { return Ok(None) };
        // A length that the disk changed is not worth the memory.
        let begin = at + HEAD_BYTES as u64;
        if self.parts(begin, head.body).is_none() {
            return Ok(None);
        }
        let mut body = vec![0; head.body];
        let is_whole = self.read_at(begin, &mut body)? && head.is_of(&bytes, &body);
        Ok(is_whole.then(|| (head, body.into())))
    }
}

impl Inner {
    /// A record of the frame at this place.
    fn note(&mut self, at: u64, index: u64, is_cut: bool) {
        while self.frames.back().is_some_and(|(first, _)| *first >= index) {
            self.frames.pop_back();
        }
        if is_cut {
            self.last = index.checked_sub(1).min(self.last);
            return;
        }
        self.last = Some(index);
        if self.frames.back().is_none_or(|(_, last)| *last != at) {
            self.frames.push_back((index, at));
        }
    }

    /// The frame that has this entry, or else the first one that has any behind it, and the first index that it does not
    /// have, or has no longer.
    fn frame_of(&self, index: u64) -> (Option<(u64, u64)>, u64) {
        let next = self.frames.partition_point(|(first, _)| *first <= index).max(1);
        let end = self.last.map_or(0, |last| last + 1);
        (self.frames.get(next - 1).copied(), self.frames.get(next).map_or(end, |(first, _)| *first))
    }
}

impl Pin {
    /// Entries from the file, in order and without a gap, and whether it stopped because they exceed `bytes_max`. They
    /// begin later than asked where the log does.
    pub(super) fn entries(&self, from: u64, below: u64, bytes_max: usize) -> Result<(Vec<Entry>, bool)> {
        let (mut entries, mut next, mut total) = (Vec::new(), from, 0);
        while next < below {
            let (frame, limit) = lock(&self.file.inner).frame_of(next);
            let Some((first, at)) = frame else { break };
            next = next.max(first);
            let already = entries.len();
            for entry in self.frame(at, next)? {
                let index = entry.log_id.index;
                if index != next || index >= below.min(limit) {
                    continue;
                }
                if total >= bytes_max {
                    return Ok((entries, true));
                }
                total += wire::entry_size(&entry);
                next += 1;
                entries.push(entry);
            }
            if entries.len() == already {
                break;
            }
        }
        Ok((entries, false))
    }

    /// The content of one entry, if it is there and has any.
    pub(super) fn content(&self, index: u64) -> Result<Option<Bytes>> {
        let (mut found, _) = self.entries(index, index.saturating_add(1), usize::MAX)?;
        Ok(found.pop().and_then(|entry| match entry.payload {
            EntryPayload::Normal(content) => Some(content.0),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        }))
    }

    /// What a frame leaves in the log.
    fn frame(&self, at: u64, index: u64) -> Result<Vec<Entry>> {
        let damaged = |problem| TableError::DamagedLog { index, problem };
        let (_, body) = self.file.frame_at(at)?.ok_or_else(|| damaged(CHANGED))?;
        let mut entries: Vec<Entry> = Vec::new();
        for record in records(body).map_err(|error| damaged(error.0))? {
            let (from, entry) = match record {
                Record::Cut(from) => (from, None),
                Record::Entry(entry) => (entry.log_id.index, Some(entry)),
            };
            while entries.last().is_some_and(|last| last.log_id.index >= from) {
                entries.pop();
            }
            entries.extend(entry);
        }
        Ok(entries)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut inner = lock(&self.file.inner);
        if let Some(pins) = inner.pins.get_mut(&self.first) {
            *pins -= 1;
            if *pins == 0 {
                inner.pins.remove(&self.first);
            }
        }
    }
}

impl fmt::Debug for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        lock(&self.inner).fmt(f)
    }
}

#[cfg(test)]
mod tests;
