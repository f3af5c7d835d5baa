//! What is attached where, and what keeps it attached: files of a bpffs, or this process where there is none.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{KernelError, attach};

/// A program as the kernel takes it to attach it.
#[derive(Clone, Copy)]
pub(super) struct Attachable<'a> {
    pub(super) name: &'static str,
    pub(super) program: BorrowedFd<'a>,
    /// One of `enum bpf_attach_type`.
    pub(super) attach_type: u32,
}

pub(super) struct Links {
    /// Of a bpffs; none where they end with this process.
    folder: Option<PathBuf>,
    /// By a name of our own; open where no file keeps them.
    links: BTreeMap<String, Option<OwnedFd>>,
}

impl Links {
    pub(super) const fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, links: BTreeMap::new() }
    }

    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    pub(super) fn add(&mut self, link: String, what: Attachable<'_>, cgroup: &Path) -> Result<(), KernelError> {
        let fail = |doing| move |source| KernelError::Link { name: what.name, doing, source };
        let file = File::open(cgroup).map_err(|source| KernelError::Cgroup { path: cgroup.to_owned(), source })?;
        let open = attach::create_link(what.program, file.as_fd(), what.attach_type).map_err(fail("attach"))?;
        let kept = match &self.folder {
            Some(folder) => {
                attach::pin(&open, &folder.join(&link)).map_err(fail("pin"))?;
                None
            }
            None => Some(open),
        };
        self.links.insert(link, kept);
        Ok(())
    }

    /// Detaches. Its cgroup may have gone before, and taken it along.
    pub(super) fn remove(&mut self, link: &str) -> io::Result<()> {
        if let Some(folder) = &self.folder {
            let file = folder.join(link);
            match attach::detach_pinned(&file) {
                Err(error) if !attach::is_of_gone_cgroup(&error) => return Err(error),
                _ => fs::remove_file(&file)?,
            }
        }
        self.links.remove(link);
        Ok(())
    }

    pub(super) fn has(&self, link: &str) -> bool {
        self.links.contains_key(link)
    }

    /// The names that begin so, without their beginning.
    pub(super) fn after(&self, beginning: &str) -> Vec<String> {
        self.links.keys().filter_map(|link| link.strip_prefix(beginning)).map(str::to_owned).collect()
    }
}
