//! Three gateway processes on loopback, or wherever they are put, that form one store.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use slimfaas_tests::process::{Server, Signal};
use slimfaas_tests::{metrics, tools};

use super::client::{Connection, eventually};

pub(super) const NODES: usize = 3;
/// Calls of the function at once, from all nodes together.
pub(super) const SLOTS: usize = 20;
/// What the nodes log.
const LOG: &str = "SLIMFAAS_CRASH_LOG";
/// For the first election, and for a node that comes back.
const READY: Duration = Duration::from_secs(60);
/// For a node to tell its figures.
const LOOK: Duration = Duration::from_secs(2);
/// Below Linux's range for "any", and away from those of the suite `loopback`.
const PORTS: u16 = 30_100;

pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    folder: PathBuf,
    environment: Vec<(String, String)>,
}

pub(super) struct Node {
    pub(super) name: String,
    pub(super) place: Place,
    /// Where its store is.
    pub(super) folder: PathBuf,
    /// Stands before the program: what puts it elsewhere.
    pub(super) prefix: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    server: Option<Server>,
    starts: usize,
}

/// A node's figures of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) leads: bool,
    pub(super) term: u64,
    pub(super) voters: u64,
    pub(super) votes: bool,
    pub(super) applied: u64,
    /// Ready, running and waiting.
    pub(super) pending: u64,
    pub(super) dead: u64,
    pub(super) enqueued: u64,
    pub(super) succeeded: u64,
    pub(super) failed_attempts: u64,
}

/// Where a node listens.
#[derive(Clone)]
pub(super) struct Place {
    /// For everybody.
    pub(super) address: SocketAddr,
    /// For its peers, and how they know that.
    pub(super) peer: SocketAddr,
    pub(super) known_as: String,
}

pub(super) fn on_loopback() -> Result<Vec<Place>> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = PORTS + u16::try_from(std::process::id() % 20)? * 100;
    let claim = || -> Result<SocketAddr> {
        for _ in 0..100 {
            let port = begin + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
        anyhow::bail!("no free port from {begin} on")
    };
    let place = |_| -> Result<Place> {
        let (address, peer) = (claim()?, claim()?);
        Ok(Place { address, peer, known_as: peer.to_string() })
    };
    (0..NODES).map(place).collect()
}

