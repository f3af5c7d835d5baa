//! Redis Streams: an append-only file that is synced before each answer. With three nodes the other two are replicas,
//! and each caller waits for one of them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bench::load::redis::command;
use crate::bench::{free_port, loopback};
use crate::process::{POLL, Running, bound, check_interrupted};

pub(super) const KEY: &str = "queue";
/// For the nodes to answer, and to follow the first one.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The server, if this machine has it.
pub(super) fn installed() -> Option<PathBuf> {
    const PROGRAM: &str = "redis-server";
    let version = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success()).then(|| PathBuf::from(PROGRAM))
}

/// The nodes, and the port of the one that is written to.
pub(super) fn start(program: &Path, folder: &Path, nodes: u16) -> Result<(Vec<Running>, u16)> {
    let primary = free_port()?;
    let mut running = Vec::new();
    for node in 0..nodes {
        let data = folder.join(node.to_string());
        std::fs::create_dir(&data)?;
        let log = File::create(folder.join(format!("{node}.log")))?;
        let port = if node == 0 { primary } else { free_port()? };
        let mut redis = bound(program)?;
        redis.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no"]).arg("--dir").arg(&data);
        redis.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
        // To write the file anew in the middle of a measurement would be a disadvantage.
        redis.args(["--auto-aof-rewrite-percentage", "0"]);
        if node > 0 {
            redis.args(["--replicaof", "127.0.0.1", &primary.to_string()]);
        }
        redis.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        running.push(Running::start(&format!("redis {node}"), &mut redis)?);
    }
    let deadline = Instant::now() + START_TIMEOUT;
    let replicas = format!(":{}", nodes - 1);
    // Those that have acknowledged all that there is: nothing.
    while !ask(loopback(primary), &[b"WAIT", b"0", b"1"]).is_ok_and(|answer| answer == replicas) {
        check_interrupted()?;
        running.iter_mut().try_for_each(Running::check_alive)?;
        let log = || std::fs::read_to_string(folder.join("0.log")).unwrap_or_default();
        ensure!(Instant::now() < deadline, "Redis has no {} replicas: {}", nodes - 1, log());
        std::thread::sleep(POLL);
    }
    Ok((running, primary))
}

/// Forgets what was stored.
pub(super) fn empty(primary: SocketAddr) -> Result<()> {
    let answer = ask(primary, &[b"DEL", KEY.as_bytes()])?;
    ensure!(answer.starts_with(':'), "Redis says {answer}");
    Ok(())
}

/// The first line of the answer.
fn ask(address: SocketAddr, words: &[&[u8]]) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(&command(words))?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        let mut buffer = [0; 256];
        let read = stream.read(&mut buffer).context("Redis does not answer")?;
        ensure!(read > 0, "Redis closed the connection");
        answer.extend_from_slice(&buffer[..read]);
    }
    let text = String::from_utf8(answer).context("the answer is no text")?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
