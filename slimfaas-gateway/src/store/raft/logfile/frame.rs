//! What the log's file consists of: frames of records, each with its place in the log and a checksum.

use bytes::Bytes;

use crate::queue::codec::{DecodeError, Reader, Result, Writer};
use crate::store::raft::types::Entry;
use crate::store::raft::wire;

/// Place, length of the body, distance from the synced end, checksum.
pub(super) const HEAD_BYTES: usize = 8 + 4 + 4 + 4;

/// Frames begin at multiples of this, so that a search need not look everywhere.
pub(super) const ALIGNMENT: u64 = 8;

/// A frame ends after the record that exceeds this: one entry is read with all of its frame.
const FRAME_BYTES: usize = 128 << 10;

const ENTRY: u8 = 1;
const CUT: u8 = 2;

/// One thing that was done to the log.
pub(super) enum Record {
    Entry(Entry),
    /// Entries from this index on were removed.
    Cut(u64),
}

/// A frame's head. All numbers are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Where the frame is in the log.
    pub(super) at: u64,
    pub(super) body: usize,
    /// Everything before this place was synced before the frame was written.
    pub(super) after: u64,
    sum: u32,
}

impl Head {
    /// `None`: no frame of this log begins here.
    pub(super) fn read(bytes: &[u8; HEAD_BYTES], seed: u64, at: u64) -> Option<Self> {
        let number = |from: usize| u32::from_be_bytes([bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]]);
        if bytes[..8] != place(seed, at) {
            return None;
        }
        let after = at.checked_sub(u64::from(number(12)))?;
        Some(Self { at, body: usize::try_from(number(8)).ok()?, after, sum: number(16) })
    }

    /// Where the next frame begins.
    pub(super) fn end(&self) -> u64 {
        self.at + padded(HEAD_BYTES + self.body) as u64
    }

    pub(super) fn is_of(&self, head: &[u8; HEAD_BYTES], body: &[u8]) -> bool {
        sum(&head[..HEAD_BYTES - 4], body) == self.sum
    }
}

/// Which frame it is: none of another log, and none of another place in this one.
pub(super) fn place(seed: u64, at: u64) -> [u8; 8] {
    (seed ^ at).to_be_bytes()
}

fn sum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT as usize)
}

/// Reads a frame's body. Entries share its memory.
pub(super) fn records(body: Bytes) -> Result<Vec<Record>> {
    let mut reader = Reader::new(body);
    let mut records = Vec::new();
    while !reader.is_empty() {
        records.push(match reader.byte()? {
            ENTRY => Record::Entry(wire::read_entry(&mut reader)?),
            CUT => Record::Cut(reader.number()?),
            _ => return Err(DecodeError("has an unknown kind of record")),
        });
    }
    Ok(records)
}

/// A frame that is being made.
pub(in crate::store::raft) struct Frame {
    bytes: Writer,
    /// The index of each record, and whether it cuts.
    pub(super) changes: Vec<(u64, bool)>,
}

impl Default for Frame {
    fn default() -> Self {
        Self { bytes: Writer(vec![0; HEAD_BYTES]), changes: Vec::new() }
    }
}

impl Frame {
    pub(in crate::store::raft) fn entry(&mut self, entry: &Entry) {
        self.bytes.byte(ENTRY);
        wire::write_entry(&mut self.bytes, entry);
        self.changes.push((entry.log_id.index, false));
    }

    pub(in crate::store::raft) fn cut(&mut self, from: u64) {
        self.bytes.byte(CUT);
        self.bytes.number(from);
        self.changes.push((from, true));
    }

    pub(in crate::store::raft) fn is_full(&self) -> bool {
        self.bytes.0.len() >= FRAME_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The whole frame for this place.
    pub(super) fn sealed(&mut self, seed: u64, at: u64, synced: u64) -> &[u8] {
        let bytes = &mut self.bytes.0;
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
        let body = (bytes.len() - HEAD_BYTES) as u64;
        bytes[..8].copy_from_slice(&place(seed, at));
        bytes[8..12].copy_from_slice(&short(body));
        bytes[12..16].copy_from_slice(&short(at - synced));
        let sum = sum(&bytes[..HEAD_BYTES - 4], &bytes[HEAD_BYTES..]);
        bytes[16..HEAD_BYTES].copy_from_slice(&sum.to_be_bytes());
        bytes.resize(padded(bytes.len()), 0);
        bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.0.truncate(HEAD_BYTES);
        // One entry may have been much larger than the others.
        self.bytes.0.shrink_to(2 * FRAME_BYTES);
        self.changes.clear();
    }
}
