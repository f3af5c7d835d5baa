//! `cargo xtask bench`: what the gateway costs on this machine, beside what others cost on the same machine in the same
//! minutes. Never part of a test: numbers are for reading.

pub(crate) mod backend;
mod coldstart;
pub(crate) mod load;
mod report;
mod sync;
mod target;
mod usage;
mod wire;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Throughput, latency, CPU and memory: directly, through nginx, haproxy and the gateway
    Sync(sync::Options),
    /// From a call to a function at zero to its first byte, less what the function itself takes to listen
    Coldstart(coldstart::Options),
}

pub(crate) fn run(bench: Bench) -> Result<()> {
    crate::process::catch_interrupts()?;
    match bench {
        Bench::Sync(options) => sync::run(&options),
        Bench::Coldstart(options) => coldstart::run(&options),
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
