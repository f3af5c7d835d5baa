//! `cargo xtask cluster`: a real Kubernetes cluster on this machine, without a registry, a Docker engine or a virtual
//! machine: etcd, API server, controllers, scheduler, and nodes with containerd, kubelet and kube-proxy.
//!
//! Every process of it lives in one control group, and everything that nodes mount in mount namespaces of their own, so
//! that `down` ends and removes all of it whatever state it is in, and touches nothing else. There is one cluster on a
//! machine. It needs root.

mod access;
mod binaries;
mod cgroups;
mod client;
mod control_plane;
mod dns;
mod lifecycle;
mod lock;
mod network;
mod node;
mod plan;
pub(crate) mod processes;
mod settings;
mod state;
mod storage;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;

use crate::terminal::{Colour, line, paint, progress};
use crate::{image, process, repository, test};
use binaries::{Clients, Programs};
use client::Client;
use lock::MachineLock;
use plan::{NODES_MAX, Node};
use state::State;

/// For a stopped part to finish what it does.
const GRACE: Duration = Duration::from_secs(10);
/// Some tests ask for two: what goes from one node to another is another way through the kernel.
const TEST_NODES: u8 = 2;
/// The cluster to use, as every client of Kubernetes reads it.
const KUBECONFIG: &str = "KUBECONFIG";

#[derive(Subcommand)]
pub(crate) enum Cluster {
    /// Start a cluster, in place of one that this command started before
    Up {
        /// Nodes; each after the first is a network namespace of its own
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(NODES_MAX)))]
        nodes: u8,
    },
    /// End and remove everything of the cluster; its logs stay
    Down,
    /// Say what runs, and whether the nodes are ready
    Status,
    /// Give every node the images in these archives
    LoadImage {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// End one process of the cluster, for tests of failures: `kube-apiserver`, `node-2-kubelet`, …
    Stop {
        part: String,
        /// As in a crash, instead of asking it to end first
        #[arg(long)]
        kill: bool,
    },
    /// Start a process again that was stopped
    Start { part: String },
}

/// Returns whether all is well.
pub(crate) fn run(command: Cluster) -> Result<bool> {
    process::catch_interrupts()?;
    let state = State::at(&test::target_folder(&repository()))?;
    match command {
        Cluster::Up { nodes } => up(&state, nodes).map(|client| {
            line(&format!("export KUBECONFIG={}", client.kubeconfig.display()));
            true
        }),
        Cluster::Down => down(&state).map(|()| true),
        Cluster::Status => status(&state),
        Cluster::LoadImage { files } => load_images(&state, &files).map(|()| true),
        Cluster::Stop { part, kill } => {
            let grace = if kill { Duration::ZERO } else { GRACE };
            processes::find(&state, &part)?.end(grace).map(|()| true)
        }
        Cluster::Start { part } => processes::restart(&state, &part).map(|_| true),
    }
}

