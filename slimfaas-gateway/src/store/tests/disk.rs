//! A disk in memory that loses what was not synced when the power goes, and that can refuse to work.

use std::io;
use std::sync::{Arc, Mutex};

use crate::store::{Backend, StorageBackend};

#[derive(Clone, Debug, Default)]
pub(crate) struct PowerDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The database's and the log's.
    files: [Content; 2],
    syncs: u64,
    /// The sync with this number (from 1) does not happen any more.
    fails_at: Option<u64>,
    has_failed: bool,
}

#[derive(Debug, Default)]
struct Content {
    /// What a power failure leaves.
    durable: Vec<u8>,
    /// What the process sees.
    present: Vec<u8>,
    /// Since the last sync.
    unsynced: Vec<Change>,
}

/// One of the disk's files.
#[derive(Clone, Debug)]
pub(crate) struct PowerFile {
    disk: PowerDisk,
    number: usize,
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
    /// Of every write the first half, or the second: disks write sectors.
    Torn(Half),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Half {
    First,
    Second,
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

impl Change {
    fn torn(&self, half: Half) -> Self {
        match (self, half) {
            (Self::Length(_), _) => self.clone(),
            (Self::Bytes(at, data), Half::First) => Self::Bytes(*at, data[..data.len() / 2].to_vec()),
            (Self::Bytes(at, data), Half::Second) => Self::Bytes(at + data.len() / 2, data[data.len() / 2..].to_vec()),
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

    pub(crate) fn database(&self) -> PowerFile {
        PowerFile { disk: self.clone(), number: 0 }
    }

    pub(crate) fn log(&self) -> PowerFile {
        PowerFile { disk: self.clone(), number: 1 }
    }

    pub(crate) fn backend(&self) -> Backend {
        Backend { state: Box::new(self.database()), log: Box::new(self.log()) }
    }

    /// The disk as it is found when the power is back.
    pub(crate) fn after_power_failure(&self, luck: Luck) -> Self {
        let files = self.0.lock().unwrap().files.each_ref().map(|file| file.after_power_failure(luck));
        Self(Arc::new(Mutex::new(State { files, ..State::default() })))
    }

    /// Changes one bit at each place where `bytes` are stored, and says at how many.
    pub(crate) fn flip_bits_in(&self, bytes: &[u8]) -> usize {
        let mut state = self.0.lock().unwrap();
        let mut found = 0;
        for file in &mut state.files {
            while let Some(at) = file.durable.windows(bytes.len()).position(|window| window == bytes) {
                file.durable[at] ^= 1;
                found += 1;
            }
        }
        found
    }
}

impl Content {
    fn after_power_failure(&self, luck: Luck) -> Self {
        let mut bytes = self.durable.clone();
        let numbered = self.unsynced.iter().enumerate();
        match luck {
            Luck::Nothing => {}
            Luck::Everything => self.unsynced.iter().for_each(|change| change.make(&mut bytes)),
            Luck::Some(rest) => {
                let lengths = self.unsynced.iter().filter(|change| matches!(change, Change::Length(_)));
                lengths.for_each(|change| change.make(&mut bytes));
                let written = numbered.filter(|(number, _)| number % 3 == rest).map(|(_, change)| change);
                let pages = written.filter(|change| matches!(change, Change::Bytes(..))).collect::<Vec<_>>();
                pages.into_iter().rev().for_each(|change| change.make(&mut bytes));
            }
            Luck::Torn(part) => {
                for change in &self.unsynced {
                    change.torn(part).make(&mut bytes);
                }
            }
        }
        Self { durable: bytes.clone(), present: bytes, unsynced: Vec::new() }
    }
}

impl State {
    fn working(&self) -> io::Result<()> {
        if self.has_failed { Err(io::Error::other("the disk has no power")) } else { Ok(()) }
    }
}

impl PowerFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        state.working()?;
        let file = &mut state.files[self.number];
        change.make(&mut file.present);
        file.unsynced.push(change);
        Ok(())
    }
}

impl StorageBackend for PowerFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().unwrap().files[self.number].present.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.disk.0.lock().unwrap();
        state.working()?;
        let at = offset as usize;
        let bytes = state.files[self.number].present.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        state.syncs += 1;
        state.has_failed |= state.fails_at.is_some_and(|at| state.syncs >= at);
        state.working()?;
        let Content { durable, unsynced, .. } = &mut state.files[self.number];
        std::mem::take(unsynced).iter().for_each(|change| change.make(durable));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Bytes(offset as usize, data.to_vec()))
    }
}
