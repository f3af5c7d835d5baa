//! `cargo xtask`: how this project tests, checks and measures itself. One file per command; nothing here ships.
#![expect(clippy::disallowed_methods, reason = "a developer's tool: it reads its environment and the clock itself")]

mod bench;
mod ci;
mod cluster;
mod ebpf;
mod image;
mod packages;
mod process;
mod sim;
mod steps;
mod terminal;
mod test;
mod tidy;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tests, checks and measures SlimFaas", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything that this machine can run, and say at the end what was skipped and why
    Test(test::Options),
    /// Check the rules that no compiler holds: direction of imports, shape of files, true documents
    Tidy,
    /// Install what is missing, then run `test` with nothing allowed to be skipped
    Ci,
    /// Torment simulated clusters of the real store and queue, one for each seed, and check what must hold
    Sim(sim::Options),
    /// Measure the gateway against its rivals on this machine
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Fetch what the black-box tests run: h2spec, Autobahn, and what makes and judges crashes
    Tools,
    /// The kernel programs that the node agent loads; says what this machine's kernel thinks of them
    BuildEbpf(ebpf::Options),
    /// A real Kubernetes cluster on this machine, for tests and trials; needs root
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Images of the gateway, the agent and the example function, made without Docker
    Image(image::Options),
    /// A closed-loop client; benchmarks run it as a process of its own
    #[command(hide = true)]
    BenchLoad(bench::load::Options),
    /// A fixed-answer HTTP/1.1 server; benchmarks run it as a process of its own
    #[command(hide = true)]
    BenchBackend,
    /// Become another program that ends when this one's parent does
    #[command(hide = true)]
    Bound(process::Bound),
    /// Become a process of the cluster, which outlives this one's parent
    #[command(hide = true)]
    ClusterProcess(cluster::processes::Detached),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            terminal::failure(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs one command. `Ok(false)`: it did its work, and the result, already shown, is bad.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Test(options) => test::run(&options),
        Command::Tidy => test::tidy_alone(),
        Command::Ci => ci::run(),
        Command::Sim(options) => sim::run(&options),
        Command::Bench(bench) => bench::run(bench).map(|()| true),
        Command::Tools => tools::install_all().map(|()| true),
        Command::BenchLoad(options) => bench::load::run(&options).map(|()| true),
        Command::BenchBackend => bench::backend::run().map(|()| true),
        Command::BuildEbpf(options) => ebpf::run(&options).map(|()| true),
        Command::Cluster(command) => cluster::run(command),
        Command::Image(options) => image::run(&options).map(|()| true),
        Command::ClusterProcess(process) => Err(process.exec()),
        Command::Bound(bound) => Err(bound.exec()),
    }
}

/// The root of the repository that this tool was built from.
fn repository() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("xtask is a folder of the repository").to_owned()
}
