//! `cargo xtask ci`: what a fresh machine needs, then every test, with nothing allowed to be skipped.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::terminal::progress;
use crate::{ebpf, repository, test, tools};

/// The release whose configuration format `deny.toml` is written in.
const CARGO_DENY: &str = "0.20.2";

/// Returns whether everything passed.
pub(crate) fn run() -> Result<bool> {
    let root = repository();
    tools::install_all()?;
    install_cargo_deny()?;
    ebpf::install_toolchain()?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    // A process of its own, so that the requirement reaches every suite through the environment.
    let mut command = Command::new(program);
    command.arg("test").current_dir(root);
    if std::env::var_os(test::REQUIRE).is_none() {
        command.env(test::REQUIRE, "all");
    }
    Ok(command.status().context("cannot run the tests")?.success())
}

fn install_cargo_deny() -> Result<()> {
    let root = repository();
    let version = test::cargo(&root, &["deny", "--version"]).output().context("cannot run cargo")?;
    if String::from_utf8_lossy(&version.stdout).trim() == format!("cargo-deny {CARGO_DENY}") {
        return Ok(());
    }
    progress(&format!("installing cargo-deny {CARGO_DENY}: some minutes"));
    let install = ["install", "--locked", "--quiet", "--version", CARGO_DENY, "cargo-deny"];
    let status = test::cargo(&root, &install).status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo-deny cannot be installed");
    Ok(())
}
