//! `bench coldstart`: what the gateway adds to a function's own start.
//!
//! A function at zero replicas is called; the time to the first byte, less what the same command takes to listen when
//! started by hand, is the gateway's: noticing the call, starting the process, noticing that it listens, sending on.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::report::{quantile, table};
use super::{Scratch, free_port, get, loopback};
use crate::process::{POLL, Running, bound, check_interrupted};
use crate::terminal::{line, progress};
use crate::{repository, test};

/// For a function or the gateway to answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Between two tries to connect: a closer loop would take the core that the function starts on.
const BETWEEN_TRIES: Duration = Duration::from_micros(50);
/// The function's name in the manifest.
const FUNCTION: &str = "cold";
/// Without a call for so long the function goes back to zero.
const INACTIVE_SECONDS: u64 = 1;

#[derive(Args)]
pub(crate) struct Options {
    /// Calls to a function at zero
    #[arg(long, default_value_t = 20)]
    calls: usize,
    /// The function's command, blanks between its words; `{slimfaas}` is the gateway's binary, `{port}` the port to
    /// listen on (also in the variable PORT)
    #[arg(long, default_value = "{slimfaas} example-function")]
    function: String,
    /// A path of the function that answers 200
    #[arg(long, default_value = "/hello/cold")]
    path: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.calls > 0, "there is nothing to measure");
    let binary = test::gateway_binary(&repository())?;
    let words: Vec<String> = options.function.split_whitespace().map(|word| expand(word, &binary)).collect();
    ensure!(!words.is_empty(), "--function is empty");
    let (calls, alone) = measure(options, &words, &binary)?;
    let own = quantile(alone.clone(), 0.5).context("no start was measured")?;
    let added = calls.iter().map(|call| call - own).collect();
    let head = ["", "p50 ms", "p99 ms", "max ms"];
    table(
        &format!("Cold start, {} calls", options.calls),
        &head,
        &[
            row("call to first byte", calls),
            row("function's own start to listen", alone),
            row("added by the gateway", added),
        ],
    );
    line("\n\"added\" is each call less the median of the function's own start");
    Ok(())
}

fn expand(word: &str, binary: &Path) -> String {
    word.replace("{slimfaas}", &binary.display().to_string())
}

fn row(name: &str, millis: Vec<f64>) -> Vec<String> {
    let at = |part| quantile(millis.clone(), part).map_or("–".to_owned(), |value| format!("{value:.2}"));
    vec![name.to_owned(), at(0.5), at(0.99), at(1.0)]
}

/// Milliseconds from starting the function by hand to its accepting a connection.
fn start_to_listen(words: &[String]) -> Result<f64> {
    check_interrupted()?;
    let port = free_port()?;
    let words: Vec<String> = words.iter().map(|word| word.replace("{port}", &port.to_string())).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env("PORT", port.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let mut running = Running::start("the function", &mut command)?;
    loop {
        if TcpStream::connect(loopback(port)).is_ok() {
            return Ok(start.elapsed().as_secs_f64() * 1e3);
        }
        running.check_alive()?;
        ensure!(start.elapsed() < TIMEOUT, "the function does not listen on port {port}");
        std::thread::sleep(BETWEEN_TRIES);
    }
}

/// Milliseconds from each call to its first byte, the function being at zero, and of as many starts by hand. They take
/// turns, so that whatever else happens on the machine happens to both.
fn measure(options: &Options, words: &[String], binary: &Path) -> Result<(Vec<f64>, Vec<f64>)> {
    let scratch = Scratch::new()?;
    let port = free_port()?;
    let mut gateway = start_gateway(&scratch, port, words, binary)?;
    let call = format!("/function/{FUNCTION}{}", options.path);
    let (mut calls, mut alone) = (Vec::new(), Vec::new());
    // The first one reads the program from the disk.
    start_to_listen(words)?;
    for number in 1..=options.calls {
        await_zero(&mut gateway, port)?;
        alone.push(start_to_listen(words)?);
        let start = Instant::now();
        let (answer, first_byte) = get(port, &call).context("a call to the function at zero failed")?;
        let took = first_byte.duration_since(start).as_secs_f64() * 1e3;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "a call was answered {answer}");
        progress(&format!("call {number}: {took:.2} ms"));
        calls.push(took);
    }
    Ok((calls, alone))
}

fn start_gateway(scratch: &Scratch, port: u16, words: &[String], binary: &Path) -> Result<Running> {
    let manifest = serde_json::json!({
        "schemaVersion": 1,
        "name": "coldstart",
        "cluster": { "nodes": 1, "entrypointPort": free_port()?, "nodeHttpPortBase": port, "raftPortBase": free_port()? },
        "state": { "mode": "ephemeral" },
        "functions": { FUNCTION: {
            "command": words,
            "annotations": {
                "SlimFaas/Function": "true",
                "SlimFaas/ReplicasMin": "0",
                "SlimFaas/ReplicasAtStart": "1",
                "SlimFaas/TimeoutSecondBeforeSetReplicasMin": INACTIVE_SECONDS.to_string(),
            },
        } },
    });
    // JSON is YAML too.
    let file = scratch.path().join("slimfaas.local.yaml");
    std::fs::write(&file, serde_json::to_string_pretty(&manifest)?)?;
    let log = scratch.path().join("gateway.log");
    let output = std::fs::File::create(&log)?;
    let mut command = bound(binary)?;
    command.args(["local", "up", "-f"]).arg(&file).current_dir(scratch.path());
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut running = Running::start("slimfaas local up", &mut command)?;
    let deadline = Instant::now() + TIMEOUT;
    while get(port, "/health").is_err() {
        check_interrupted()?;
        let told = || std::fs::read_to_string(&log).unwrap_or_default();
        running.check_alive().with_context(told)?;
        ensure!(Instant::now() < deadline, "slimfaas local up does not answer on port {port}: {}", told());
        std::thread::sleep(POLL);
    }
    Ok(running)
}

/// Waits until the function has no replica, by what the gateway says.
fn await_zero(gateway: &mut Running, port: u16) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        check_interrupted()?;
        gateway.check_alive()?;
        let (answer, _) = get(port, &format!("/status-function/{FUNCTION}"))?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        let status: serde_json::Value = serde_json::from_str(body).with_context(|| format!("no status: {answer}"))?;
        // Both are gone: nothing is wanted, and the process that was there has ended.
        if ["NumberReady", "NumberRequested"].iter().all(|field| status[*field].as_u64() == Some(0)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the function does not go to zero: {body}");
        std::thread::sleep(POLL);
    }
}
