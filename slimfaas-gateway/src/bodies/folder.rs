//! The files: `<element>` is a whole body, `<element>.part` and `<element>.fetch` are on their way, `<element>.damaged`
//! is one that did not have its digest.
//!
//! Everything here blocks. A file gets its own name when all of it is on the disk, and the folder is synced then: who
//! finds a file by its name after a crash finds all of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::digest::{Context, SHA256};

use crate::queue::element::ElementId;
use crate::queue::request::BodyFile;

/// A file that is being written is synced whenever so much was written, so that its end waits for no more than that,
/// and the room on the disk is looked at.
const SYNC_EVERY: u64 = 16 << 20;

const READ_BYTES: usize = 256 << 10;

const PART: &str = "part";
const FETCH: &str = "fetch";
const DAMAGED: &str = "damaged";

pub(super) struct Folder {
    path: PathBuf,
    /// Bytes of the disk that bodies leave to others, the log among them.
    reserve: u64,
    files: AtomicU64,
    bytes: AtomicU64,
}

/// How a body comes to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    /// Somebody sends it.
    Pushed,
    /// This node asks others for it.
    Fetched,
}

/// What is known of a body's file.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Its bytes are those of the element; the file is at its beginning.
    Intact(File),
    Absent,
    Damaged,
}

impl Folder {
    /// Removes what a former process was in the midst of: nobody goes on with it.
    pub(super) fn open(path: PathBuf, reserve: u64) -> io::Result<Self> {
        std::fs::create_dir_all(&path)?;
        if let Some(parent) = path.parent() {
            sync_folder(parent)?;
        }
        for entry in std::fs::read_dir(&path)? {
            let name = PathBuf::from(entry?.file_name());
            if [PART, FETCH].iter().any(|suffix| name.extension().is_some_and(|found| found == *suffix)) {
                remove_if_there(&path.join(name))?;
            }
        }
        let folder = Self { path, reserve, files: AtomicU64::new(0), bytes: AtomicU64::new(0) };
        for bytes in folder.list()?.into_values() {
            folder.count(bytes);
        }
        Ok(folder)
    }

