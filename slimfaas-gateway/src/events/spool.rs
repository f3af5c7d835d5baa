//! Bodies of events while they are delivered: small ones in memory, large ones in files, both within limits.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;

/// Between two looks at the disk's free space.
const ROOM_CHECK_BYTES: u64 = 4 << 20;

/// What is written at once.
const WRITE_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolLimits {
    /// Of one body in memory; a larger one is a file.
    pub memory_bytes: usize,
    /// Of one body.
    pub body_bytes: u64,
    /// Of all files together.
    pub file_bytes: u64,
    /// Bytes of the disk that stay free.
    pub disk_reserve: u64,
}

/// Where bodies of events are. Its folder is its own: what a former process left there is removed.
pub struct Spool {
    folder: PathBuf,
    limits: SpoolLimits,
    /// Of all files, those being written included.
    used: Arc<AtomicU64>,
    next: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("the body has more than {0} bytes")]
    TooLarge(u64),
    #[error("bodies of events take {0} bytes already")]
    Full(u64),
    #[error("the disk is nearly full")]
    DiskFull,
    #[error("the body cannot be kept")]
    Disk(#[source] io::Error),
}

impl Spool {
    /// Keeps what fits in memory; larger bodies need the folder, which [`Self::prepare`] makes.
    pub fn new(folder: PathBuf, limits: SpoolLimits) -> Self {
        Self { folder, limits, used: Arc::default(), next: AtomicU64::new(0) }
    }

    /// Makes the folder, empty and for nobody else to read.
    pub fn prepare(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _removed_or_absent => {}
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)
    }

    pub fn limits(&self) -> &SpoolLimits {
        &self.limits
    }

    /// Bytes in files at present.
    pub fn used(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.used)
    }

    /// Begins a body.
    pub fn write(&self) -> Writer<'_> {
        Writer { spool: self, ahead: Vec::new(), bytes: 0, file: None }
    }

    fn check_room(&self) -> Result<(), SpoolError> {
        let disk = rustix::fs::statvfs(&self.folder).map_err(|error| SpoolError::Disk(error.into()))?;
        let room = disk.f_bavail.saturating_mul(disk.f_frsize);
        if room > self.limits.disk_reserve { Ok(()) } else { Err(SpoolError::DiskFull) }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // What is not empty stays for the next start to remove.
        let _removed = std::fs::remove_dir(&self.folder).is_ok();
    }
}

/// A body on its way. Dropped, it leaves nothing.
pub struct Writer<'a> {
    spool: &'a Spool,
    /// What is not in the file.
    ahead: Vec<Bytes>,
    bytes: u64,
    file: Option<(tokio::fs::File, SpoolFile)>,
}

impl Writer<'_> {
    pub async fn write(&mut self, data: Bytes) -> Result<(), SpoolError> {
        let SpoolLimits { memory_bytes, body_bytes, .. } = self.spool.limits;
        let before = self.bytes;
        self.bytes += data.len() as u64;
        if self.bytes > body_bytes {
            return Err(SpoolError::TooLarge(body_bytes));
        }
        if self.file.is_none() && self.bytes > memory_bytes as u64 {
            self.begin_file().await?;
        }
        if self.file.is_none() {
            self.ahead.push(data);
            return Ok(());
        }
        if before / ROOM_CHECK_BYTES != self.bytes / ROOM_CHECK_BYTES {
            self.spool.check_room()?;
        }
        self.append(data).await
    }

    pub async fn finish(mut self) -> Result<Payload, SpoolError> {
        if let Some((mut file, stored)) = self.file.take() {
            file.flush().await.map_err(SpoolError::Disk)?;
            return Ok(Payload::File(stored));
        }
        Ok(Payload::Memory(match &mut self.ahead[..] {
            [] => Bytes::new(),
            [only] => std::mem::take(only),
            several => Bytes::from(several.concat()),
        }))
    }

    async fn begin_file(&mut self) -> Result<(), SpoolError> {
        self.spool.check_room()?;
        let name = self.spool.next.fetch_add(1, Ordering::Relaxed).to_string();
        let path = self.spool.folder.join(name);
        let mut file = tokio::fs::File::create_new(&path).await.map_err(SpoolError::Disk)?;
        file.set_max_buf_size(WRITE_BYTES);
        self.file = Some((file, SpoolFile { path, bytes: 0, used: Arc::clone(&self.spool.used) }));
        for data in std::mem::take(&mut self.ahead) {
            self.append(data).await?;
        }
        Ok(())
    }

    async fn append(&mut self, data: Bytes) -> Result<(), SpoolError> {
        let Some((file, stored)) = &mut self.file else { return Ok(()) };
        let limit = self.spool.limits.file_bytes;
        let length = data.len() as u64;
        stored.bytes += length;
        if stored.used.fetch_add(length, Ordering::Relaxed) + length > limit {
            return Err(SpoolError::Full(limit));
        }
        file.write_all(&data).await.map_err(SpoolError::Disk)
    }
}

