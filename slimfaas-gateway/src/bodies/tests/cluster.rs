//! Gateway nodes, as far as bodies are concerned.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::bodies::{Bodies, Missing, Options, Stored, UploadError};
use crate::drain;
use crate::model::function::FunctionId;
use crate::model::peer::Peer;
use crate::peer::key::{KeySource, Keys};
use crate::peer::{Kind, Node, NodeOptions};
use crate::queue::command::{Command, Enqueue, Reply};
use crate::queue::element::{ElementId, End, Place, Policy};
use crate::queue::request::{Body, BodyFile, StoredRequest};
use crate::store::{self, Delivery, DiskWriter, Effect, LOG_BYTES, Store, StoreError};

/// Longer than until a node looks for what it lacks by itself.
pub(super) const WAIT: Duration = Duration::from_secs(60);

/// Not a multiple of a part, and more of them than may wait.
pub(super) const BYTES: usize = 2_500_001;

pub(super) struct TestNode {
    pub(super) bodies: Bodies,
    pub(super) store: Store,
    pub(super) deliveries: mpsc::UnboundedReceiver<Delivery>,
    tasks: JoinSet<()>,
    _drain: drain::Trigger,
}

pub(super) struct Cluster {
    pub(super) nodes: BTreeMap<String, TestNode>,
    listed: watch::Sender<Arc<[Peer]>>,
    folder: tempfile::TempDir,
}

pub(super) fn id(number: u8) -> ElementId {
    ElementId([number; 16])
}

