//! Where programs and maps outlive the agent: files of a bpffs.
//!
//! `<root>/maps-<version>/<map>` are used by every agent with this version of the maps. `<root>/links-<generation>/`
//! holds what one start of an agent has attached; the next start attaches its own before it removes these, so there is
//! no moment without.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use slimfaas_ebpf::contract::MAPS_VERSION;

use super::kernel::detach_pinned;

const MAPS: &str = "maps-";
const LINKS: &str = "links-";

#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {source} (check that it is in a bpffs that this process may write)")]
pub struct PinsError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// `root` is a directory of a bpffs that is ours alone, or is to be.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where this version's maps are; makes the directory.
    pub(super) fn maps(&self) -> Result<PathBuf, PinsError> {
        let path = self.root.join(format!("{MAPS}{MAPS_VERSION}"));
        create(&path)?;
        Ok(path)
    }

    /// A directory for the links of one start of the agent.
    pub(super) fn new_links(&self) -> Result<PathBuf, PinsError> {
        let last = self.entries()?.iter().filter_map(|name| name.strip_prefix(LINKS)?.parse::<u64>().ok()).max();
        let path = self.root.join(format!("{LINKS}{}", last.map_or(1, |last| last.saturating_add(1))));
        create(&path)?;
        Ok(path)
    }

    /// Removes the links of earlier starts, and then the maps of other versions. Returns how many links there were.
    pub(super) fn remove_all_but(&self, links: &Path) -> Result<usize, PinsError> {
        let own_maps = format!("{MAPS}{MAPS_VERSION}");
        let mut removed = 0;
        for name in self.entries()?.iter().filter(|name| name.starts_with(LINKS)) {
            let path = self.root.join(name);
            if path != links {
                removed += remove_links(&path)?;
            }
        }
        for name in self.entries()?.iter().filter(|name| name.starts_with(MAPS) && **name != own_maps) {
            remove(&self.root.join(name))?;
        }
        Ok(removed)
    }

    /// Removes everything, which detaches the programs. Returns how many pinned links and maps there were; none when
    /// nothing was ever pinned.
    pub fn detach(&self) -> Result<usize, PinsError> {
        let mut removed = 0;
        let entries = self.entries()?;
        // Links first: no program is to run on maps that are being taken away.
        for name in entries.iter().filter(|name| name.starts_with(LINKS)) {
            removed += remove_links(&self.root.join(name))?;
        }
        for name in entries.iter().filter(|name| name.starts_with(MAPS)) {
            removed += remove(&self.root.join(name))?;
        }
        match fs::remove_dir(&self.root) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(PinsError { doing: "remove", path: self.root.clone(), source })
            }
            _ => Ok(removed),
        }
    }

    fn entries(&self) -> Result<Vec<String>, PinsError> {
        let fail = |source| PinsError { doing: "list", path: self.root.clone(), source };
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.map_err(fail)?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }
}

fn create(path: &Path) -> Result<(), PinsError> {
    fs::create_dir_all(path).map_err(|source| PinsError { doing: "create", path: path.to_owned(), source })
}

/// Detaches the links of a directory, and removes it; returns how many there were.
pub(super) fn remove_links(path: &Path) -> Result<usize, PinsError> {
    for link in files(path)? {
        detach_pinned(&link).map_err(|source| PinsError { doing: "detach", path: link, source })?;
    }
    remove(path)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, PinsError> {
    let fail = |source| PinsError { doing: "list", path: path.to_owned(), source };
    fs::read_dir(path).map_err(fail)?.map(|entry| entry.map(|entry| entry.path()).map_err(fail)).collect()
}

/// Removes a directory with its files; returns how many there were.
fn remove(path: &Path) -> Result<usize, PinsError> {
    let fail = |source| PinsError { doing: "remove", path: path.to_owned(), source };
    let files = files(path)?;
    for file in &files {
        fs::remove_file(file).map_err(fail)?;
    }
    fs::remove_dir(path).map_err(fail)?;
    Ok(files.len())
}
