//! Nodes in one process, with real files, on a network that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::model::function::FunctionId;
use crate::model::peer::Peer;
use crate::queue::command::{Command, Enqueue, Reply};
use crate::queue::element::{ElementId, End, Place, Policy};
use crate::store::transport::{Calling, Lane, Transport, TransportError};
use crate::store::{DiskWriter, Effect, Effects, Options, Store, StoreError};

pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// Carries calls between the nodes of one test.
#[derive(Default)]
pub(crate) struct Net {
    served: Mutex<BTreeMap<SocketAddr, Store>>,
    /// Pairs that do not hear each other, in both orders.
    cut: Mutex<BTreeSet<(SocketAddr, SocketAddr)>>,
    /// Calls arrive and their answers do not.
    mute: Mutex<BTreeSet<(SocketAddr, SocketAddr)>>,
    /// Calls that carry a snapshot, made so far.
    pub(crate) snapshot_calls: AtomicU64,
}

pub(crate) struct Port {
    pub(crate) net: Arc<Net>,
    pub(crate) at: SocketAddr,
}

impl Transport for Port {
    fn call(&self, to: SocketAddr, lane: Lane, payload: Bytes, timeout: Duration) -> Calling<'_> {
        if lane == Lane::Snapshot {
            self.net.snapshot_calls.fetch_add(1, Ordering::Relaxed);
        }
        Box::pin(async move {
            let store = self.net.served.lock().unwrap().get(&to).cloned();
            let is_cut = || self.net.cut.lock().unwrap().contains(&(self.at, to));
            let Some(store) = store.filter(|_| !is_cut()) else {
                return Err(TransportError::NotSent(format!("{to} is away")));
            };
            let answer = tokio::time::timeout(timeout, store.serve(payload)).await;
            if is_cut() || self.net.mute.lock().unwrap().contains(&(self.at, to)) {
                return Err(TransportError::NotAnswered(format!("{to} was cut off")));
            }
            answer.map_err(|_late| TransportError::NotAnswered(format!("{to} is slow")))
        })
    }
}

pub(crate) struct TestNode {
    pub(crate) store: Store,
    pub(crate) effects: Effects,
    pub(crate) at: SocketAddr,
    stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
}

