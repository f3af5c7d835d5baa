//! One at a time: whoever changes the machine's cluster, and whoever builds into the cache.

use std::fs::File;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::plan::NAME;
use crate::process::check_interrupted;
use crate::terminal::progress;

/// Between two looks whether the other is done.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Held while a cluster is started or taken down. It is a name that the kernel gives to one process at a time and takes
/// back with its end, so that there is nothing to leave behind.
pub(crate) struct MachineLock {
    _name: UnixListener,
}

impl MachineLock {
    pub(crate) fn take() -> Result<Self> {
        let name = SocketAddr::from_abstract_name(NAME).context("not a name for a socket")?;
        let mut is_told = false;
        loop {
            match UnixListener::bind_addr(&name) {
                Ok(listener) => return Ok(Self { _name: listener }),
                Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
                    return Err(error).context("cannot take the lock of the machine's cluster");
                }
                Err(_) if !is_told => {
                    progress("waiting for another `cluster up` or `cluster down`");
                    is_told = true;
                }
                Err(_) => std::thread::sleep(BETWEEN_LOOKS),
            }
            check_interrupted()?;
        }
    }
}

/// Held while something is built into a folder.
pub(crate) struct BuildLock {
    _file: File,
}

impl BuildLock {
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join("build.lock");
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        if file.try_lock().is_err() {
            progress("waiting for another build");
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Self { _file: file })
    }
}
