//! Where `cargo xtask tools` has put the public conformance suites.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Overrides where the tools are kept.
const FOLDER: &str = "SLIMFAAS_TOOLS";
/// The gateway to test.
const BINARY: &str = "SLIMFAAS_BIN";

/// The executable of the suite `name` (`h2spec`; `wstest`, and its function `wsecho`).
///
/// # Errors
/// When it is not installed; the message says how to.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = folder().map(|folder| folder.join("bin").join(name)).filter(|path| path.is_file());
    path.with_context(|| format!("{name} is not installed: run cargo xtask tools"))
}

/// Older kernels to boot.
///
/// # Errors
/// When there is none; the message says how to get some.
pub fn kernels() -> Result<Vec<PathBuf>> {
    let folder = folder().context("set HOME")?.join("kernels");
    let listed = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut kernels: Vec<PathBuf> = listed.collect();
    kernels.sort();
    ensure!(!kernels.is_empty(), "no kernel is in {}: cargo xtask ci gets some of Debian's", folder.display());
    Ok(kernels)
}

fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    set(FOLDER).or_else(|| Some(cache()?.join("slimfaas-tools")))
}

/// The node agent's binary, as cargo builds it now.
///
/// # Errors
/// When it does not build.
pub fn agent_binary() -> Result<PathBuf> {
    built("slimfaas-agent")
}

/// The gateway's binary: what `SLIMFAAS_BIN` names, which `cargo xtask test` sets, or what cargo builds now.
///
/// # Errors
/// When there is none, or it does not build.
pub fn gateway_binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(BINARY).filter(|value| !value.is_empty()) {
        let path = PathBuf::from(named);
        ensure!(path.is_file(), "{BINARY} names {}, which is no file", path.display());
        return Ok(path);
    }
    built("slimfaas")
}

fn built(name: &str) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the package has no repository")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = std::process::Command::new(cargo);
    build.args(["build", "--package", "slimfaas-gateway", "--bin", name]).current_dir(root);
    ensure!(build.status().context("cannot run cargo")?.success(), "{name} does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
    Ok(target.join("debug").join(name))
}
