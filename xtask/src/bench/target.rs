//! What a benchmark calls: the function itself and the proxies before it, each set up as well as its manual allows.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use super::backend::LISTENING;
use super::{free_port, loopback, wire};
use crate::process::{POLL, Running, bound, check_interrupted};

/// For a proxy to answer its first request.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections that a proxy may keep to the backend: more than any run opens.
const UPSTREAM_CONNECTIONS: usize = 256;
/// Requests on one connection before a proxy closes it: never within a run.
const KEEPALIVE_REQUESTS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// The function itself, with nothing before it
    Direct,
    Nginx,
    Haproxy,
    Gateway,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Gateway => "gateway",
        }
    }
}

/// A target that has answered its first request.
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) running: Running,
    pub(crate) port: u16,
    /// What stands before `/N` in the paths of this target.
    prefix: &'static str,
}

impl Target {
    /// The path of a function that answers with `bytes` bytes.
    pub(crate) fn path(&self, bytes: usize) -> String {
        format!("{}/{bytes}", self.prefix)
    }

    /// Waits for the first right answer.
    fn await_answer(&mut self, log: &Path) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            check_interrupted()?;
            let told = || format!("{} does not answer: {}", self.kind.name(), last_lines(log));
            self.running.check_alive().with_context(told)?;
            match ask(self.port, &self.path(64)) {
                Ok(200) => return Ok(()),
                Ok(status) if Instant::now() > deadline => bail!("{} answers {status}", self.kind.name()),
                Err(error) if Instant::now() > deadline => return Err(error).with_context(told),
                Ok(_) | Err(_) => std::thread::sleep(POLL),
            }
        }
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

/// One request on a connection of its own; returns its status.
fn ask(port: u16, path: &str) -> Result<u16> {
    let mut stream = TcpStream::connect_timeout(&loopback(port), START_TIMEOUT)?;
    stream.set_read_timeout(Some(START_TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut head = Vec::new();
    while wire::head_end(&head)?.is_none() {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the connection was closed before an answer");
        head.extend_from_slice(&buffer[..read]);
    }
    wire::status(&head)
}

/// Starts the backend, which every other target needs.
pub(crate) fn start_backend() -> Result<Target> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = bound(own)?;
    command.arg("bench-backend").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = Running::start("the backend", &mut command)?;
    let output = running.child().stdout.take().context("the backend has no output")?;
    let mut first = String::new();
    BufReader::new(output).read_line(&mut first)?;
    let port = first.trim().strip_prefix(LISTENING).context("the backend did not start")?;
    let port = port.parse().context("the backend's port is no number")?;
    Ok(Target { kind: Kind::Direct, running, port, prefix: "" })
}

/// Starts a proxy before the backend at `backend`. Its files are in `folder`.
pub(crate) fn start_proxy(kind: Kind, folder: &Path, backend: u16, cores: usize, gateway: &Path) -> Result<Target> {
    let port = free_port()?;
    let log = folder.join(format!("{}.log", kind.name()));
    let (mut command, prefix) = match kind {
        Kind::Direct => bail!("the backend is no proxy"),
        Kind::Nginx => (nginx(folder, port, backend, cores)?, ""),
        Kind::Haproxy => (haproxy(folder, port, backend, cores)?, ""),
        Kind::Gateway => (gateway_command(gateway, port, backend, cores)?, "/function/bench"),
    };
    let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let running = Running::start(kind.name(), &mut command)?;
    let mut target = Target { kind, running, port, prefix };
    target.await_answer(&log)?;
    Ok(target)
}

fn nginx(folder: &Path, port: u16, backend: u16, cores: usize) -> Result<Command> {
    let at = folder.display();
    // As root, nginx would give its workers to an account that may not read the folder.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let config = format!(
        "{user}
daemon off;
worker_processes {cores};
pid {at}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 1h;
    keepalive_requests {KEEPALIVE_REQUESTS};
    client_max_body_size 0;
    client_body_buffer_size 128k;
    client_body_temp_path {at}/nginx-body;
    proxy_temp_path {at}/nginx-proxy;
    fastcgi_temp_path {at}/nginx-fastcgi;
    uwsgi_temp_path {at}/nginx-uwsgi;
    scgi_temp_path {at}/nginx-scgi;
    upstream function {{
        server 127.0.0.1:{backend};
        keepalive {UPSTREAM_CONNECTIONS};
        keepalive_requests {KEEPALIVE_REQUESTS};
        keepalive_timeout 1h;
    }}
    server {{
        listen 127.0.0.1:{port} reuseport;
        location / {{
            proxy_pass http://function;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffers 16 16k;
        }}
    }}
}}
"
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, config)?;
    let mut command = bound("nginx")?;
    command.arg("-p").arg(folder).arg("-e").arg("stderr").arg("-c").arg(file);
    Ok(command)
}

fn haproxy(folder: &Path, port: u16, backend: u16, cores: usize) -> Result<Command> {
    let config = format!(
        "global
    nbthread {cores}
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    option http-keep-alive
    http-reuse always
frontend public
    bind 127.0.0.1:{port}
    default_backend function
backend function
    server function 127.0.0.1:{backend} pool-max-conn {UPSTREAM_CONNECTIONS}
"
    );
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, config)?;
    let mut command = bound("haproxy")?;
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

/// The gateway as it ships, with every stage on.
fn gateway_command(binary: &Path, port: u16, backend: u16, cores: usize) -> Result<Command> {
    let mut command = bound(binary)?;
    let functions = r#"{"Functions":[{"Name":"bench"}],"Slimfaas":[{"Name":"slimfaas-1"}]}"#;
    command.arg("gateway").env("MOCK_KUBERNETES_FUNCTIONS", functions);
    command.env("BASE_FUNCTION_URL", format!("http://127.0.0.1:{backend}"));
    command.env("SLIMFAAS_PORTS", port.to_string()).env("SlimFaas__TrafficThreads", cores.to_string());
    Ok(command)
}

/// Fails when the programs of `kinds` are missing, and says what to install.
pub(crate) fn check_installed(kinds: &[Kind]) -> Result<()> {
    let mut missing = Vec::new();
    for (kind, package) in [(Kind::Nginx, "nginx-light"), (Kind::Haproxy, "haproxy")] {
        let version = Command::new(kind.name()).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if kinds.contains(&kind) && !version.is_ok_and(|status| status.success()) {
            missing.push(package);
        }
    }
    let list = missing.join(" ");
    ensure!(missing.is_empty(), "missing: {list}. Install with `apt-get install {list}`, or leave out with --only");
    Ok(())
}
