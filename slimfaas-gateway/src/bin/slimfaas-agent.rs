//! The node agent's command line: arguments, output, exit codes.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use slimfaas_gateway::agent::capabilities::{Report, check_this_machine};

/// Identity cannot run on this node.
const EXIT_LACKING: u8 = 1;
/// `EX_USAGE`.
const EXIT_USAGE: u8 = 64;
/// `EX_UNAVAILABLE`.
const EXIT_UNAVAILABLE: u8 = 69;
/// `EX_IOERR`.
const EXIT_OUTPUT: u8 = 74;

const ENFORCES_NOTHING: &str = "\
slimfaas-agent: this version only reports what the node allows. It loads no program and enforces nothing:
private functions are guarded by the gateway alone. `slimfaas-agent check` exits by what the report says.";

/// The node agent of SlimFaas.
///
/// It is to tag connections and to guard private functions in the kernel. This version only reports what the node's
/// kernel and this process's rights allow: without a command it prints the report and exits with 69, since it
/// enforces nothing.
#[derive(Parser)]
#[command(
    name = "slimfaas-agent",
    version,
    after_help = "\
Exit status: 0 identity can run (check), 1 something is missing (check), 64 wrong arguments, \
69 nothing is enforced (no command), 74 the report could not be written."
)]
struct Arguments {
    /// Print the report as JSON.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Report whether in-kernel identity can run on this node, what is missing, and what to do about it.
    ///
    /// Reads /proc and /sys only; changes nothing.
    Check,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return say_usage(&error),
    };
    let report = check_this_machine();
    if write_report(&report, arguments.json).is_err() {
        return ExitCode::from(EXIT_OUTPUT);
    }
    match arguments.command {
        Some(Command::Check) if report.identity_can_run => ExitCode::SUCCESS,
        Some(Command::Check) => ExitCode::from(EXIT_LACKING),
        None => say_unavailable(),
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

fn say_unavailable() -> ExitCode {
    match writeln!(io::stderr(), "{ENFORCES_NOTHING}") {
        Ok(()) => ExitCode::from(EXIT_UNAVAILABLE),
        Err(_) => ExitCode::from(EXIT_OUTPUT),
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
