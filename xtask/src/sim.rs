//! `cargo xtask sim`: simulated clusters of the production store and queue, one for each seed.
//!
//! They are built apart from everything else: with optimisations, for thousands of seeds, and with tokio's `select!`
//! seeded, which needs a flag for the whole build.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::repository;
use crate::steps::{Tally, cargo_test, check};
use crate::test::cargo;

const PACKAGE: [&str; 4] = ["--profile", "sim", "--package", "slimfaas-sim"];

#[derive(Args)]
pub(crate) struct Options {
    /// `--seeds N`, `--seed S` (to reproduce a failure), `--steps MS`, `--faults …`, `--show`; `--help` tells all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Returns whether every invariant held.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let status = runner(&repository()).args(&options.arguments).status().context("cannot run cargo")?;
    Ok(status.success())
}

/// As a step of `test`: what finds bugs is tested, and then has to find none.
pub(crate) fn step(root: &Path) -> Result<Tally> {
    let mut tally = cargo_test(&mut built(root, "test"))?;
    if tally.failed == 0 {
        // As many as the runner thinks right.
        let seeds = check(&mut runner(root))?;
        tally.passed += seeds.passed;
        tally.failed += seeds.failed;
    }
    Ok(tally)
}

fn runner(root: &Path) -> Command {
    let mut command = built(root, "run");
    command.args(["--quiet", "--"]);
    command
}

fn built(root: &Path, verb: &str) -> Command {
    let mut command = cargo(root, &[verb]);
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    command.args(PACKAGE).env("RUSTFLAGS", format!("{flags} --cfg tokio_unstable"));
    command
}
