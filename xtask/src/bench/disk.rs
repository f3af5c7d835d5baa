//! What this machine's disk takes for one sync: it bounds everything that is durable.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// Written and synced at once: a page.
const WRITE_BYTES: usize = 4096;
/// The file, which is there in full before anything is measured, so that a sync is of data alone.
const FILE_BYTES: u64 = 4 << 20;
/// Syncs of one look.
const SYNCS: u64 = 100;
/// Of a file system in memory: `TMPFS_MAGIC` of statfs(2).
const MEMORY_FILE_SYSTEM: u64 = 0x0102_1994;

/// A file of its own beside what is measured.
pub(crate) struct Disk {
    file: File,
    next: u64,
    /// Milliseconds of each sync so far.
    pub(crate) millis: Vec<f64>,
}

impl Disk {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let kind = rustix::fs::statfs(folder).context("cannot ask for the kind of file system")?.f_type;
        let in_memory = u64::try_from(kind).is_ok_and(|kind| kind == MEMORY_FILE_SYSTEM);
        ensure!(!in_memory, "{} is in memory: set TMPDIR to a folder on a disk", folder.display());
        let file = File::create(folder.join("disk"))?;
        file.write_all_at(&vec![0; usize::try_from(FILE_BYTES)?], 0)?;
        file.sync_all()?;
        Ok(Self { file, next: 0, millis: Vec::new() })
    }

    /// Writes and syncs some more.
    pub(crate) fn look(&mut self) -> Result<()> {
        for _ in 0..SYNCS {
            let start = Instant::now();
            self.file.write_all_at(&[b'd'; WRITE_BYTES], self.next)?;
            self.file.sync_data()?;
            self.millis.push(start.elapsed().as_secs_f64() * 1e3);
            self.next = (self.next + WRITE_BYTES as u64) % FILE_BYTES;
        }
        Ok(())
    }
}