impl Cluster {
    /// Nothing runs yet. `function` is where the function is; `folder` takes everything that the nodes write.
    pub(super) fn new(places: &[Place], function: SocketAddr, folder: &Path) -> Result<Self> {
        let key = folder.join("key");
        std::fs::write(&key, "a key of a test, which everybody may know\n")?;
        let named = |(number, place): (usize, &Place)| format!("node-{number}={}", place.known_as);
        let peers: Vec<String> = places.iter().enumerate().map(named).collect();
        // Enough tries for requests whose nodes are killed again and again.
        let calls = json!({"HttpTimeout": 20, "TimeoutRetries": [1, 1, 1, 1, 1, 1, 1, 1], "HttpStatusRetries": [500]});
        let annotations = json!({
            "SlimFaas/NumberParallelRequest": SLOTS.to_string(),
            "SlimFaas/Configuration": json!({"DefaultAsync": calls}).to_string(),
        });
        let functions =
            json!({"Functions": [{"Name": "f", "Url": format!("http://{function}"), "Annotations": annotations}]});
        let environment = [
            ("NO_COLOR", "1".to_owned()),
            ("MOCK_KUBERNETES_FUNCTIONS", functions.to_string()),
            ("SlimFaas__Peer__KeyFile", key.display().to_string()),
            ("SlimFaas__Peer__Nodes", peers.join(",")),
            ("SlimFaas__TrafficThreads", "1".to_owned()),
        ];
        let node = |(number, place): (usize, &Place)| Node {
            name: format!("node-{number}"),
            place: place.clone(),
            folder: folder.join(format!("node-{number}")),
            prefix: Vec::new(),
            environment: Vec::new(),
            server: None,
            starts: 0,
        };
        Ok(Self {
            nodes: places.iter().enumerate().map(node).collect(),
            folder: folder.to_owned(),
            environment: environment.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        })
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.place.address).collect()
    }

    pub(super) fn start_all(&mut self) -> Result<()> {
        for number in 0..self.nodes.len() {
            self.start(number)?;
        }
        self.wait_until_whole()
    }

    /// Starts a node that does not run, with the disk that it has.
    pub(super) fn start(&mut self, number: usize) -> Result<()> {
        let node = &mut self.nodes[number];
        std::fs::create_dir_all(&node.folder)?;
        node.starts += 1;
        let mut words = node.prefix.iter().map(Into::into).chain([tools::gateway_binary()?.into_os_string()]);
        let mut command = Command::new(words.next().expect("there is the program"));
        command.args(words).arg("gateway").env_clear();
        command.envs(self.environment.iter().chain(&node.environment).map(|(name, value)| (name, value)));
        if let Some(filter) = std::env::var_os(LOG) {
            command.env("SlimFaas__Log__Filter", filter);
        }
        command.env("SlimFaas__Hostname", &node.name);
        command.env("SlimFaas__Store__Directory", &node.folder);
        command.env("SlimFaas__Listen__Address", node.place.address.ip().to_string());
        command.env("SLIMFAAS_PORTS", node.place.address.port().to_string());
        command.env("SlimFaas__Peer__Port", node.place.peer.port().to_string());
        let name = format!("{}.{}", node.name, node.starts);
        node.server = Some(Server::start(&name, &mut command, node.place.address, &self.folder)?);
        Ok(())
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self, number: usize) -> Result<()> {
        self.nodes[number].server.take().map_or(Ok(()), Server::kill)
    }

    /// Takes a node's process out of its hands, running; the next one may be started beside it.
    pub(super) fn take(&mut self, number: usize) -> Result<Server> {
        self.nodes[number].server.take().context("the node does not run")
    }

    pub(super) fn signal(&self, number: usize, signal: Signal) -> Result<()> {
        self.nodes[number].server.as_ref().context("the node does not run")?.signal(signal)
    }

    /// Which node leads, once one does that a majority could have chosen.
    pub(super) fn leader(&self) -> Result<usize> {
        eventually("a leader", READY, || {
            let figures =
                self.nodes.iter().enumerate().filter_map(|(number, node)| Some((number, node.figures().ok()?)));
            let leaders = figures.filter(|(_, figures)| figures.leads);
            // One of a former term may not have heard of its end.
            Ok(leaders.max_by_key(|(_, figures)| figures.term).map(|(number, _)| number))
        })
    }

    /// All nodes run, vote, and follow one of them.
    pub(super) fn wait_until_whole(&self) -> Result<()> {
        eventually("all nodes in the cluster", READY, || {
            let figures = self.figures()?;
            let is_whole = figures.iter().all(|node| node.votes && node.voters == NODES as u64);
            Ok((is_whole && figures.iter().filter(|node| node.leads).count() == 1).then_some(()))
        })
    }

    /// Of every node; fails when one does not answer.
    pub(super) fn figures(&self) -> Result<Vec<Figures>> {
        self.nodes.iter().map(|node| node.figures().with_context(|| format!("{} is silent", node.name))).collect()
    }
}

impl Node {
    pub(super) fn is_running(&self) -> bool {
        self.server.is_some()
    }

    /// What the process that runs now has said.
    pub(super) fn output(&self) -> String {
        self.server.as_ref().map(Server::output).unwrap_or_default()
    }

    /// Waits until the process ends by itself; returns whether it says that it failed, and what it said.
    pub(super) fn wait_for_its_end(&mut self, timeout: Duration) -> Result<(bool, String)> {
        let mut server = self.server.take().context("the node does not run")?;
        let status = server.wait(timeout)?;
        Ok((!status.success(), server.output()))
    }

    pub(super) fn figures(&self) -> Result<Figures> {
        ensure!(self.is_running(), "{} does not run", self.name);
        let mut connection = Connection::open_within(self.place.address, LOOK)?;
        connection.send("GET /metrics HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n")?;
        let text = connection.answer()?.text();
        let figure = |name: &str| metrics::sum(&text, name, &[]);
        ensure!(text.contains("slimfaas_store_leads"), "no figures of the store: {text:.200}");
        Ok(Figures {
            leads: figure("slimfaas_store_leads")? == 1,
            term: figure("slimfaas_store_term")?,
            voters: figure("slimfaas_store_voters")?,
            votes: figure("slimfaas_store_votes")? == 1,
            applied: figure("slimfaas_store_applied_index")?,
            pending: figure("slimfaas_function_queue_ready_items")?
                + figure("slimfaas_function_queue_in_flight_items")?
                + figure("slimfaas_function_queue_retry_pending_items")?,
            dead: figure("slimfaas_function_dead_letters")?,
            enqueued: figure("slimfaas_async_enqueued_total")?,
            succeeded: figure("slimfaas_async_succeeded_total")?,
            failed_attempts: figure("slimfaas_async_failed_attempts_total")?,
        })
    }
}
