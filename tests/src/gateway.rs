//! Starts gateways, each for one test, and reads what they say of themselves.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::process::{Scratch, Server, Signal};
use crate::{metrics, tools};
use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::http1 as client;

/// Ports that the system does not give to others by itself: below Linux's range for "any".
const PORTS: std::ops::Range<u16> = 10_000..30_000;
/// What one local gateway takes at most: those of up to three nodes, and of its functions' processes.
const LOCAL_PORTS: u16 = 24;

/// For a local gateway to be ready, on a busy machine.
const READY: Duration = Duration::from_secs(30);

/// A running gateway with a folder of its own. Dropping it kills it, and with it the processes that it has started.
pub struct Gateway {
    pub address: SocketAddr,
    server: Server,
    command: Command,
    // After the server, which writes into it.
    scratch: Scratch,
}

/// Functions that run elsewhere, at the addresses that they name.
#[derive(Default)]
pub struct Fixed<'a> {
    functions: Vec<Value>,
    environment: Vec<(&'a str, String)>,
}

impl<'a> Fixed<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn function(mut self, name: &str, url: impl std::fmt::Display, annotations: &Value) -> Self {
        self.functions.push(json!({ "Name": name, "Url": url.to_string(), "Annotations": annotations }));
        self
    }

    /// A public function `f` without annotations.
    pub fn at(address: SocketAddr) -> Self {
        Self::new().function("f", format!("http://{address}"), &json!({}))
    }

    pub fn set(mut self, name: &'a str, value: impl std::fmt::Display) -> Self {
        self.environment.push((name, value.to_string()));
        self
    }

    pub fn start(self) -> Result<Gateway> {
        self.start_on(&[])
    }

    /// Listens on these ports too.
    pub fn start_on(self, others: &[SocketAddr]) -> Result<Gateway> {
        let address = loopback(claim_ports(1)?);
        let mut command = gateway_command()?;
        command.arg("gateway");
        command.env("MOCK_KUBERNETES_FUNCTIONS", json!({ "Functions": self.functions }).to_string());
        let ports: Vec<String> = [address].iter().chain(others).map(|address| address.port().to_string()).collect();
        command.env("SLIMFAAS_PORTS", ports.join(",")).env("SlimFaas__Listen__Address", "127.0.0.1");
        command.envs(self.environment);
        Gateway::start(&mut command, address, Scratch::new("fixed")?)
    }
}

impl Gateway {
    /// `slimfaas local up` with `functions`, the part of a manifest below that key.
    pub fn local(functions: &str) -> Result<Self> {
        Self::local_with(functions, &[])
    }

    pub fn local_with(functions: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let manifest = format!("schemaVersion: 1\nname: test\nfunctions:\n{functions}");
        Self::local_manifest(&manifest, environment)
    }

    /// A whole manifest, whose ports are replaced by free ones.
    pub fn local_manifest(manifest: &str, environment: &[(&str, &str)]) -> Result<Self> {
        Self::local_manifest_on(manifest, environment, LOCAL_PORTS)
    }

    /// The same with so many ports, of which all but 7 are for the processes of functions.
    pub fn local_manifest_on(manifest: &str, environment: &[(&str, &str)], ports: u16) -> Result<Self> {
        let first = claim_ports(ports)?;
        let scratch = Scratch::new("local")?;
        let (base, overlay_file) = (scratch.path().join("slimfaas.local.yaml"), scratch.path().join("ports.yaml"));
        std::fs::write(&base, manifest)?;
        let (node, raft, from, to) = (first + 1, first + 4, first + 7, first + ports - 1);
        let overlay = format!(
            "cluster: {{ entrypointPort: {first}, nodeHttpPortBase: {node}, raftPortBase: {raft} }}\nprocessPorts: {{ from: {from}, to: {to} }}\n"
        );
        std::fs::write(&overlay_file, overlay)?;
        let mut command = gateway_command()?;
        command.args(["local", "up", "-f"]).arg(&base).arg("-f").arg(&overlay_file).current_dir(scratch.path());
        command.envs(environment.iter().copied());
        let gateway = Self::start(&mut command, loopback(node), scratch)?;
        // It listens a moment before its store has elected itself.
        client::eventually("ready", READY, || Ok((gateway.get("/ready")?.status == 200).then_some(())))?;
        Ok(gateway)
    }

    fn start(command: &mut Command, address: SocketAddr, scratch: Scratch) -> Result<Self> {
        let server = Server::start("gateway", command, address, scratch.path())?;
        let command = std::mem::replace(command, Command::new("nothing"));
        Ok(Self { address, server, command, scratch })
    }

    /// `kill -9`, and another process with the same files.
    pub fn restart(&mut self) -> Result<()> {
        self.server.signal(Signal::KILL)?;
        self.server.wait(READY)?;
        self.server = Server::start("gateway", &mut self.command, self.address, self.scratch.path())?;
        client::eventually("ready", READY, || Ok((self.get("/ready")?.status == 200).then_some(())))
    }

    /// The other port of a local gateway.
    pub fn entrypoint(&self) -> SocketAddr {
        loopback(self.address.port() - 1)
    }

    pub fn get(&self, target: impl std::fmt::Display) -> Result<client::Answer> {
        client::get(self.address, target)
    }

    pub fn log(&self) -> String {
        self.server.output()
    }

    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// SIGTERM, and the process's end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.server.terminate(Duration::from_secs(60))
    }

    /// The sum of the metric's series that have all these labels (`reason="call"`); 0 without any.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<u64> {
        metrics::sum(&self.get("/metrics")?.text(), name, labels)
    }

    /// The most memory that the process has had, in KiB.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Time that the process has computed for, in clock ticks of 10 ms.
    pub fn cpu_ticks(&self) -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let fields = stat.rsplit_once(") ").context("no stat")?.1;
        // The state is field 3; utime and stime are 14 and 15 (proc(5)).
        fields.split(' ').skip(11).take(2).map(|ticks| Ok(ticks.parse::<u64>()?)).sum()
    }
}

/// The program, free of the options of whoever runs the tests.
fn gateway_command() -> Result<Command> {
    let mut command = Command::new(tools::gateway_binary()?);
    command.env_clear().env("NO_COLOR", "1");
    Ok(command)
}

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The first of `count` ports in a row that nobody else of this process is given.
pub fn claim_ports(count: u16) -> Result<u16> {
    static CLAIMED: AtomicU16 = AtomicU16::new(0);
    // Another run of the tests begins elsewhere.
    let begin = u16::try_from(std::process::id() % 100)? * 100;
    let size = PORTS.end - PORTS.start;
    for _ in 0..size / count {
        let offset = (begin + CLAIMED.fetch_add(count, Ordering::Relaxed)) % (size - count);
        let first = PORTS.start + offset;
        if (first..first + count).all(|port| TcpListener::bind(loopback(port)).is_ok()) {
            return Ok(first);
        }
    }
    anyhow::bail!("no {count} free ports in a row in {PORTS:?}")
}

/// One example function as a process of the test.
pub fn start_example(name: &str) -> Result<(Server, Scratch)> {
    let address = loopback(claim_ports(1)?);
    let scratch = Scratch::new("example")?;
    let mut command = gateway_command()?;
    command.args(["example-function", "--name", name, "--port", &address.port().to_string()]);
    Ok((Server::start("example", &mut command, address, scratch.path())?, scratch))
}
