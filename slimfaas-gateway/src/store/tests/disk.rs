//! A disk in memory that loses what was not synced when the power goes, and that can refuse to work.

use std::io;
use std::sync::{Arc, Mutex};

use crate::store::StorageBackend;

#[derive(Clone, Debug, Default)]
pub(crate) struct PowerDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What a power failure leaves.
    durable: Vec<u8>,
    /// What the process sees.
    present: Vec<u8>,
    /// Since the last sync.
    unsynced: Vec<Change>,
    syncs: u64,
    /// The sync with this number (from 1) does not happen any more.
    fails_at: Option<u64>,
    has_failed: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

/// Which of the changes that were not synced the disk had written all the same.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Luck {
    Nothing,
    Everything,
    /// Every change whose number has this remainder modulo 3, in reverse order: disks reorder.
    Some(usize),
}

impl Change {
    fn make(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Bytes(at, data) => {
                let end = at + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at..end].copy_from_slice(data);
            }
        }
    }
}

impl PowerDisk {
    /// The power will go at this sync, counted from now.
    pub(crate) fn fail_at(&self, sync: u64) {
        let mut state = self.0.lock().unwrap();
        state.fails_at = Some(state.syncs + sync);
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.0.lock().unwrap().syncs
    }

    /// The disk as it is found when the power is back.
    pub(crate) fn after_power_failure(&self, luck: Luck) -> Self {
        let state = self.0.lock().unwrap();
        let mut bytes = state.durable.clone();
        let numbered = state.unsynced.iter().enumerate();
        match luck {
            Luck::Nothing => {}
            Luck::Everything => state.unsynced.iter().for_each(|change| change.make(&mut bytes)),
            Luck::Some(rest) => {
                let lengths = state.unsynced.iter().filter(|change| matches!(change, Change::Length(_)));
                lengths.for_each(|change| change.make(&mut bytes));
                let written = numbered.filter(|(number, _)| number % 3 == rest).map(|(_, change)| change);
                let pages = written.filter(|change| matches!(change, Change::Bytes(..))).collect::<Vec<_>>();
                pages.into_iter().rev().for_each(|change| change.make(&mut bytes));
            }
        }
        Self(Arc::new(Mutex::new(State { durable: bytes.clone(), present: bytes, ..State::default() })))
    }

    /// Changes one bit at each place where `bytes` are stored, and says at how many.
    pub(crate) fn flip_bits_in(&self, bytes: &[u8]) -> usize {
        let mut state = self.0.lock().unwrap();
        let mut found = 0;
        while let Some(at) = state.durable.windows(bytes.len()).position(|window| window == bytes) {
            state.durable[at] ^= 1;
            found += 1;
        }
        found
    }
}

impl State {
    fn change(&mut self, change: Change) -> io::Result<()> {
        self.working()?;
        change.make(&mut self.present);
        self.unsynced.push(change);
        Ok(())
    }

    fn working(&self) -> io::Result<()> {
        if self.has_failed { Err(io::Error::other("the disk has no power")) } else { Ok(()) }
    }
}

impl StorageBackend for PowerDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().present.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        state.working()?;
        let at = offset as usize;
        let bytes = state.present.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().change(Change::Length(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.syncs += 1;
        state.has_failed |= state.fails_at.is_some_and(|at| state.syncs >= at);
        state.working()?;
        state.durable = state.present.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().change(Change::Bytes(offset as usize, data.to_vec()))
    }
}
