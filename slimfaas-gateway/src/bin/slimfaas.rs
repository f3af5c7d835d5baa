//! The gateway's command line: arguments, runtimes, exit codes.

#[path = "slimfaas/publish.rs"]
mod publish;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use publish::Publish;
use slimfaas_gateway::app::{App, source};
use slimfaas_gateway::cluster::local::child;
use slimfaas_gateway::cluster::local::manifest::{self, Manifest};
use slimfaas_gateway::config::env::{self, Loaded};
use slimfaas_gateway::config::{ClusterSource, Config};
use slimfaas_gateway::model::problem::Problem;
use slimfaas_gateway::{example, signal, telemetry};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Something failed that is not the caller's mistake.
const EXIT_FAILURE: u8 = 1;
/// The manifest of the local mode cannot be used (the original's number).
const EXIT_MANIFEST: u8 = 2;
/// The environment cannot be used: EX_USAGE of sysexits.
const EXIT_CONFIG: u8 = 64;
/// What shells answer for a program that cannot be started.
const EXIT_NOT_STARTED: u8 = 127;

/// A sidecar-free gateway for functions: scales them from zero on an HTTP call and back.
///
/// Try it: `slimfaas local up` in a folder with a slimfaas.local.yaml, then
/// `curl localhost:30021/function/NAME/`.
#[derive(Parser)]
#[command(name = "slimfaas", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the functions of a cluster; options are environment variables (docs/configuration.md).
    Gateway,
    /// Serve functions that run as processes of this machine.
    #[command(subcommand)]
    Local(Local),
    /// Publish a CloudEvent to a gateway, and show what became of it at each subscriber.
    ///
    /// Ends with 0 if every subscriber got it, and with 1 otherwise. Try it:
    /// `slimfaas publish com.example.report.due --source /nightly --data '{"day":"monday"}'`
    Publish(Box<Publish>),
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
        /// Milliseconds until it listens, as of a program that has much to load.
        #[arg(long, env = "START_DELAY_MS", default_value_t = 0)]
        start_delay_ms: u64,
    },
    /// Do the work of the example job: say words, one after the other, and end.
    ExampleJob {
        words: Vec<String>,
        /// Milliseconds after each word.
        #[arg(long, env = "PAUSE_MS", default_value_t = 0)]
        pause_ms: u64,
        /// How it ends.
        #[arg(long, env = "EXIT_CODE", default_value_t = 0)]
        exit_code: u8,
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

#[derive(Subcommand)]
enum Local {
    /// Start the gateway and serve what the manifest names; Ctrl-C ends both.
    Up {
        #[command(flatten)]
        files: Files,
        /// Forget what earlier runs left in the state directory.
        #[arg(long)]
        clean: bool,
        /// Where to listen; 0.0.0.0 lets other machines call.
        #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
        listen: IpAddr,
    },
    /// Check the manifest and say everything that is wrong with it.
    Validate {
        #[command(flatten)]
        files: Files,
    },
}

#[derive(Args)]
struct Files {
    /// The manifest; a later one is laid over those before it.
    #[arg(short, long = "file", default_value = manifest::DEFAULT_FILE)]
    file: Vec<PathBuf>,
    /// A file of NAME=value lines that the manifest may refer to as ${NAME}.
    #[arg(long = "env-file")]
    env_file: Vec<PathBuf>,
}

/// What ends the program early, with its exit code.
struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { code: EXIT_FAILURE, error }
    }
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Gateway => gateway(),
        Command::Local(Local::Up { files, clean, listen }) => local_up(&files, clean, listen),
        Command::Local(Local::Validate { files }) => local_validate(&files),
        Command::Publish(event) => control_runtime().and_then(|runtime| publish::run(&runtime, *event)),
        Command::ExampleFunction { port, name, replica, start_delay_ms } => {
            run_example(port, &format!("{name}-{replica}"), Duration::from_millis(start_delay_ms))
        }
        Command::ExampleJob { words, pause_ms, exit_code } => {
            run_example_job(&words, Duration::from_millis(pause_ms), exit_code)
        }
        Command::LocalChild { parent, command } => {
            Err(Failure { code: EXIT_NOT_STARTED, error: child::become_command(parent, &command).into() })
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, error }) => {
            // Nobody is left to tell when this fails too.
            writeln!(io::stderr(), "slimfaas: {error:#}").ok();
            ExitCode::from(code)
        }
    }
}

/// The environment's configuration, with logging started.
fn configure() -> Result<Loaded, Failure> {
    env::from_process().map_err(invalid)
}

fn invalid(invalid: env::Invalid) -> Failure {
    Failure { code: EXIT_CONFIG, error: invalid.into() }
}

fn start_log(config: &Config, warnings: &[Problem]) -> Result<(), Failure> {
    telemetry::log::start(&config.log).map_err(anyhow::Error::from)?;
    warn(warnings);
    Ok(())
}