    /// Whole bodies and their bytes.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.files.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Bytes that may still be written here.
    pub(super) fn room(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.path)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize).saturating_sub(self.reserve))
    }

    /// Whole bodies with their sizes.
    pub(super) fn list(&self) -> io::Result<BTreeMap<ElementId, u64>> {
        self.each(|name| name.to_str().and_then(ElementId::parse))
    }

    /// Those that were set aside.
    pub(super) fn list_damaged(&self) -> io::Result<BTreeMap<ElementId, u64>> {
        self.each(|name| name.to_str()?.strip_suffix(DAMAGED)?.strip_suffix('.').and_then(ElementId::parse))
    }

    fn each(&self, id: impl Fn(&OsStr) -> Option<ElementId>) -> io::Result<BTreeMap<ElementId, u64>> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let Some(id) = id(&entry.file_name()) else { continue };
            match entry.metadata() {
                Ok(metadata) => drop(found.insert(id, metadata.len())),
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    pub(super) fn has(&self, id: ElementId, file: BodyFile) -> io::Result<bool> {
        match std::fs::metadata(self.whole(id)) {
            Ok(metadata) => Ok(metadata.len() == file.bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads all of it.
    pub(super) fn verify(&self, id: ElementId, expected: BodyFile) -> io::Result<Verdict> {
        let mut file = match File::open(self.whole(id)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Verdict::Absent),
            Err(error) => return Err(error),
        };
        let (mut hash, mut bytes, mut buffer) = (Context::new(&SHA256), 0_u64, vec![0; READ_BYTES]);
        loop {
            let read = match file.read(&mut buffer) {
                Ok(read) => read,
                // So disks and file systems with checksums of their own tell of damage.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Ok(Verdict::Damaged);
                }
                Err(error) => return Err(error),
            };
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            bytes += read as u64;
        }
        if bytes != expected.bytes || hash.finish().as_ref() != expected.digest {
            return Ok(Verdict::Damaged);
        }
        file.rewind()?;
        Ok(Verdict::Intact(file))
    }

    /// Takes a damaged file out of the way. It stays until its element is gone: where nobody else has the body, people
    /// may want what is left of it.
    pub(super) fn set_aside(&self, id: ElementId) -> io::Result<()> {
        let moved = std::fs::metadata(self.whole(id)).and_then(|metadata| {
            std::fs::rename(self.whole(id), self.named(id, DAMAGED))?;
            Ok(metadata.len())
        });
        match moved {
            Ok(bytes) => self.discount(bytes),
            // Somebody else has seen it too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Up to `max` bytes from `offset` on; `None`: there is no such file.
    pub(super) fn read(&self, id: ElementId, offset: u64, max: usize) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.whole(id)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let left = usize::try_from(file.metadata()?.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(max)];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(Some(bytes))
    }

    /// Removes a body, if it is there.
    pub(super) fn remove(&self, id: ElementId) -> io::Result<()> {
        remove_if_there(&self.named(id, DAMAGED))?;
        let path = self.whole(id);
        let bytes = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if remove_if_there(&path)? {
            self.discount(bytes);
        }
        Ok(())
    }

    fn whole(&self, id: ElementId) -> PathBuf {
        self.path.join(id.to_string())
    }

    fn named(&self, id: ElementId, suffix: &str) -> PathBuf {
        self.path.join(format!("{id}.{suffix}"))
    }

    fn count(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn discount(&self, bytes: u64) {
        self.files.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn check_room(&self, bytes: u64) -> io::Result<()> {
        if self.room()? > bytes {
            return Ok(());
        }
        let text = format!("it would leave less than {} bytes free, which are kept for the log", self.reserve);
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }
}

/// Whether an error says that the disk, or our share of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A body on its way. Dropped before `finish`, it leaves nothing.
pub(super) struct Part {
    folder: Arc<Folder>,
    id: ElementId,
    path: PathBuf,
    file: File,
    hash: Context,
    written: u64,
    unsynced: u64,
    is_finished: bool,
}

impl Part {
    /// `expected`: as many bytes are known to come.
    pub(super) fn create(folder: &Arc<Folder>, id: ElementId, coming: Coming, expected: u64) -> io::Result<Self> {
        folder.check_room(expected)?;
        let path = folder.named(id, if coming == Coming::Pushed { PART } else { FETCH });
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self {
            folder: Arc::clone(folder),
            id,
            path,
            file,
            hash: Context::new(&SHA256),
            written: 0,
            unsynced: 0,
            is_finished: false,
        })
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_EVERY {
            self.folder.check_room(0)?;
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// What was written so far.
    pub(super) fn content(&self) -> BodyFile {
        let digest = self.hash.clone().finish();
        let digest = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
        BodyFile { digest, bytes: self.written }
    }

    /// Gives the file its name. It is on the disk then, name and all.
    pub(super) fn finish(mut self) -> io::Result<BodyFile> {
        let content = self.content();
        self.file.sync_all()?;
        let path = self.folder.whole(self.id);
        // It may have come another way meanwhile.
        let former = std::fs::metadata(&path).map(|metadata| metadata.len());
        std::fs::rename(&self.path, &path)?;
        self.is_finished = true;
        if let Ok(bytes) = former {
            self.folder.discount(bytes);
        }
        self.folder.count(content.bytes);
        sync_folder(&self.folder.path)?;
        Ok(content)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "a part of a body could not be removed: the next start will");
        }
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> ElementId {
        ElementId([number; 16])
    }

    fn folder(reserve: u64) -> (tempfile::TempDir, Arc<Folder>) {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::open(scratch.path().join("bodies"), reserve).unwrap();
        (scratch, Arc::new(folder))
    }

    fn names(scratch: &tempfile::TempDir) -> Vec<String> {
        let entries = std::fs::read_dir(scratch.path().join("bodies")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn put(folder: &Arc<Folder>, id: ElementId, bytes: &[u8]) -> BodyFile {
        let mut part = Part::create(folder, id, Coming::Pushed, bytes.len() as u64).unwrap();
        part.append(bytes).unwrap();
        part.finish().unwrap()
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole() {
        let (scratch, folder) = folder(0);
        let mut part = Part::create(&folder, id(1), Coming::Pushed, 0).unwrap();
        part.append(b"ab").unwrap();
        part.append(b"c").unwrap();
        assert_eq!((part.written(), names(&scratch)), (3, vec![format!("{}.part", id(1))]));
        let file = part.finish().unwrap();
        // The digest is that of `sha256sum`.
        assert_eq!((file.bytes, &file.digest[..4]), (3, &[0xba, 0x78, 0x16, 0xbf][..]));
        assert_eq!((names(&scratch), folder.totals()), (vec![id(1).to_string()], (1, 3)));
        assert!(folder.has(id(1), file).unwrap());
        assert!(!folder.has(id(1), BodyFile { bytes: 4, ..file }).unwrap());
        assert_eq!(folder.list().unwrap(), [(id(1), 3)].into());
        assert_eq!(folder.read(id(1), 1, 9).unwrap().unwrap(), b"bc");
        assert_eq!(folder.read(id(1), 9, 9).unwrap().unwrap(), b"");
        assert_eq!(folder.read(id(2), 0, 9).unwrap(), None);
        let Verdict::Intact(mut verified) = folder.verify(id(1), file).unwrap() else { panic!("it is intact") };
        let mut text = String::new();
        verified.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        folder.remove(id(1)).unwrap();
        folder.remove(id(1)).unwrap();
        assert_eq!((names(&scratch), folder.totals()), (Vec::new(), (0, 0)));
    }

    #[test]
    fn what_is_not_finished_leaves_nothing() {
        let (scratch, folder) = folder(0);
        drop(Part::create(&folder, id(1), Coming::Pushed, 0).unwrap());
        assert_eq!(names(&scratch), [""; 0]);
        // Neither does what a killed process was writing.
        let whole = put(&folder, id(2), b"whole");
        std::mem::forget(Part::create(&folder, id(1), Coming::Pushed, 0).unwrap());
        std::mem::forget(Part::create(&folder, id(1), Coming::Fetched, 0).unwrap());
        let folder = Folder::open(scratch.path().join("bodies"), 0).unwrap();
        assert_eq!((names(&scratch), folder.totals()), (vec![id(2).to_string()], (1, 5)));
        assert!(folder.has(id(2), whole).unwrap());
    }

    #[test]
    fn one_flipped_bit_is_detected_and_set_aside() {
        let (scratch, folder) = folder(0);
        let file = put(&folder, id(1), &[7; 1000]);
        let path = scratch.path().join("bodies").join(id(1).to_string());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[999] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(folder.verify(id(1), file).unwrap(), Verdict::Damaged));
        std::fs::write(&path, &bytes[..999]).unwrap();
        assert!(matches!(folder.verify(id(1), file).unwrap(), Verdict::Damaged));
        folder.set_aside(id(1)).unwrap();
        assert_eq!(names(&scratch), [format!("{}.damaged", id(1))]);
        assert_eq!((folder.list().unwrap().len(), folder.list_damaged().unwrap()), (0, [(id(1), 999)].into()));
        assert!(matches!(folder.verify(id(1), file).unwrap(), Verdict::Absent));
        folder.remove(id(1)).unwrap();
        assert_eq!(names(&scratch), [""; 0]);
    }

    #[test]
    fn a_reserve_of_the_disk_is_left_to_others() {
        let (scratch, folder) = folder(u64::MAX);
        let refused = Part::create(&folder, id(1), Coming::Pushed, 0).err().unwrap();
        assert!(is_full(&refused), "{refused}");
        assert_eq!((folder.room().unwrap(), names(&scratch)), (0, Vec::new()));
    }
}
