//! A cluster's beginning and end. What begins halfway is taken down by the same code as what ran for days, and by the
//! next beginning when this one was killed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::binaries::Programs;
use super::client::Client;
use super::control_plane::{self, Binaries};
use super::plan::Node;
use super::processes::{self, Process};
use super::state::{Record, State};
use super::{access, cgroups, dns, network, node, settings, storage};
use crate::process::{check_interrupted, interrupted};
use crate::terminal::progress;

/// For each thing that a starting cluster waits for. On an idle machine all together take some ten seconds.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks that each start a program.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Fails, saying why, where no cluster can be made.
pub(crate) fn check_machine() -> Result<()> {
    ensure!(cfg!(target_os = "linux"), "a cluster needs Linux");
    ensure!(rustix::process::geteuid().is_root(), "a cluster needs root: it makes networks, mounts and control groups");
    cgroups::check()
}

/// What starts a cluster.
pub(crate) struct Start<'a> {
    pub(crate) state: &'a State,
    pub(crate) programs: &'a Programs,
    pub(crate) nodes: u8,
    /// The archive of the image that holds a pod's namespaces.
    pub(crate) pause: PathBuf,
}

impl Start<'_> {
    /// Starts everything and waits until pods can run. After a failure nothing runs, and the logs are left.
    pub(crate) fn run(&self) -> Result<Client> {
        self.try_run().inspect_err(|_| {
            if let Err(error) = tear_down(self.state) {
                crate::terminal::failure(&format!("and it cannot be taken down: {error:#}"));
            }
        })
    }

    fn try_run(&self) -> Result<Client> {
        let (state, nodes) = (self.state, Node::all(self.nodes));
        network::check_free()?;
        let missing = node::COVERED.iter().map(PathBuf::from).filter(|folder| !folder.is_dir());
        let record =
            Record { owner: state.folder().to_owned(), settings: settings::read(), folders: missing.collect() };
        record.write()?;
        for folder in &record.folders {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        state.create(nodes.clone())?;
        settings::apply()?;
        cgroups::create(nodes.clone())?;
        network::create()?;
        access::create(state, nodes.clone())?;
        let volumes = storage::create(state, nodes.clone())?;

        let binaries = Binaries { kubernetes: &self.programs.kubernetes, etcd: &self.programs.etcd };
        let start = |(name, command): control_plane::Part| processes::start(state, name, &command);
        start(control_plane::etcd(state, &binaries))?;
        let server = start(control_plane::api_server(state, &binaries))?;
        let mut anchors = Vec::new();
        for node in nodes.clone() {
            anchors.push((node, self.start_containers(node)?));
        }
        let client = client(state, self.programs.kubernetes.join("kubectl"));
        await_that("the API server", state, control_plane::API_SERVER, &server, || client.answers())?;
        for part in control_plane::controllers(state, &binaries) {
            start(part)?;
        }
        for (node, anchor) in anchors {
            self.start_pods(node, anchor)?;
        }
        client.apply(&dns::access())?;
        start(dns::part(state, &self.programs.dns)?)?;
        client.apply(&volumes)?;
        self.await_ready(&client)?;
        Ok(client)
    }

    /// Starts the node's namespaces and containerd in them; returns the process that holds the namespaces.
    fn start_containers(&self, node: Node) -> Result<u32> {
        let (state, name) = (self.state, node.name());
        node::configure(state, node, &self.programs.cni)?;
        let anchor = processes::start(state, &name, &node::anchor(state, node))?;
        await_that("its namespaces", state, &name, &anchor, || node::is_anchored(state, node))?;
        if !node.is_machine() {
            network::connect(node, anchor.id)?;
        }
        let name = format!("{name}-containerd");
        let command = node::inside(anchor.id, node::containerd(&self.programs.containerd));
        let containerd = processes::start(state, &name, &command)?;
        await_that("containerd", state, &name, &containerd, || node::runs_containers(anchor.id))?;
        node::import_image(anchor.id, &self.pause)?;
        Ok(anchor.id)
    }

    fn start_pods(&self, node: Node, anchor: u32) -> Result<()> {
        let (state, kubernetes) = (self.state, &self.programs.kubernetes);
        let parts = [
            ("kubelet", node::kubelet(state, node, kubernetes)),
            ("kube-proxy", node::kube_proxy(state, node, kubernetes)),
        ];
        for (part, command) in parts {
            processes::start(state, &format!("{}-{part}", node.name()), &node::inside(anchor, command))?;
        }
        Ok(())
    }

    /// Waits until every node takes pods, and pods can have their account.
    fn await_ready(&self, client: &Client) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut told = String::new();
        loop {
            check_interrupted()?;
            check_alive(self.state)?;
            let nodes = client.nodes().unwrap_or_default();
            let ready = nodes.iter().filter(|node| node.is_ready).count();
            if ready == usize::from(self.nodes) && client.exists("serviceaccount/default") {
                return Ok(());
            }
            let waiting = nodes.iter().find(|node| !node.is_ready);
            let waiting = waiting.map_or(String::new(), |node| format!(": {}: {}", node.name, node.message));
            let now = format!("{ready} of {} nodes ready{waiting}", self.nodes);
            if now != told {
                progress(&now);
                told = now;
            }
            ensure!(
                Instant::now() < deadline,
                "{told}, for {} s; logs: {}",
                PATIENCE.as_secs(),
                self.state.logs().display()
            );
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }
}

