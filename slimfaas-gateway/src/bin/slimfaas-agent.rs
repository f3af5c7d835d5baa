//! The node agent's command line: arguments, output, exit codes.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use slimfaas_gateway::agent::capabilities::{Report, check_this_machine};
use slimfaas_gateway::agent::kernel::{Kernel, LoadOptions};
use slimfaas_gateway::agent::pins::Pins;
use slimfaas_gateway::agent::{self, Place, RunOptions, read_object};
use slimfaas_gateway::config::{Log, LogFormat};
use slimfaas_gateway::signal::Termination;
use slimfaas_gateway::telemetry::log;

/// Identity cannot run on this node, or what was asked for failed.
const EXIT_LACKING: u8 = 1;
/// `EX_USAGE`.
const EXIT_USAGE: u8 = 64;
/// `EX_IOERR`.
const EXIT_OUTPUT: u8 = 74;

/// The node agent of SlimFaas: tags connections and guards private functions in the kernel.
#[derive(Parser)]
#[command(
    name = "slimfaas-agent",
    version,
    after_help = "\
Exit status: 0 done, 1 something is missing or was refused, 64 wrong arguments, 74 the output could not be written."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tag the connections of this node's pods and guard its private functions, until asked to end.
    ///
    /// What was told to the kernel stays in force after the end, where a bpffs is mounted.
    Run(Box<Run>),
    /// Report whether in-kernel identity can run on this node, what is missing, and what to do about it.
    ///
    /// Reads /proc and /sys only; changes nothing.
    Check {
        /// Print the report as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Load the kernel programs, say what the verifier thinks of each, and unload them.
    ///
    /// Attaches nothing. Needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.
    Verify {
        /// The object of kernel programs; otherwise the one beside this program
        programs: Option<PathBuf>,
    },
    /// Take the programs and maps that agents have left on this node out of the kernel: nothing is tagged or guarded
    /// after it.
    ///
    /// An agent that runs must be stopped first.
    Detach {
        /// The directory of a bpffs that the agent pins in; otherwise found as the agent finds it
        #[arg(long)]
        pins: Option<PathBuf>,
    },
}

#[derive(Args)]
struct Run {
    /// The object of kernel programs; otherwise the one beside this program
    #[arg(long, env = "SLIMFAAS_PROGRAMS")]
    programs: Option<PathBuf>,
    /// This node's name in Kubernetes
    #[arg(long, env = "SLIMFAAS_NODE_NAME")]
    node: String,
    /// This agent's name to the gateways: its pod's
    #[arg(long, env = "HOSTNAME", default_value = "slimfaas-agent")]
    name: String,
    /// The folder of the Secret's files: salt, current, and next and previous in a rotation
    #[arg(long, env = "SLIMFAAS_IDENTITY_SECRETS", default_value = "/etc/slimfaas/identity")]
    secrets: PathBuf,
    /// The file with the key of the gateways' peer port
    #[arg(long, env = "SLIMFAAS_PEER_KEY_FILE", default_value = "/etc/slimfaas/peer/key")]
    peer_key: PathBuf,
    /// Host and port of the gateways' peer port
    #[arg(long, env = "SLIMFAAS_GATEWAYS", default_value = "slimfaas-peers:3262")]
    gateways: String,
    /// Where /health, /ready and /metrics are
    #[arg(long, env = "SLIMFAAS_AGENT_LISTEN", default_value = "0.0.0.0:3263")]
    listen: SocketAddr,
    /// The cgroup to attach to; otherwise the root of the hierarchy
    #[arg(long, env = "SLIMFAAS_CGROUP")]
    cgroup: Option<PathBuf>,
    /// The folder of a bpffs to pin in; otherwise one in the first that is found
    #[arg(long, env = "SLIMFAAS_PINS")]
    pins: Option<PathBuf>,
    /// What to log, as `info` or `info,kube=debug`
    #[arg(long, env = "SLIMFAAS_LOG", default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return say_usage(&error),
    };
    let result = match arguments.command {
        Command::Check { json } => return check(json),
        Command::Run(options) => run(*options),
        Command::Verify { programs } => verify(programs.as_deref()),
        Command::Detach { pins } => detach(pins.as_deref()),
    };
    match result {
        Ok(said) => match write!(io::stdout(), "{said}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(EXIT_OUTPUT),
        },
        Err(error) => match writeln!(io::stderr(), "slimfaas-agent: {error:#}") {
            Ok(()) => ExitCode::from(EXIT_LACKING),
            Err(_) => ExitCode::from(EXIT_OUTPUT),
        },
    }
}

fn say_usage(error: &clap::Error) -> ExitCode {
    let wanted = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    match error.print() {
        Err(_) => ExitCode::from(EXIT_OUTPUT),
        Ok(()) if wanted => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(EXIT_USAGE),
    }
}

fn run(options: Run) -> anyhow::Result<String> {
    log::start(&Log { filter: options.log, format: LogFormat::Json, no_color: true })?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let options = RunOptions {
        programs: options.programs,
        node: options.node,
        name: options.name,
        secrets: options.secrets,
        peer_key: options.peer_key,
        gateways: options.gateways,
        listen: options.listen,
        cgroup: options.cgroup,
        pins: options.pins,
    };
    runtime.block_on(async {
        let termination = Termination::listen().context("cannot listen for signals")?;
        agent::run(options, termination).await.map_err(anyhow::Error::from)
    })?;
    Ok(String::new())
}

fn check(json: bool) -> ExitCode {
    let report = check_this_machine();
    match write_report(&report, json) {
        Err(_) => ExitCode::from(EXIT_OUTPUT),
        Ok(()) if report.identity_can_run => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(EXIT_LACKING),
    }
}

fn write_report(report: &Report, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    out.flush()
}

fn verify(programs: Option<&Path>) -> anyhow::Result<String> {
    let object = read_object(programs)?;
    // What is missing is said in better words than the kernel's.
    Place::find()?;
    let kernel = Kernel::load(LoadOptions { object: &object, pins: None })?;
    let mut said = String::from("program          instructions  gone through by the verifier\n");
    for program in kernel.programs()? {
        let verified = program.verified_instructions.map_or_else(|| "not told".to_owned(), |count| count.to_string());
        said += &format!("{:<16} {:>12}  {verified:>28}\n", program.name, program.instructions);
    }
    Ok(said)
}

fn detach(pins: Option<&Path>) -> anyhow::Result<String> {
    let pins = match pins {
        Some(pins) => Pins::new(pins),
        None => match Place::find()?.pins {
            Some(pins) => pins,
            None => return Ok("no bpffs is mounted: nothing can have been left behind\n".to_owned()),
        },
    };
    let removed = pins.detach()?;
    Ok(format!("removed {removed} pinned programs and maps\n"))
}
