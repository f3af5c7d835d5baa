//! The gateway's command line: arguments, runtimes, exit codes.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use slimfaas_gateway::cluster::local::child;
use slimfaas_gateway::{example, signal};

/// Something failed that is not the caller's mistake.
const EXIT_FAILURE: u8 = 1;
/// What shells answer for a program that cannot be started.
const EXIT_NOT_STARTED: u8 = 127;

/// A sidecar-free gateway for functions.
#[derive(Parser)]
#[command(name = "slimfaas", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the example function.
    ExampleFunction {
        /// Where to listen.
        #[arg(long, env = "PORT", default_value_t = 8080)]
        port: u16,
        /// What it calls itself in its answers.
        #[arg(long, env = "FUNCTION_NAME", default_value = "example")]
        name: String,
        /// The replica's number, part of what it calls itself.
        #[arg(long, env = "SLIMFAAS_REPLICA_INDEX", default_value_t = 0)]
        replica: u32,
    },
    /// Become the process of a replica; `local up` uses it.
    #[command(name = child::SUBCOMMAND, hide = true)]
    LocalChild {
        /// Ends with the process of this number.
        parent: u32,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::ExampleFunction { port, name, replica } => {
            exit(run_example(port, &format!("{name}-{replica}")), EXIT_FAILURE)
        }
        Command::LocalChild { parent, command } => exit(Err(child::become_command(parent, &command)), EXIT_NOT_STARTED),
    }
}

fn exit(result: io::Result<()>, code: u8) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when this fails too.
            writeln!(io::stderr(), "slimfaas: {error}").ok();
            ExitCode::from(code)
        }
    }
}

fn run_example(port: u16, name: &str) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut termination = signal::Termination::listen()?;
        example::run(port, name, async {
            termination.wait().await;
        })
        .await
    })
}
