//! Gateway nodes on loopback that store asynchronous calls, each in a folder of its own.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{free_port, get, loopback, request};
use crate::process::{POLL, Running, bound, check_interrupted};

/// For all nodes to have found each other.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Of this benchmark alone: nobody else has to guess it.
const SECRET: &str = "the secret of a benchmark's gateways";
/// More elements and bytes than any run stores.
const ELEMENTS_MAX: &str = "100000000";
const BYTES_MAX: &str = "64GiB";

/// A function of the fixed list at this port. `slots`: its asynchronous calls at once. A call may take an hour.
pub(crate) fn function(name: &str, port: u16, slots: u32) -> Value {
    json!({
        "Name": name,
        "Url": format!("http://127.0.0.1:{port}"),
        "Annotations": {
            "SlimFaas/NumberParallelRequest": slots.to_string(),
            "SlimFaas/NumberParallelRequestPerPod": slots.to_string(),
            "SlimFaas/Configuration": json!({ "DefaultAsync": { "HttpTimeout": 3600 } }).to_string(),
        },
    })
}

/// A function that takes connections and never answers: what is stored for it stays stored.
pub(crate) fn silent_function() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind(loopback(0)).context("cannot bind a loopback port")?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Nodes that form one store. Dropping them ends them.
pub(crate) struct Gateways {
    pub(crate) running: Vec<Running>,
    pub(crate) ports: Vec<u16>,
}

impl Gateways {
    /// Starts `count` nodes with these functions, in folders below `folder`.
    pub(crate) fn start(binary: &Path, folder: &Path, count: u16, functions: &[Value]) -> Result<Self> {
        let secret = folder.join("secret");
        std::fs::write(&secret, SECRET)?;
        let (mut ports, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            ports.push(free_port()?);
            peers.push(free_port()?);
        }
        let listed: Vec<String> =
            peers.iter().enumerate().map(|(node, port)| format!("slimfaas-{node}=127.0.0.1:{port}")).collect();
        let mut gateways = Self { running: Vec::new(), ports };
        for (node, peer) in peers.iter().enumerate() {
            let data = folder.join(format!("slimfaas-{node}"));
            let log = File::create(folder.join(format!("slimfaas-{node}.log")))?;
            let mut command = bound(binary)?;
            command.arg("gateway").env("MOCK_KUBERNETES_FUNCTIONS", json!({ "Functions": functions }).to_string());
            command.env("SLIMFAAS_PORTS", gateways.ports[node].to_string());
            command.env("SlimFaas__Listen__Address", "127.0.0.1").env("SlimFaas__Store__Directory", &data);
            command.env("SlimFaas__Hostname", format!("slimfaas-{node}")).env("SlimFaas__AdminTokenFile", &secret);
            for limit in ["ElementsPerFunction", "Elements"] {
                command.env(format!("SlimFaas__Queue__{limit}"), ELEMENTS_MAX);
            }
            for limit in ["BytesPerFunction", "Bytes"] {
                command.env(format!("SlimFaas__Queue__{limit}"), BYTES_MAX);
            }
            if count > 1 {
                command.env("SlimFaas__Peer__Port", peer.to_string()).env("SlimFaas__Peer__KeyFile", &secret);
                command.env("SlimFaas__Peer__Nodes", listed.join(","));
            }
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            gateways.running.push(Running::start(&format!("gateway {node}"), &mut command)?);
        }
        gateways.await_store(folder)?;
        Ok(gateways)
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.running.iter().map(Running::id).collect()
    }

    /// The sum of a metric's series that have this label, as one node sees it.
    pub(crate) fn metric(&self, node: usize, name: &str, label: &str) -> Result<u64> {
        metric(self.ports[node], name, label)
    }

    /// Holds the deliveries of a function back, or goes on with them.
    pub(crate) fn set_paused(&self, function: &str, paused: bool) -> Result<()> {
        let order = if paused { "pause" } else { "resume" };
        let order = format!("POST /async-functions/{function}/{order}");
        let (answer, _) = request(self.ports[0], &order, &format!("authorization: Bearer {SECRET}\r\n"))?;
        ensure!(answer.starts_with("HTTP/1.1 204 "), "{order} was answered {answer}");
        Ok(())
    }

    /// Waits until each node has a store of all nodes, with a leader.
    fn await_store(&mut self, folder: &Path) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let count = self.ports.len();
        for node in 0..count {
            let port = self.ports[node];
            let ready = || {
                let ready = get(port, "/ready").is_ok_and(|(answer, _)| answer.starts_with("HTTP/1.1 200 "));
                ready && metric(port, "slimfaas_store_voters", "").is_ok_and(|voters| voters == count as u64)
            };
            while !ready() {
                check_interrupted()?;
                let log = || std::fs::read_to_string(folder.join(format!("slimfaas-{node}.log"))).unwrap_or_default();
                self.running[node].check_alive().with_context(log)?;
                ensure!(Instant::now() < deadline, "gateway {node} has no store of {count} nodes: {}", log());
                std::thread::sleep(POLL);
            }
        }
        Ok(())
    }
}

fn metric(port: u16, name: &str, label: &str) -> Result<u64> {
    let (answer, _) = get(port, "/metrics")?;
    sum(&answer, name, label)
}

/// The sum of a metric's series that have this label; fails without any.
fn sum(text: &str, name: &str, label: &str) -> Result<u64> {
    let series = text.lines().filter_map(|line| line.rsplit_once(' '));
    let mut values = series
        .filter(|(series, _)| series.split('{').next() == Some(name) && series.contains(label))
        .map(|(series, value)| value.parse::<u64>().with_context(|| format!("no whole number: {series} {value}")))
        .peekable();
    values.peek().with_context(|| format!("there is no metric {name} with {label:?}"))?;
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed() {
        let text = "# TYPE a gauge\na{x=\"1\",y=\"1\"} 2\na{x=\"1\",y=\"2\"} 3\na{x=\"2\"} 7\nab 11\n";
        assert_eq!(sum(text, "a", "x=\"1\"").unwrap(), 5);
        assert_eq!(sum(text, "a", "").unwrap(), 12);
        assert_eq!(sum(text, "ab", "").unwrap(), 11);
        assert!(sum(text, "b", "").is_err());
    }
}