/// A whole body, for any number of deliveries. Dropped, it is gone.
pub enum Payload {
    Memory(Bytes),
    File(SpoolFile),
}

impl Payload {
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(file) => file.bytes,
        }
    }
}

/// Removed when dropped.
pub struct SpoolFile {
    path: PathBuf,
    bytes: u64,
    used: Arc<AtomicU64>,
}

impl SpoolFile {
    /// From its beginning, for one reader.
    pub fn open(&self) -> io::Result<std::fs::File> {
        std::fs::File::open(&self.path)
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        let (path, bytes, used) = (std::mem::take(&mut self.path), self.bytes, Arc::clone(&self.used));
        let remove = move || {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, path = %path.display(), "an event's body was not removed");
            }
            // After its end: what counts is what the disk holds.
            used.fetch_sub(bytes, Ordering::Relaxed);
        };
        // The end of a large file takes milliseconds, which a core has not.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_no_runtime) => remove(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    const LIMITS: SpoolLimits = SpoolLimits { memory_bytes: 10, body_bytes: 100, file_bytes: 150, disk_reserve: 0 };

    fn spool(folder: &tempfile::TempDir, limits: SpoolLimits) -> Spool {
        let spool = Spool::new(folder.path().join("events"), limits);
        spool.prepare().expect("a folder");
        spool
    }

    async fn written(spool: &Spool, pieces: &[usize]) -> Result<Payload, SpoolError> {
        let mut writer = spool.write();
        for (number, length) in pieces.iter().enumerate() {
            let piece = vec![u8::try_from(number).expect("few pieces"); *length];
            writer.write(piece.into()).await?;
        }
        writer.finish().await
    }

    fn files(spool: &Spool) -> usize {
        std::fs::read_dir(&spool.folder).expect("a folder").count()
    }

    async fn settled(spool: &Spool, used: u64) {
        for _ in 0..1000 {
            if spool.used.load(Ordering::Relaxed) == used {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        panic!("{} bytes are used instead of {used}", spool.used.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn what_fits_stays_in_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = spool(&folder, LIMITS);
        for (pieces, expected) in [(&[][..], vec![]), (&[3], vec![0; 3]), (&[4, 6], [vec![0; 4], vec![1; 6]].concat())]
        {
            let Ok(Payload::Memory(bytes)) = written(&spool, pieces).await else { panic!("{pieces:?} is in a file") };
            assert_eq!(bytes, expected);
        }
        assert_eq!((files(&spool), spool.used.load(Ordering::Relaxed)), (0, 0));
    }

    #[tokio::test]
    async fn one_byte_more_is_a_file_that_ends_with_the_event() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = spool(&folder, LIMITS);
        let payload = written(&spool, &[4, 6, 1]).await.expect("fits");
        let Payload::File(file) = &payload else { panic!("it is in memory") };
        for _reader in 0..2 {
            let mut content = Vec::new();
            file.open().expect("is there").read_to_end(&mut content).expect("is readable");
            assert_eq!(content, [vec![0; 4], vec![1; 6], vec![2]].concat());
        }
        assert_eq!((files(&spool), payload.bytes(), spool.used.load(Ordering::Relaxed)), (1, 11, 11));
        drop(payload);
        settled(&spool, 0).await;
        assert_eq!(files(&spool), 0);
    }

    #[tokio::test]
    async fn limits_hold_at_their_value() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = spool(&folder, LIMITS);
        let largest = written(&spool, &[100]).await.expect("fits");
        assert!(matches!(written(&spool, &[40, 61]).await, Err(SpoolError::TooLarge(100))));
        settled(&spool, 100).await;
        let second = written(&spool, &[25, 25]).await.expect("150 in all");
        assert!(matches!(written(&spool, &[11]).await, Err(SpoolError::Full(150))));
        drop((largest, second));
        settled(&spool, 0).await;
        assert!(written(&spool, &[100]).await.is_ok());
    }

    #[tokio::test]
    async fn the_disk_keeps_its_reserve_and_leftovers_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let limits = SpoolLimits { disk_reserve: u64::MAX, ..LIMITS };
        let full = spool(&folder, limits);
        assert!(matches!(written(&full, &[11]).await, Err(SpoolError::DiskFull)));
        assert!(written(&full, &[10]).await.is_ok());
        std::fs::write(full.folder.join("7"), "left").expect("writable");
        assert_eq!(files(&spool(&folder, LIMITS)), 0);
    }
}
