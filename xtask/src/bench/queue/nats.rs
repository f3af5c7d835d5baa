//! NATS JetStream: a stream with as many replicas as there are nodes, each message synced before it is acknowledged.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::bench::load::dialect::greet;
use crate::bench::load::nats::{Answers, GREETED, greeting, publish};
use crate::bench::{free_port, loopback};
use crate::process::{POLL, Running, bound, check_interrupted};

pub(super) const SUBJECT: &str = "queue";
const STREAM: &str = "QUEUE";
/// Where the answer of the server's interface comes.
const INBOX: &str = "_INBOX.bench";
/// For the nodes to have found each other and to have made the stream.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// For one answer: while there is no leader, none comes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The nodes and their ports for clients, with the stream.
pub(super) fn start(program: &Path, folder: &Path, nodes: u16) -> Result<(Vec<Running>, Vec<u16>)> {
    let (mut ports, mut routes) = (Vec::new(), Vec::new());
    for _ in 0..nodes {
        ports.push(free_port()?);
        routes.push(free_port()?);
    }
    let mut running = Vec::new();
    for (node, port) in ports.iter().enumerate() {
        let file = folder.join(format!("{node}.conf"));
        std::fs::write(&file, settings(&folder.join(node.to_string()), node, *port, &routes))?;
        let log = File::create(folder.join(format!("{node}.log")))?;
        let mut command = bound(program)?;
        command.arg("--config").arg(&file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        running.push(Running::start(&format!("nats {node}"), &mut command)?);
    }
    let deadline = Instant::now() + START_TIMEOUT;
    while let Err(error) = create_stream(ports[0], nodes) {
        check_interrupted()?;
        running.iter_mut().try_for_each(Running::check_alive).with_context(|| log(folder))?;
        if Instant::now() > deadline {
            return Err(error.context(log(folder)).context("NATS makes no stream"));
        }
        std::thread::sleep(POLL);
    }
    Ok((running, ports))
}

fn log(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("0.log")).unwrap_or_default()
}

fn settings(data: &Path, node: usize, port: u16, routes: &[u16]) -> String {
    let mut settings = json!({
        "server_name": format!("nats-{node}"),
        "listen": format!("127.0.0.1:{port}"),
        "jetstream": { "store_dir": data, "sync_interval": "always" },
    });
    if routes.len() > 1 {
        let all: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let listen = format!("127.0.0.1:{}", routes[node]);
        settings["cluster"] = json!({ "name": "bench", "listen": listen, "routes": all });
    }
    // Its format takes JSON too.
    settings.to_string()
}

fn create_stream(port: u16, replicas: u16) -> Result<()> {
    let wanted = json!({
        "name": STREAM, "subjects": [SUBJECT], "storage": "file", "num_replicas": replicas,
        "retention": "limits", "discard": "new", "max_msgs": -1, "max_bytes": -1,
    });
    let answer = ask(port, &format!("$JS.API.STREAM.CREATE.{STREAM}"), &wanted)?;
    // One that was made while nobody listened to the answer is there too, and the same.
    ensure!(answer["error"].is_null() && answer["config"]["num_replicas"] == replicas, "no stream: {answer}");
    ensure!(answer["config"]["storage"] == "file", "no stream on disk: {answer}");
    Ok(())
}

fn ask(port: u16, subject: &str, question: &Value) -> Result<Value> {
    let mut stream = TcpStream::connect(loopback(port))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut answers = Answers::default();
    let mut come = greet(&mut stream, &greeting(INBOX), GREETED)?;
    stream.write_all(&publish(subject, INBOX, question.to_string().as_bytes()))?;
    loop {
        if let Some(message) = answers.message(&come)? {
            return serde_json::from_slice(&message).context("the answer is no JSON");
        }
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).context("NATS does not answer")?;
        ensure!(read > 0, "NATS closed the connection");
        come = buffer[..read].to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_list_each_other() {
        let alone: Value = serde_json::from_str(&settings(Path::new("/data"), 0, 4222, &[6222])).unwrap();
        assert_eq!(alone["cluster"], Value::Null);
        assert_eq!(alone["jetstream"], json!({ "store_dir": "/data", "sync_interval": "always" }));
        let three: Value = serde_json::from_str(&settings(Path::new("/data"), 1, 4222, &[1, 2, 3])).unwrap();
        assert_eq!(three["cluster"]["listen"], "127.0.0.1:2");
        assert_eq!(three["cluster"]["routes"].as_array().unwrap().len(), 3);
    }
}