pub(crate) struct Cluster {
    pub(crate) net: Arc<Net>,
    pub(crate) listed: watch::Sender<Arc<[Peer]>>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) nodes: BTreeMap<String, TestNode>,
    next_port: u16,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listed = watch::Sender::new(Arc::new([]) as Arc<[Peer]>);
        Self { net: Arc::default(), listed, folder, nodes: BTreeMap::new(), next_port: 1 }
    }

    pub(crate) async fn of(names: &[&str]) -> Self {
        let mut cluster = Self::new();
        for name in names {
            cluster.start(name).await;
        }
        cluster.until_voters(names.len()).await;
        cluster
    }

    pub(crate) async fn start(&mut self, name: &str) {
        // As pods do, it comes back with another address.
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, self.next_port));
        self.next_port += 1;
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        self.list(name, Some(at));
        let opened = async {
            loop {
                // The tasks of a killed node hold its file until each was dropped.
                match open(&self.net, name, &folder, at, self.listed.subscribe()).await {
                    Err(StoreError::Unopened(problem)) if problem.contains("already open") => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    opened => return opened.unwrap(),
                }
            }
        };
        let node = tokio::time::timeout(WAIT, opened).await.expect("the former node's file is released");
        self.nodes.insert(name.to_owned(), node);
    }

    pub(crate) fn list(&self, name: &str, at: Option<SocketAddr>) {
        self.listed.send_modify(|listed| {
            let others = listed.iter().filter(|peer| &*peer.name != name).cloned();
            let this = at.map(|address| Peer { name: name.into(), address, ready: true });
            *listed = others.chain(this).collect();
        });
    }

    /// Ends a node's tasks and closes its file without a word to its peers, as kill -9 does.
    pub(crate) async fn kill(&mut self, name: &str) {
        let mut node = self.nodes.remove(name).unwrap();
        self.net.served.lock().unwrap().remove(&node.at);
        node.tasks.shutdown().await;
        node.store.abort().await;
    }

    /// Ends a node politely.
    pub(crate) async fn stop(&mut self, name: &str) {
        let mut node = self.nodes.remove(name).unwrap();
        node.stop.send(()).unwrap();
        node.tasks.join_next().await.unwrap().unwrap();
        self.net.served.lock().unwrap().remove(&node.at);
    }

    pub(crate) fn store(&self, name: &str) -> Store {
        self.nodes[name].store.clone()
    }

    /// Cuts a node off from all others, or joins it again.
    pub(crate) fn cut(&self, name: &str, is_cut: bool) {
        let at = self.nodes[name].at;
        let mut cut = self.net.cut.lock().unwrap();
        for node in self.nodes.values().filter(|node| node.at != at) {
            for pair in [(at, node.at), (node.at, at)] {
                if is_cut {
                    cut.insert(pair);
                } else {
                    cut.remove(&pair);
                }
            }
        }
    }

    /// The answers to one node's calls do not arrive any more.
    pub(crate) fn mute(&self, name: &str, is_mute: bool) {
        let at = self.nodes[name].at;
        let mut mute = self.net.mute.lock().unwrap();
        for node in self.nodes.values() {
            if is_mute {
                mute.insert((at, node.at));
            } else {
                mute.remove(&(at, node.at));
            }
        }
    }

    pub(crate) async fn until_voters(&self, count: usize) {
        for node in self.nodes.values() {
            let mut role = node.store.role();
            let settled = role.wait_for(|role| role.voters == count && role.leader.is_some());
            tokio::time::timeout(WAIT, settled).await.expect("the membership settles").unwrap();
        }
    }

    /// The name of the node that leads, in its own eyes.
    pub(crate) async fn leader(&self) -> String {
        let found = async {
            loop {
                for (name, node) in &self.nodes {
                    if node.store.role().borrow().leads {
                        return name.clone();
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(WAIT, found).await.expect("a leader is elected")
    }
}

pub(crate) async fn open(
    net: &Arc<Net>,
    name: &str,
    folder: &Path,
    at: SocketAddr,
    peers: watch::Receiver<Arc<[Peer]>>,
) -> Result<TestNode, StoreError> {
    let options = Options {
        name: name.into(),
        folder: folder.to_owned(),
        backend: None,
        writer: DiskWriter::Thread,
        transport: Arc::new(Port { net: Arc::clone(net), at }),
        peers,
        found_after: Duration::ZERO,
        log_bytes: 1 << 20,
    };
    let (store, running, effects) = Store::open(options).await?;
    net.served.lock().unwrap().insert(at, store.clone());
    let (stop, stopped) = oneshot::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(running.run(async {
        let _dropped = stopped.await.is_err();
    }));
    Ok(TestNode { store, effects, at, stop, tasks })
}

pub(crate) fn id(number: u64) -> ElementId {
    ElementId(u128::from(number).to_be_bytes())
}

pub(crate) fn function(name: &str) -> FunctionId {
    FunctionId::new("demo", name)
}

pub(crate) fn enqueue(number: u64, name: &str) -> Command {
    let policy = Policy { timeout_ms: 5000, retry_delays_ms: vec![50], retry_statuses: vec![500] };
    let request = number.to_be_bytes().repeat(128).into();
    Command::Enqueue(Enqueue {
        id: id(number),
        function: function(name),
        policy,
        request,
        place: Place::default(),
        body_file: None,
    })
}

pub(crate) fn budget(name: &str, slots: u32) -> Command {
    Command::Budget { function: function(name), slots }
}

impl TestNode {
    pub(crate) async fn propose(&self, command: Command) -> Reply {
        self.store.propose(command, WAIT).await.unwrap()
    }

    /// The next delivery: its element and try.
    pub(crate) async fn delivery(&mut self) -> (ElementId, u32, u32) {
        loop {
            let effect =
                tokio::time::timeout(WAIT, self.effects.recv()).await.expect("something is delivered").unwrap();
            if let Effect::Deliver(delivery) = effect {
                let assignment = delivery.assignment;
                return (assignment.element, assignment.attempt, assignment.try_number);
            }
        }
    }

    pub(crate) async fn complete(&self, element: ElementId, attempt: u32, status: u16) -> Reply {
        self.propose(Command::Complete { element, attempt, end: End::Status(status) }).await
    }
}
