//! Finds the log's end when it is opened, and tells a write that was interrupted from what the disk has changed.

use std::sync::Arc;

use super::frame::{ALIGNMENT, HEAD_BYTES, Record, place, records};
use super::{CHANGED, LogFile, SLOT_BYTES};
use crate::queue::tables::{Result, TableError};
use crate::store::raft::database::failed;
use crate::store::raft::shared::lock;
use crate::store::raft::types::LogId;

/// What lies behind the last whole frame.
enum Behind {
    Nothing,
    /// Remains of a write that was not synced.
    Unfinished,
    /// A frame that was written when everything here had been synced.
    Synced,
}

impl LogFile {
    /// Reads everything, and returns the id of the last entry. `synced`: so far it must be whole.
    pub(super) fn find_end(self: &Arc<Self>, synced: u64, purged: Option<u64>) -> Result<Option<LogId>> {
        let mut at = lock(&self.inner).start;
        while let Some((head, body)) = self.frame_at(at)? {
            let records = records(body).map_err(|error| self.damaged(purged, error.0))?;
            let mut inner = lock(&self.inner);
            for record in records {
                match record {
                    Record::Entry(entry) => inner.note(at, entry.log_id.index, false),
                    Record::Cut(from) => inner.note(at, from, true),
                }
            }
            at = head.end();
            inner.end = at;
        }
        if at < synced {
            return Err(self.damaged(purged, CHANGED));
        }
        match self.behind(at)? {
            Behind::Nothing => {}
            Behind::Unfinished => self.wipe(at)?,
            Behind::Synced => return Err(self.damaged(purged, CHANGED)),
        }
        // What a process wrote that was killed before it synced is there, and need not be on the disk.
        self.sync()?;
        let last = lock(&self.inner).last.filter(|last| Some(*last) > purged);
        let Some(last) = last else { return Ok(None) };
        let (found, _) = self.pin().entries(last, last + 1, usize::MAX)?;
        Ok(found.last().map(|entry| entry.log_id))
    }

    /// The entry that cannot be read is the one behind the last that can.
    fn damaged(&self, purged: Option<u64>, problem: &'static str) -> TableError {
        let index = lock(&self.inner).last.max(purged).map_or(0, |last| last + 1);
        TableError::DamagedLog { index, problem }
    }

    fn behind(&self, end: u64) -> Result<Behind> {
        let mut found = Behind::Nothing;
        let mut chunk = vec![0; 64 << 10];
        let mut at = end;
        let until = end + self.room();
        while at < until {
            let length = usize::try_from(until - at).unwrap_or(usize::MAX).min(chunk.len());
            let chunk = &mut chunk[..length];
            // The file may be shorter than it was to be.
            if !self.read_at(at, chunk)? {
                return Ok(found);
            }
            for (number, bytes) in chunk.chunks(ALIGNMENT as usize).enumerate() {
                let here = at + number as u64 * ALIGNMENT;
                if *bytes != place(self.seed, here) {
                    continue;
                }
                found = Behind::Unfinished;
                if self.frame_at(here)?.is_some_and(|(head, _)| head.after > end) {
                    return Ok(Behind::Synced);
                }
            }
            at += length as u64;
        }
        Ok(found)
    }

    /// What is left of an unfinished write must never be taken for what follows a later one.
    fn wipe(&self, end: u64) -> Result<()> {
        let zeros = vec![0; 64 << 10];
        let until = end + self.room();
        for at in (end..until).step_by(zeros.len()) {
            let length = usize::try_from(until - at).unwrap_or(usize::MAX).min(zeros.len());
            self.write_at(at, &zeros[..length]).map_err(failed)?;
        }
        Ok(())
    }
}

// Heads are looked for in slots alone, which hold whole steps of the search.
const _: () = assert!(SLOT_BYTES.is_multiple_of(ALIGNMENT) && HEAD_BYTES as u64 >= ALIGNMENT);