pub(crate) fn client(state: &State, kubectl: PathBuf) -> Client {
    Client { kubectl, kubeconfig: state.kubeconfig() }
}

/// Waits for what process `name` is expected to do; its end or too long a time is an error with the end of its log.
fn await_that(what: &str, state: &State, name: &str, process: &Process, is_so: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    progress(&format!("waiting for {name}"));
    while !is_so() {
        check_interrupted()?;
        let told = || format!("{what} of {name}: {}", processes::last_lines(state, name));
        ensure!(process.is_alive(), "{name} ended: {}", told());
        ensure!(Instant::now() < deadline, "waited too long for {}", told());
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Ok(())
}

fn check_alive(state: &State) -> Result<()> {
    for (name, process) in processes::all(state)? {
        ensure!(process.is_alive(), "{name} ended by itself: {}", processes::last_lines(state, &name));
    }
    Ok(())
}

/// Whose cluster runs on this machine: the record of it, if any process of it is alive.
pub(crate) fn running() -> Result<Option<Record>> {
    Ok(if cgroups::members()?.is_empty() { None } else { Record::read()? })
}

/// Fails when the cluster that runs belongs to another folder: it is not ours to end.
pub(crate) fn check_owner(state: &State) -> Result<()> {
    match running()? {
        Some(record) if record.owner != state.folder() => {
            bail!("the cluster of {} runs on this machine: take it down from there first", record.owner.display())
        }
        _ => Ok(()),
    }
}

/// Ends and removes everything of a cluster, whatever part of it is there, but its logs.
pub(crate) fn tear_down(state: &State) -> Result<()> {
    if interrupted() {
        progress("taking down what was started");
    }
    let record = Record::read()?;
    cgroups::kill_all()?;
    network::remove()?;
    cgroups::remove()?;
    state.remove_all_but_logs()?;
    if let Some(record) = record {
        settings::restore(&record.settings)?;
        for folder in record.folders {
            // What somebody else has put there since is theirs.
            let _kept = std::fs::remove_dir(folder);
        }
    }
    Record::forget()?;
    let left = left_behind(state)?;
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    Ok(())
}

/// Names of everything on the machine that a cluster makes.
fn left_behind(state: &State) -> Result<Vec<String>> {
    let mut left = network::left()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    let points =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| Path::new(at).starts_with(state.folder()));
    left.extend(points.map(|point| format!("mount {point}")));
    left.extend(cgroups::members()?.iter().map(|id| format!("process {id}")));
    left.extend(cgroups::left()?.iter().map(|group| format!("control group {}", group.display())));
    if Record::is_left() {
        left.push("the machine's record of its cluster".to_owned());
    }
    Ok(left)
}
