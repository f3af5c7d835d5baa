//! Programs and libraries of the distribution, installed where they are missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::terminal::progress;

const SYSTEM_FOLDERS: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A program on the path or in the folders of an administrator's programs.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Installs the Debian packages that `missing` names, until it names none. `purpose` needs them.
pub(crate) fn install(purpose: &str, missing: impl Fn() -> Vec<&'static str>) -> Result<()> {
    let wanted = missing();
    if wanted.is_empty() {
        return Ok(());
    }
    let names = wanted.join(" ");
    let Some(apt) = find("apt-get") else { bail!("{purpose} needs what Debian packages as {names}: install them") };
    progress(&format!("installing {names}"));
    let install = || run_apt(&apt, &[&["install", "--yes", "--no-install-recommends"], &*wanted].concat());
    // The list of packages may be absent or old.
    if install().is_err() {
        run_apt(&apt, &["update"])?;
        install()?;
    }
    let missing = missing();
    ensure!(missing.is_empty(), "installed, and yet not found: what is in {}", missing.join(", "));
    Ok(())
}

fn run_apt(apt: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(apt);
    command.arg("--quiet").args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().context("cannot run apt-get")?;
    ensure!(status.success(), "apt-get {} failed", arguments.join(" "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_nowhere_is_not_found() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program").is_none());
    }
}
