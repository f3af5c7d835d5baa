//! What is attached where, and what keeps it attached: files of a bpffs, or this process where there is none.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{KernelError, attach};
use crate::agent::pins::{Pins, remove_links};

/// A program as the kernel takes it to attach it.
#[derive(Clone, Copy)]
pub(super) struct Attachable<'a> {
    pub(super) name: &'static str,
    pub(super) program: BorrowedFd<'a>,
    /// One of `enum bpf_attach_type`.
    pub(super) attach_type: u32,
}

pub(super) struct Links {
    /// None where they end with this process.
    pins: Option<Pins>,
    /// Theirs for this start; made with the first link.
    folder: Option<PathBuf>,
    /// By a name of our own; open where no file keeps them.
    links: BTreeMap<String, Option<OwnedFd>>,
}

impl Links {
    pub(super) const fn new(pins: Option<Pins>) -> Self {
        Self { pins, folder: None, links: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, link: String, what: Attachable<'_>, cgroup: &Path) -> Result<(), KernelError> {
        let fail = |doing| move |source| KernelError::Link { name: what.name, doing, source };
        let file = File::open(cgroup).map_err(|source| KernelError::Cgroup { path: cgroup.to_owned(), source })?;
        let open = attach::create_link(what.program, file.as_fd(), what.attach_type).map_err(fail("attach"))?;
        if let (Some(pins), None) = (&self.pins, &self.folder) {
            self.folder = Some(pins.new_links()?);
        }
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

    /// Detaches.
    pub(super) fn remove(&mut self, link: &str) -> io::Result<()> {
        if let Some(folder) = &self.folder {
            let file = folder.join(link);
            attach::detach_pinned(&file)?;
            fs::remove_file(&file)?;
        }
        self.links.remove(link);
        Ok(())
    }

    pub(super) fn has(&self, link: &str) -> bool {
        self.links.contains_key(link)
    }

    /// The names that begin so.
    pub(super) fn beginning_with(&self, beginning: &str) -> Vec<String> {
        self.links.keys().filter(|link| link.starts_with(beginning)).cloned().collect()
    }

    /// Detaches what earlier starts have pinned.
    pub(super) fn remove_earlier(&self) -> Result<(), KernelError> {
        if let (Some(pins), Some(folder)) = (&self.pins, &self.folder) {
            pins.remove_all_but(folder)?;
        }
        Ok(())
    }

    /// Detaches everything of this start.
    pub(super) fn abandon(&mut self) -> Result<(), KernelError> {
        self.links.clear();
        if let Some(folder) = self.folder.take() {
            remove_links(&folder)?;
        }
        Ok(())
    }
}
