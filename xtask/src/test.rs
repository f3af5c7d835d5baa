//! `cargo xtask test`: the README's test command. Everything that this machine can run, cheapest first.
//!
//! A suite is one file of `tests/tests`, named for what it needs (`loopback`, `compat`, `protocol`, `kernel`, `e2e`); a new file
//! is picked up by itself. A test that cannot run here says so in a line `SKIP <suite>/<name>: <reason>`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::cluster::TestCluster;
use crate::ebpf::Variant;
use crate::steps::{Steps, Tally, cargo_test, check};
use crate::terminal::{coloured, line};
use crate::{ebpf, process, repository, sim, tidy, tools};

/// Suites that must not skip: `all`, or their names with commas between. `slimfaas_tests::require` reads it too.
pub(crate) const REQUIRE: &str = "SLIMFAAS_REQUIRE";
/// The gateway that black-box suites start.
pub(crate) const BINARY: &str = "SLIMFAAS_BIN";
/// The suite that runs on Kubernetes.
const E2E: &str = "e2e";
/// The suite that loads kernel programs.
const KERNEL: &str = "kernel";
/// Tells that suite why there are none.
const NO_PROGRAMS: &str = "SLIMFAAS_NO_PROGRAMS";
/// Tells that suite why there is no cluster.
const NO_CLUSTER: &str = "SLIMFAAS_NO_CLUSTER";
/// Tells that suite why its nodes do not have the agent's image.
const NO_AGENT: &str = "SLIMFAAS_NO_AGENT";
/// Tells that suite which control group holds all processes of the cluster, where the cluster is on this machine.
const CLUSTER_CGROUP: &str = "SLIMFAAS_CLUSTER_CGROUP";

#[derive(Args)]
pub(crate) struct Options {
    /// Run only the black-box suites with these names (`loopback`, `protocol`, …), and none of the checks
    suites: Vec<String>,
}

/// Returns whether everything passed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let root = repository();
    let suites = suites(&root, &options.suites)?;
    let mut steps = Steps::default();
    if options.suites.is_empty() {
        checks(&root, &mut steps);
    }
    let mut binary = None;
    // The kernel suite brings its own processes.
    let needs_gateway = suites.iter().any(|suite| suite != KERNEL);
    if needs_gateway {
        steps.run("build the gateway", || {
            binary = Some(gateway_binary(&root)?);
            Ok(Tally::default())
        });
    }
    for suite in &suites {
        let tests = ["test", "--package", "slimfaas-tests", "--test", suite];
        let mut command = cargo(&root, &tests);
        if suite == KERNEL {
            steps.run(suite, || with_programs(&mut command));
        } else if let Some(binary) = &binary {
            command.env(BINARY, binary).env(tools::FOLDER, tools::folder()?);
            match suite.as_str() {
                E2E => steps.run(suite, || on_a_cluster(&mut command)),
                _ => steps.run(suite, || cargo_test(&mut command)),
            }
        }
    }
    Ok(steps.summarize())
}

/// Runs a suite with a cluster, if this machine can make one: else the suite says itself that it cannot run.
fn on_a_cluster(command: &mut Command) -> Result<Tally> {
    if let Some(reason) = TestCluster::reason_against() {
        return cargo_test(command.env(NO_CLUSTER, reason));
    }
    // From here on Ctrl-C must take down what it finds.
    process::catch_interrupts()?;
    let cluster = TestCluster::obtain()?;
    command.env("KUBECONFIG", &cluster.kubeconfig);
    command.env("SLIMFAAS_KUBECTL", &cluster.kubectl).env("SLIMFAAS_HELM", &cluster.helm);
    if let Some(id) = cluster.api_server {
        command.env("SLIMFAAS_APISERVER_PID", id.to_string());
    }
    if let Some(log) = &cluster.audit_log {
        command.env("SLIMFAAS_AUDIT_LOG", log);
    }
    if let Some(cgroup) = &cluster.cgroup {
        command.env(CLUSTER_CGROUP, cgroup);
    }
    if let Some(reason) = &cluster.no_agent {
        command.env(NO_AGENT, reason);
    }
    cargo_test(command)
}

/// Runs a suite with the kernel programs, where they can be built and the suite can use them: else it says itself that
/// it cannot run.
fn with_programs(command: &mut Command) -> Result<Tally> {
    if !rustix::process::geteuid().is_root() {
        return cargo_test(command.env(NO_PROGRAMS, "needs root"));
    }
    let objects = ebpf::build(Variant::Logging).and_then(|logging| Ok((ebpf::build(Variant::Silent)?, logging)));
    match objects {
        Ok((object, logging)) => {
            cargo_test(command.env(ebpf::OBJECT_VARIABLE, object).env(ebpf::LOGGING_OBJECT_VARIABLE, logging))
        }
        Err(error) => cargo_test(command.env(NO_PROGRAMS, format!("{error:#}"))),
    }
}

