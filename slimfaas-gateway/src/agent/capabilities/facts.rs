//! What the files of this machine say; no judgement. Every fact that cannot be read says why.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::mountinfo::{self, Mount};

/// Of the running kernel; relative to the root.
pub const KERNEL_BTF: &str = "sys/kernel/btf/vmlinux";
const KERNEL_RELEASE: &str = "proc/sys/kernel/osrelease";
const STATUS: &str = "proc/self/status";
const UID_MAP: &str = "proc/self/uid_map";
const MOUNTINFO: &str = "proc/self/mountinfo";
const UNPRIVILEGED_BPF: &str = "proc/sys/kernel/unprivileged_bpf_disabled";

#[derive(Debug, thiserror::Error)]
pub enum FactError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} has another form than expected: {found:?}")]
    Form { path: PathBuf, found: String },
}

#[derive(Debug)]
pub struct Facts {
    /// Such as `6.1.0-28-amd64`.
    pub kernel_release: Result<String, FactError>,
    /// The bits of `CapEff`.
    pub effective_capabilities: Result<u64, FactError>,
    /// Whether user ids are those of the machine, as in the first user namespace only.
    pub is_initial_user_namespace: Result<bool, FactError>,
    pub mounts: Result<Vec<Mount>, FactError>,
    /// The mount points where the whole cgroup v2 hierarchy is, not a part of it.
    pub cgroup_roots: Vec<PathBuf>,
    pub has_kernel_btf: Result<bool, FactError>,
    /// `None` when the kernel has no such setting.
    pub unprivileged_bpf_disabled: Result<Option<u32>, FactError>,
}

impl Facts {
    /// `root` is `/`, or a directory that a test has laid out like it.
    pub fn read(root: &Path) -> Self {
        let mounts = read_text(root, MOUNTINFO).map(|text| mountinfo::parse(&text));
        Self {
            kernel_release: read_text(root, KERNEL_RELEASE).map(|text| text.trim().to_owned()),
            effective_capabilities: read_form(root, STATUS, parse_effective_capabilities),
            is_initial_user_namespace: read_text(root, UID_MAP).map(|text| is_initial_uid_map(&text)),
            cgroup_roots: mounts.as_deref().map(|mounts| cgroup_roots(root, mounts)).unwrap_or_default(),
            mounts,
            has_kernel_btf: exists(root.join(KERNEL_BTF)),
            unprivileged_bpf_disabled: read_unprivileged_bpf(root),
        }
    }
}

/// Names that are not UTF-8 lose the odd bytes: they can only be of mounts that are none of ours.
fn read_text(root: &Path, path: &str) -> Result<String, FactError> {
    let path = root.join(path);
    match fs::read(&path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(source) => Err(FactError::Read { path, source }),
    }
}

fn read_form<T>(root: &Path, path: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, FactError> {
    let text = read_text(root, path)?;
    // As much as an error message bears.
    parse(&text).ok_or_else(|| FactError::Form { path: root.join(path), found: text.chars().take(80).collect() })
}

fn exists(path: PathBuf) -> Result<bool, FactError> {
    path.try_exists().map_err(|source| FactError::Read { path, source })
}

fn read_unprivileged_bpf(root: &Path) -> Result<Option<u32>, FactError> {
    match read_form(root, UNPRIVILEGED_BPF, |text| text.trim().parse().ok()) {
        Ok(value) => Ok(Some(value)),
        Err(FactError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_effective_capabilities(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

/// The first user namespace maps every id to itself, in one range.
fn is_initial_uid_map(text: &str) -> bool {
    text.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Every cgroup but the root of the whole hierarchy has `cgroup.type`. What mountinfo says of a mount's root does not
/// tell: it is relative to the reader's cgroup namespace.
fn cgroup_roots(root: &Path, mounts: &[Mount]) -> Vec<PathBuf> {
    let is_whole = |mount: &&Mount| {
        let directory = root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
        let has = |file: &str| directory.join(file).try_exists().unwrap_or(false);
        has("cgroup.controllers") && !has("cgroup.type")
    };
    mounts.iter().filter(|mount| mount.is_cgroup2()).filter(is_whole).map(|mount| mount.point.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_capabilities_are_hexadecimal() {
        let check = |status: &str, expected: Option<u64>| {
            assert_eq!(parse_effective_capabilities(status), expected, "{status:?}");
        };
        let status = "Name:\tcat\nCapInh:\t0000000000000001\nCapEff:\t000001fffeffffff\nCapBnd:\t0000000000000002\n";
        check(status, Some(0x01FF_FEFF_FFFF));
        check("CapEff:\t0000000000000000\n", Some(0));
        check("CapPrm:\t0000000000000001\n", None);
        check("CapEff:\tnone\n", None);
        check("", None);
    }

    #[test]
    fn only_the_whole_identity_map_is_the_initial_namespace() {
        let check = |text: &str, expected: bool| assert_eq!(is_initial_uid_map(text), expected, "{text:?}");
        check("         0          0 4294967295\n", true);
        check("         0     100000      65536\n", false);
        check("         0       1000          1\n         1     100000      65536\n", false);
        check("         0          0      65536\n", false);
        check("", false);
    }
}