fn warn(problems: &[Problem]) {
    for problem in problems {
        tracing::warn!(key = problem.key, "{}", problem.message);
    }
}

fn gateway() -> Result<(), Failure> {
    let Loaded { config, warnings } = configure()?;
    start_log(&config, &warnings)?;
    let runtime = control_runtime()?;
    let source = match &config.cluster {
        ClusterSource::Fixed(text) => {
            let (source, warnings) = source::fixed(text, &config).map_err(|problems| Failure {
                code: EXIT_CONFIG,
                error: listed("the functions cannot be used", &problems),
            })?;
            warn(&warnings);
            source
        }
        ClusterSource::Local => {
            return Err(Failure { code: EXIT_CONFIG, error: anyhow::anyhow!("start it with `slimfaas local up`") });
        }
        ClusterSource::Kubernetes => runtime
            .block_on(source::kubernetes(&config))
            .map_err(|error| Failure { code: EXIT_CONFIG, error: error.into() })?,
    };
    serve(&runtime, vec![(config, source)])
}

fn load_manifest(files: &Files) -> Result<(Manifest, Vec<Problem>), Failure> {
    manifest::load(&files.file, &files.env_file, &env::process_variables())
        .map_err(|problems| Failure { code: EXIT_MANIFEST, error: listed("the manifest cannot be used", &problems) })
}

fn listed(what: &str, problems: &[Problem]) -> anyhow::Error {
    let lines: String = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    anyhow::anyhow!("{what}{lines}")
}

fn local_up(files: &Files, clean: bool, listen: IpAddr) -> Result<(), Failure> {
    let (manifest, manifest_warnings) = load_manifest(files)?;
    let Loaded { mut config, warnings } = env::from_process_for_local().map_err(invalid)?;
    config.listen.address = listen;
    if let Some(level) = manifest.log_level {
        config.log.filter = level.as_filter().to_owned();
    }
    start_log(&config, &warnings)?;
    warn(&manifest_warnings);
    let nodes = source::local(manifest, clean, &config).map_err(anyhow::Error::from)?;
    serve(&control_runtime()?, nodes)
}

fn local_validate(files: &Files) -> Result<(), Failure> {
    let (manifest, warnings) = load_manifest(files)?;
    let mut out = io::stdout();
    for warning in &warnings {
        writeln!(out, "warning: {warning}").context("cannot write")?;
    }
    let (functions, processes) = (manifest.functions.len(), manifest.processes.len());
    writeln!(out, "{}: ok, {functions} functions, {processes} processes", manifest.name).context("cannot write")?;
    Ok(())
}

/// Runs gateway nodes; there is more than one only in the local mode.
fn serve(runtime: &tokio::runtime::Runtime, nodes: Vec<(Config, source::Source)>) -> Result<(), Failure> {
    runtime.block_on(async {
        // The first one has what the others live on, so it ends last: each waits for the one after it.
        let mut running = JoinSet::new();
        let mut follower: Option<oneshot::Receiver<()>> = None;
        for (config, source) in nodes.into_iter().rev() {
            tracing::info!(config = %serde_json::to_string(&config).context("cannot show the configuration")?, "configured");
            let mut termination = signal::Termination::listen().context("cannot listen for signals")?;
            let app = App::build(config, source).await.context("cannot start")?;
            let addresses: Vec<String> = app.addresses().iter().map(|address| format!("http://{address}")).collect();
            tracing::info!(addresses = addresses.join(" "), version = env!("CARGO_PKG_VERSION"), "serving");
            let (ended, watch) = oneshot::channel();
            let after = follower.replace(watch);
            running.spawn(async move {
                let terminated = async {
                    let signal = termination.wait().await;
                    if let Some(after) = after {
                        // Its sender is dropped at its end, however it ends.
                        let _ended = after.await.is_err();
                    }
                    signal
                };
                let ran = app.run(terminated).await;
                drop(ended);
                ran
            });
        }
        while let Some(node) = running.join_next().await {
            node.context("the gateway panicked")?.context("the gateway failed")?;
        }
        tracing::info!("ended");
        Ok(())
    })
}

fn control_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("cannot start a runtime")?)
}

fn run_example(port: u16, name: &str, start_delay: Duration) -> Result<(), Failure> {
    control_runtime()?.block_on(async {
        let mut termination = signal::Termination::listen().context("cannot listen for signals")?;
        let stop = async {
            termination.wait().await;
        };
        Ok(example::run(port, name, start_delay, stop).await.context("the example function failed")?)
    })
}

fn run_example_job(words: &[String], pause: Duration, exit_code: u8) -> Result<(), Failure> {
    let done = control_runtime()?.block_on(example::work(words, pause, io::stdout()));
    done.context("the example job cannot write")?;
    match exit_code {
        0 => Ok(()),
        code => Err(Failure { code, error: anyhow::anyhow!("the example job was asked to fail") }),
    }
}
