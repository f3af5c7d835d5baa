//! A disk in memory. A process that is killed leaves everything that it wrote; a machine that loses power leaves what
//! was synced, and of the rest what luck has it, in any order and torn.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::Rng;
use slimfaas_gateway::store::{Backend, StorageBackend};

use crate::dice::Dice;

/// Disks write sectors of this size whole.
const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The database's and the log's.
    files: [Content; 2],
    /// Its process is gone: whatever still holds the disk reads and writes nothing any more.
    is_gone: bool,
    /// A planted bug: syncs are acknowledged and do nothing.
    ignores_syncs: bool,
}

#[derive(Clone, Debug, Default)]
struct Content {
    /// What was synced.
    durable: Vec<u8>,
    /// What the process sees.
    present: Vec<u8>,
    /// What was written since the last sync.
    unsynced: Vec<Change>,
}

/// One of the disk's files.
#[derive(Debug)]
struct DiskFile {
    disk: Disk,
    number: usize,
}

#[derive(Clone, Debug)]
enum Change {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

/// How a node's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// As by `kill -9`: the kernel still writes what the process wrote.
    Process,
    /// What was not synced is gone.
    Power,
    /// Some of what was not synced is there, and some of that in parts.
    TornPower,
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

impl Disk {
    /// A disk whose syncs do nothing.
    pub fn lying() -> Self {
        let disk = Self::default();
        disk.state().ignores_syncs = true;
        disk
    }

    /// The files of a node.
    pub fn backend(&self) -> Backend {
        let file = |number| Box::new(DiskFile { disk: self.clone(), number });
        Backend { state: file(0), log: file(1) }
    }

    /// The disk as the next process finds it. The former one can do nothing to it any more.
    pub fn crash(&self, crash: Crash, dice: &Dice) -> Self {
        let mut state = self.state();
        state.is_gone = true;
        let ignores_syncs = state.ignores_syncs;
        let files = state.files.each_ref().map(|file| {
            let present = match crash {
                Crash::Process => file.present.clone(),
                Crash::Power => file.durable.clone(),
                Crash::TornPower => torn(file, dice),
            };
            let durable = if ignores_syncs { file.durable.clone() } else { present.clone() };
            Content { durable, present, unsynced: Vec::new() }
        });
        Self(Arc::new(Mutex::new(State { files, is_gone: false, ignores_syncs })))
    }

    /// Another disk with the same content.
    pub fn copy(&self) -> Self {
        let state = self.state();
        let files = state.files.clone().map(|file| Content { unsynced: Vec::new(), ..file });
        Self(Arc::new(Mutex::new(State { files, is_gone: false, ignores_syncs: state.ignores_syncs })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("one thread, which does not panic here")
    }
}

/// Lengths are kept: what a file system would do to a file that had grown is its own matter.
fn torn(file: &Content, dice: &Dice) -> Vec<u8> {
    let mut bytes = file.durable.clone();
    for change in file.unsynced.iter().filter(|change| matches!(change, Change::Length(_))) {
        change.make(&mut bytes);
    }
    // redb's cache decides the order of its writes: take it out of what the seed decides.
    let mut writes: Vec<_> = file.unsynced.iter().enumerate().collect();
    writes.sort_by_key(|(number, change)| match change {
        Change::Length(length) => (*length, *number),
        Change::Bytes(at, _) => (*at, *number),
    });
    for (_, change) in writes {
        let Change::Bytes(at, data) = change else { continue };
        if !dice.chance(0.5) {
            continue;
        }
        let sectors = data.len().div_ceil(SECTOR);
        let whole = dice.chance(0.7) || sectors < 2;
        let kept = if whole { data.len() } else { dice.roll(|rng| rng.gen_range(1..sectors)) * SECTOR };
        Change::Bytes(*at, data[..kept].to_vec()).make(&mut bytes);
    }
    bytes
}

impl State {
    fn working(&self) -> io::Result<()> {
        if self.is_gone { Err(io::Error::other("the process is gone")) } else { Ok(()) }
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("simulated files are small")
}

impl DiskFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.disk.state();
        state.working()?;
        let file = &mut state.files[self.number];
        change.make(&mut file.present);
        file.unsynced.push(change);
        Ok(())
    }
}

impl StorageBackend for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.number].present.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.disk.state();
        state.working()?;
        let at = place(offset);
        let bytes = state.files[self.number].present.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(place(len)))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.working()?;
        if state.ignores_syncs {
            return Ok(());
        }
        let Content { durable, unsynced, .. } = &mut state.files[self.number];
        std::mem::take(unsynced).iter().for_each(|change| change.make(durable));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Bytes(place(offset), data.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crash_leaves_what_it_says() {
        let dice = Dice::new(1);
        let disk = Disk::default();
        let log = disk.backend().log;
        log.write(0, &[1; 1024]).unwrap();
        log.sync_data().unwrap();
        log.write(0, &[2; 1024]).unwrap();
        disk.backend().state.sync_data().unwrap();
        let read = |disk: &Disk| {
            let mut bytes = [0; 1024];
            disk.backend().log.read(0, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(read(&disk.crash(Crash::Process, &dice)), [2; 1024]);
        assert_eq!(read(&disk.crash(Crash::Power, &dice)), [1; 1024]);
        let left = (0..100).map(|_| read(&disk.crash(Crash::TornPower, &dice)));
        let sectors: std::collections::BTreeSet<_> = left.map(|bytes| (bytes[0], bytes[1023])).collect();
        assert_eq!(sectors, [(1, 1), (2, 1), (2, 2)].into());
        assert!(log.write(0, &[3]).is_err(), "a process that is gone writes nothing");
    }
}
