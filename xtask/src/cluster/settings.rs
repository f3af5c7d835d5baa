//! Kernel settings that the cluster changes on this machine: read before, put back after.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What we set. The second is absent where bridges are not filtered, and then not needed.
const OURS: &[(&str, &str)] = &[("net.ipv4.ip_forward", "1"), ("net.bridge.bridge-nf-call-iptables", "1")];

/// What the kubelet sets by itself, without asking.
const KUBELETS: &[&str] = &[
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
];

fn file(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// The values of now, of all that will be changed.
pub(crate) fn read() -> BTreeMap<String, String> {
    let names = OURS.iter().map(|(name, _)| *name).chain(KUBELETS.iter().copied());
    let value = |name: &str| Some((name.to_owned(), fs::read_to_string(file(name)).ok()?.trim().to_owned()));
    names.filter_map(value).collect()
}

pub(crate) fn apply() -> Result<()> {
    let present = OURS.iter().filter(|(name, _)| file(name).is_file());
    write(present.copied())
}

/// Puts `former` back.
pub(crate) fn restore(former: &BTreeMap<String, String>) -> Result<()> {
    write(former.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

fn write<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> Result<()> {
    for (name, value) in settings {
        let is_so = fs::read_to_string(file(name)).is_ok_and(|now| now.trim() == value);
        if !is_so {
            fs::write(file(name), value).with_context(|| format!("cannot set {name} to {value}"))?;
        }
    }
    Ok(())
}