fn up(state: &State, nodes: u8) -> Result<Client> {
    lifecycle::check_machine()?;
    let programs = Programs::obtain()?;
    let pause = image::build_pause()?;
    let _lock = MachineLock::take()?;
    lifecycle::check_owner(state)?;
    let start = Instant::now();
    lifecycle::tear_down(state).context("what a former cluster left cannot be removed")?;
    let client = lifecycle::Start { state, programs: &programs, nodes, pause }.run()?;
    progress(&format!("{nodes} node(s) ready in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(client)
}

fn down(state: &State) -> Result<()> {
    lifecycle::check_machine()?;
    let _lock = MachineLock::take()?;
    lifecycle::check_owner(state)?;
    let start = Instant::now();
    lifecycle::tear_down(state)?;
    progress(&format!("nothing is left of the cluster, after {:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

fn status(state: &State) -> Result<bool> {
    if let Some(record) = lifecycle::running()?
        && record.owner != state.folder()
    {
        line(&format!("the cluster of {} runs on this machine", record.owner.display()));
    }
    let parts = processes::all(state)?;
    if parts.is_empty() {
        line("no cluster: cargo xtask cluster up");
        return Ok(false);
    }
    let mut is_well = true;
    let verdict = |well: bool| if well { paint(Colour::Green, "ok  ") } else { paint(Colour::Red, "DOWN") };
    for (name, part) in parts {
        let alive = part.is_alive();
        let mebibytes = processes::resident_bytes(part.id).filter(|_| alive).unwrap_or_default() >> 20;
        line(&format!("  {} {name:<26} process {:>7}  {mebibytes:>4} MiB", verdict(alive), part.id));
        is_well &= alive;
    }
    let client = lifecycle::client(state, binaries::folder()?.join("kubectl"));
    match client.nodes() {
        Ok(nodes) => {
            for node in nodes {
                line(&format!("  {} {:<26} {}", verdict(node.is_ready), node.name, node.message));
                is_well &= node.is_ready;
            }
        }
        Err(error) => {
            line(&format!("  {} nodes: {error:#}", verdict(false)));
            is_well = false;
        }
    }
    line(&format!("export KUBECONFIG={}", client.kubeconfig.display()));
    Ok(is_well)
}

fn load_images(state: &State, files: &[PathBuf]) -> Result<()> {
    let parts = processes::all(state)?;
    let nodes = Node::all(NODES_MAX).filter_map(|node| {
        let anchor = parts.iter().find(|(name, part)| *name == node.name() && part.is_alive());
        anchor.map(|(_, anchor)| (node, anchor.id))
    });
    let nodes: Vec<(Node, u32)> = nodes.collect();
    ensure!(!nodes.is_empty(), "no cluster runs: cargo xtask cluster up");
    for file in files {
        for (node, anchor) in &nodes {
            node::import_image(*anchor, file).with_context(|| node.name())?;
        }
        progress(&format!("loaded {}", file.display()));
    }
    Ok(())
}

/// A cluster that tests may use, with the images of this repository on its nodes. Dropping it takes down what was
/// started for it.
pub(crate) struct TestCluster {
    pub(crate) kubeconfig: PathBuf,
    pub(crate) kubectl: PathBuf,
    pub(crate) helm: PathBuf,
    /// The API server's process, where it is ours: for tests of its absence.
    pub(crate) api_server: Option<u32>,
    /// Who asked it for what, where it is ours.
    pub(crate) audit_log: Option<PathBuf>,
    /// The control group of all its processes, where it is ours.
    pub(crate) cgroup: Option<PathBuf>,
    /// Why its nodes have no image of the agent, where it is ours.
    pub(crate) no_agent: Option<String>,
    /// The cluster that we started, and nobody else.
    started: Option<State>,
}

impl TestCluster {
    /// The cluster that `KUBECONFIG` names, the one of this repository that runs already, or one that is started now.
    /// Where it is ours, its nodes get the images; what another one has is its owner's business.
    pub(crate) fn obtain() -> Result<Self> {
        let Clients { kubectl, helm } = Clients::obtain()?;
        let state = State::at(&test::target_folder(&repository()))?;
        let named = named_kubeconfig();
        if let Some(kubeconfig) = named.filter(|named| *named != state.kubeconfig()) {
            return Ok(Self {
                kubeconfig,
                kubectl,
                helm,
                api_server: None,
                audit_log: None,
                cgroup: None,
                no_agent: None,
                started: None,
            });
        }
        // Said before minutes of building.
        lifecycle::check_owner(&state)?;
        let (images, no_agent) = image::build_workloads()?;
        let runs = lifecycle::running()?.is_some_and(|record| record.owner == state.folder());
        let started = if runs { None } else { Some(state.clone()) };
        if started.is_some() {
            up(&state, TEST_NODES)?;
        }
        // Made before what may fail, so that it is taken down then too.
        let mut cluster = Self {
            kubeconfig: state.kubeconfig(),
            kubectl,
            helm,
            api_server: None,
            audit_log: Some(control_plane::audit_log(&state)),
            cgroup: Some(cgroups::tracking_group()?),
            no_agent,
            started,
        };
        cluster.api_server = Some(processes::find(&state, control_plane::API_SERVER)?.id);
        load_images(&state, &images)?;
        Ok(cluster)
    }

    /// Whether this machine cannot make one, and why; nothing is started.
    pub(crate) fn reason_against() -> Option<String> {
        let check = named_kubeconfig().map_or_else(lifecycle::check_machine, |_| Ok(()));
        check.err().map(|error| format!("{error:#}"))
    }
}

fn named_kubeconfig() -> Option<PathBuf> {
    std::env::var_os(KUBECONFIG).filter(|value| !value.is_empty()).map(PathBuf::from)
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if let Some(state) = &self.started
            && let Err(error) = down(state)
        {
            crate::terminal::failure(&format!("the tests' cluster cannot be taken down: {error:#}"));
        }
    }
}