/// Bytes that differ everywhere.
pub(super) fn content(seed: u64) -> Vec<u8> {
    (0..BYTES as u64).map(|at| ((at + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

impl Cluster {
    pub(super) async fn of(names: &[&str]) -> Self {
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            listed: watch::Sender::new(Arc::from([])),
            folder: tempfile::tempdir().unwrap(),
        };
        for name in names {
            cluster.start(name).await;
        }
        cluster.until_voters(names.len()).await;
        cluster
    }

    pub(super) async fn start(&mut self, name: &str) {
        self.start_with(name, 0).await;
    }

    /// `reserve`: what bodies leave free on its disk.
    pub(super) async fn start_with(&mut self, name: &str, reserve: u64) {
        let keys = KeySource::Fixed(Keys::parse(&"k".repeat(32)).unwrap());
        let listen = ([127, 0, 0, 1], 0).into();
        let node = Node::bind(NodeOptions { listen, name: name.into(), keys }).unwrap();
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let address = node.address();
        self.listed.send_modify(|listed| {
            let others = listed.iter().filter(|peer| &*peer.name != name).cloned();
            *listed = others.chain([Peer { name: name.into(), address, ready: true }]).collect();
        });
        let options = || store::Options {
            name: name.into(),
            folder: folder.clone(),
            backend: None,
            writer: DiskWriter::Thread,
            transport: Arc::new(node.client()),
            peers: self.listed.subscribe(),
            found_after: Duration::ZERO,
            log_bytes: LOG_BYTES,
        };
        let opened = async {
            loop {
                // The tasks of a killed node hold its file until each was dropped.
                match Store::open(options()).await {
                    Err(StoreError::Unopened(problem)) if problem.contains("already open") => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    opened => return opened.unwrap(),
                }
            }
        };
        let opened = tokio::time::timeout(WAIT, opened).await.expect("the former node's file is released");
        let (store, running, mut effects) = opened;
        let (bodies, work) = Bodies::open(Options {
            name: name.into(),
            folder: folder.join("bodies"),
            reserve,
            store: store.clone(),
            client: Some(node.client()),
            peers: self.listed.subscribe(),
        })
        .unwrap();
        [Kind::Raft, Kind::Snapshot].into_iter().for_each(|kind| node.register(kind, Arc::new(store.clone())));
        node.register(Kind::BodyWrite, bodies.writes());
        node.register(Kind::BodyRead, bodies.reads());
        let (drain, drained) = drain::channel();
        let mut tasks = JoinSet::new();
        let listed = self.listed.subscribe();
        tasks.spawn(async move { node.run(listed, drained).await.unwrap() });
        tasks.spawn(running.run(std::future::pending()));
        tasks.spawn(work.run(std::future::pending()));
        let (deliver, deliveries) = mpsc::unbounded_channel();
        let of = bodies.clone();
        tasks.spawn(async move {
            while let Some(effect) = effects.recv().await {
                match effect {
                    Effect::Deliver(delivery) => drop(deliver.send(delivery)),
                    Effect::ReleaseBody { element, .. } => of.release(element),
                    Effect::Revoke { .. } | Effect::RevokeAll => {}
                }
            }
        });
        self.nodes.insert(name.to_owned(), TestNode { bodies, store, deliveries, tasks, _drain: drain });
    }

    /// As kill -9 does; its address stays listed.
    pub(super) async fn kill(&mut self, name: &str) {
        let mut node = self.nodes.remove(name).unwrap();
        node.tasks.shutdown().await;
        node.store.abort().await;
    }

    pub(super) async fn until_voters(&self, count: usize) {
        for node in self.nodes.values() {
            let mut role = node.store.role();
            let settled = role.wait_for(|role| role.voters == count && role.leader.is_some());
            tokio::time::timeout(WAIT, settled).await.expect("the membership settles").unwrap();
        }
    }

    pub(super) fn bodies(&self, name: &str) -> &Bodies {
        &self.nodes[name].bodies
    }

    pub(super) fn path(&self, name: &str, id: ElementId) -> PathBuf {
        self.folder.path().join(name).join("bodies").join(id.to_string())
    }

    /// Names of the files that a node has.
    pub(super) fn files(&self, name: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path().join(name).join("bodies")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(super) async fn until_files(&self, name: &str, expected: &[String]) {
        until(&format!("{name} has {expected:?}"), || self.files(name) == expected).await;
    }

    /// Uploads through one node, and stores the element.
    pub(super) async fn enqueue(&self, name: &str, id: ElementId, bytes: &[u8]) -> BodyFile {
        let stored = upload(self.bodies(name), id, bytes).await.unwrap();
        let file = stored.file;
        assert_eq!(self.nodes[name].propose(enqueue(id, file)).await, Reply::Done);
        stored.keep();
        file
    }

    /// As the queue's worker does it.
    pub(super) async fn read(&self, name: &str, id: ElementId, file: BodyFile) -> Result<Vec<u8>, Missing> {
        let opened = tokio::time::timeout(WAIT, self.bodies(name).open_file(id, file)).await.expect("it is opened");
        let mut bytes = Vec::new();
        opened?.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }

    /// Has a node look for what it lacks.
    pub(super) fn hurry(&self, name: &str) {
        self.bodies(name).0.hurry.notify_one();
    }
}

impl TestNode {
    pub(super) async fn propose(&self, command: Command) -> Reply {
        self.store.propose(command, WAIT).await.unwrap()
    }

    pub(super) async fn complete(&self, element: ElementId, attempt: u32) {
        self.propose(Command::Complete { element, attempt, end: End::Status(200) }).await;
    }
}

pub(super) async fn upload(bodies: &Bodies, id: ElementId, bytes: &[u8]) -> Result<Stored, UploadError> {
    let mut upload = bodies.upload(id, Some(bytes.len() as u64)).await?;
    for piece in bytes.chunks(100_000) {
        upload.write(Bytes::copy_from_slice(piece)).await?;
    }
    tokio::time::timeout(2 * WAIT, upload.finish()).await.expect("an upload ends")
}

pub(super) fn enqueue(id: ElementId, file: BodyFile) -> Command {
    let request = StoredRequest {
        method: "POST".to_owned(),
        path_and_query: "/".to_owned(),
        headers: Vec::new(),
        body: Body::File(file),
    };
    Command::Enqueue(Enqueue {
        id,
        function: FunctionId::new("demo", "f"),
        policy: Policy { timeout_ms: 5000, retry_delays_ms: Vec::new(), retry_statuses: Vec::new() },
        request: request.encode(),
        place: Place::default(),
        body_file: Some(file),
    })
}

pub(super) fn budget(slots: u32) -> Command {
    Command::Budget { function: FunctionId::new("demo", "f"), slots }
}

pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = crate::clock::now() + WAIT;
    while !done() {
        assert!(crate::clock::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