/// Everything that needs no running gateway.
fn checks(root: &Path, steps: &mut Steps) {
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    // The black-box package has helpers of its own to test; its suites are steps of their own, and so is the simulation.
    let units = ["test", "--workspace", "--exclude", "slimfaas-tests", "--exclude", "slimfaas-sim"];
    let helpers = ["test", "--package", "slimfaas-tests", "--lib"];
    steps.run("format", || check(&mut cargo(root, &["fmt", "--all", "--check"])));
    steps.run("tidy", || tidy_step(root));
    steps.run("clippy", || check(&mut cargo(root, &clippy)));
    steps.run("unit and property tests", || cargo_test(&mut cargo(root, &units)));
    steps.run("test helpers", || cargo_test(&mut cargo(root, &helpers)));
    steps.run("simulation", || sim::step(root));
    let mut docs = cargo(root, &["doc", "--workspace", "--no-deps", "--document-private-items"]);
    steps.run("documentation", || check(docs.env("RUSTDOCFLAGS", "--deny warnings")));
    steps.run("dependencies", || dependencies(root));
}

/// `cargo xtask tidy` by itself.
pub(crate) fn tidy_alone() -> Result<bool> {
    let tally = tidy_step(&repository())?;
    if tally.failed == 0 {
        line("tidy: nothing to say");
    }
    Ok(tally.failed == 0)
}

fn tidy_step(root: &Path) -> Result<Tally> {
    let findings = tidy::check(root)?;
    findings.iter().for_each(|finding| line(&finding.to_string()));
    Ok(Tally::single(findings.is_empty()))
}

/// Licences, banned and duplicate crates, and sources. Advisories need a network and are not part of a test.
fn dependencies(root: &Path) -> Result<Tally> {
    let installed = cargo(root, &["deny", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        let reason = "dependencies/deny: cargo-deny is missing: cargo install --locked cargo-deny";
        ensure!(!is_required("dependencies"), "{reason}");
        return Ok(Tally::skipped(reason.to_owned()));
    }
    check(&mut cargo(root, &["deny", "--all-features", "check", "bans", "licenses", "sources"]))
}

fn is_required(suite: &str) -> bool {
    std::env::var(REQUIRE).is_ok_and(|list| list.split(',').any(|name| name.trim() == suite || name.trim() == "all"))
}

/// The suites there are, or those of them that were asked for.
fn suites(root: &Path, wanted: &[String]) -> Result<Vec<String>> {
    let folder = root.join("tests/tests");
    let mut names = Vec::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
            }
        }
    }
    names.sort_by_key(|name| (order(name), name.clone()));
    for name in wanted {
        ensure!(names.contains(name), "no suite {name}: there is {}", names.join(", "));
    }
    names.retain(|name| wanted.is_empty() || wanted.contains(name));
    Ok(names)
}

/// What needs least runs first.
fn order(suite: &str) -> usize {
    let known = ["loopback", "compat", "protocol", "crash", KERNEL, E2E];
    known.iter().position(|name| *name == suite).unwrap_or(known.len())
}

/// The released gateway: the one that the environment names, or one built now.
pub(crate) fn gateway_binary(root: &Path) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(BINARY).filter(|value| !value.is_empty()) {
        let path = std::path::absolute(&named)?;
        ensure!(path.is_file(), "{BINARY} names {}, which is no file", path.display());
        return Ok(path);
    }
    release_binary(root, "slimfaas")
}

/// The released agent: the one beside the gateway that the environment names, if there is one, or one built now.
pub(crate) fn agent_binary(root: &Path) -> Result<PathBuf> {
    const NAME: &str = "slimfaas-agent";
    let named = std::env::var_os(BINARY).filter(|value| !value.is_empty());
    let beside = named.map(|gateway| Path::new(&gateway).with_file_name(NAME)).filter(|path| path.is_file());
    beside.map_or_else(|| release_binary(root, NAME), |path| Ok(std::path::absolute(path)?))
}

/// One of the gateway's programs as it is released, built now.
pub(crate) fn release_binary(root: &Path, name: &str) -> Result<PathBuf> {
    let build = ["build", "--release", "--package", "slimfaas-gateway", "--bin", name];
    let status = cargo(root, &build).status().context("cannot run cargo")?;
    ensure!(status.success(), "{name} does not build");
    Ok(target_folder(root).join("release").join(name))
}

/// Where cargo puts what it builds.
pub(crate) fn target_folder(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// Cargo, the one that runs us, in the repository's root.
pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root).stdin(Stdio::null());
    if coloured() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command
}
