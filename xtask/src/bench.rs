//! `cargo xtask bench`: what the gateway costs on this machine, beside what others cost on the same machine in the same
//! minutes. Never part of a test: numbers are for reading.

pub(crate) mod backend;
mod coldstart;
mod depth;
mod disk;
mod gateways;
mod identity;
pub(crate) mod load;
mod measure;
mod queue;
mod report;
mod sync;
mod target;
mod usage;
mod wire;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Subcommand;

/// For one answer of a gateway.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Throughput, latency, CPU and memory: directly, through nginx, haproxy and the gateway
    Sync(sync::Options),
    /// What tags and guards cost: connects and established traffic, with and without the kernel programs; needs root
    Identity,
    /// From a call to a function at zero to its first byte, less what the function itself takes to listen
    Coldstart(coldstart::Options),
    /// Asynchronous calls stored per second, beside NATS JetStream and Redis Streams; and how long one takes
    Queue(queue::Options),
    /// Very many calls stored for a function of which nothing runs: memory, latency, and how fast they drain
    Depth(depth::Options),
}

pub(crate) fn run(bench: Bench) -> Result<()> {
    crate::process::catch_interrupts()?;
    match bench {
        Bench::Sync(options) => sync::run(&options),
        Bench::Coldstart(options) => coldstart::run(&options),
        Bench::Queue(options) => queue::run(&options),
        Bench::Depth(options) => depth::run(&options),
        Bench::Identity => identity::run(),
    }
}

/// A loopback port that was free a moment ago.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(loopback(0)).context("cannot bind a loopback port")?;
    Ok(listener.local_addr()?.port())
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// One GET on a connection of its own; returns all of the response, and when its first byte came.
fn get(port: u16, path: &str) -> Result<(String, Instant)> {
    request(port, &format!("GET {path}"), "")
}

/// One request without a body; `headers` are whole lines.
fn request(port: u16, method_and_path: &str, headers: &str) -> Result<(String, Instant)> {
    let mut stream = TcpStream::connect(loopback(port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let head = format!("{method_and_path} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut first = [0];
    stream.read_exact(&mut first).context("the connection was closed without an answer")?;
    let first_byte = Instant::now();
    let mut answer = String::from(char::from(first[0]));
    stream.read_to_string(&mut answer).context("the answer is not whole")?;
    Ok((answer, first_byte))
}

/// A folder of this run alone, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("slimfaas-bench-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            crate::terminal::failure(&format!("cannot remove {}: {error}", self.0.display()));
        }
    }
}
