//! Which cluster feeds the table, wired from what the command line and the environment say.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use slimfaas_ebpf::contract::Key;
use tokio::sync::watch;

use crate::cluster::fixed::{FixedCluster, Nodes};
use crate::cluster::jobs::JobRunner;
use crate::cluster::kube::{ConnectError, KubeCluster, KubeOptions};
use crate::cluster::local::manifest::Manifest;
use crate::cluster::local::{LocalCluster, LocalOptions, Output, StateDirectory, StateError};
use crate::cluster::{Cluster, ClusterFuture};
use crate::config::url_template::{UrlError, UrlTemplate};
use crate::config::{Config, fixed_functions};
use crate::drain;
use crate::identity::keys;
use crate::identity::table::Table as Identities;
use crate::model::caller::Caller;
use crate::model::peer::Peer;
use crate::model::problem::Problem;
use crate::peer::key::{KeySource, Keys};
use crate::readiness::Readiness;
use crate::table::{CallerIndex, IdentityIndex, Table};

/// Where the functions come from, and what goes with it.
pub struct Source {
    /// What the cluster writes.
    pub table: Arc<Table>,
    pub cluster: Arc<dyn Cluster>,
    /// Where jobs can be run.
    pub jobs: Option<Arc<dyn JobRunner>>,
    pub callers: Arc<dyn CallerIndex>,
    /// Where the kernel's word on callers is understood.
    pub identities: Option<Identified>,
    /// Sees each change of what `Cluster::dependency_ready` answers, where it can change.
    pub dependency_changes: Option<watch::Receiver<u64>>,
    /// Where there can be other gateway nodes.
    pub peers: Option<Peers>,
    /// Runs until the given signal; ends what the cluster started. Holds the process unready until it knows the
    /// functions.
    pub worker: Box<dyn FnOnce(Readiness, drain::Watch) -> ClusterFuture<'static, ()> + Send>,
}

/// Workloads as the kernel knows them.
pub struct Identified {
    pub index: Arc<dyn IdentityIndex>,
    /// What the agents are to be told.
    pub table: watch::Receiver<Arc<Identities>>,
}

/// This gateway node among the others.
#[derive(Clone)]
pub struct Peers {
    /// `None`: there is no port to reach it.
    pub keys: Option<KeySource>,
    /// Whether this node does what only one may do.
    pub leads: watch::Receiver<bool>,
    /// The other nodes.
    pub membership: watch::Receiver<Arc<[Peer]>>,
    /// Whether `membership` is known yet.
    pub listed: watch::Receiver<bool>,
    /// Whether every call is known here without a word from the others.
    pub knows_all: watch::Receiver<bool>,
    /// All nodes are in this process and have one table: there is nothing to tell each other.
    pub share_table: bool,
}

/// Child processes of this one, for each of the manifest's nodes: its configuration, and what it serves. The first one
/// leads.
pub fn local(manifest: Manifest, clean: bool, config: &Config) -> Result<Vec<(Config, Source)>, StateError> {
    let configs: Vec<Config> = (0..manifest.nodes).map(|node| local_node(node, &manifest, config)).collect();
    let table = Table::new(&config.namespace);
    let state = StateDirectory::open(&manifest, clean)?;
    // Ties the life of the processes to ours; without it they run all the same.
    let wrapper: Option<PathBuf> = std::env::current_exe().ok();
    let options = LocalOptions { output: Output::to_stdout(config.log.no_color), wrapper };
    let cluster = LocalCluster::new(manifest, state, Arc::clone(&table), &config.namespace, options);
    let keys = KeySource::Fixed(Keys::random());
    let source = |node: usize| {
        let running = Arc::clone(&cluster);
        let run = move |_readiness: Readiness, mut end: drain::Watch| -> ClusterFuture<'static, ()> {
            Box::pin(async move {
                if node == 0 { running.run(async { end.signaled().await }).await } else { end.signaled().await }
            })
        };
        Source {
            table: Arc::clone(&table),
            callers: cluster.callers(),
            jobs: Some(Arc::<LocalCluster>::clone(&cluster)),
            identities: None,
            dependency_changes: Some(cluster.dependency_changes()),
            peers: (configs.len() > 1).then(|| local_peers(node, &configs, &keys)),
            worker: Box::new(run),
            cluster: Arc::<LocalCluster>::clone(&cluster),
        }
    };
    let sources: Vec<Source> = (0..configs.len()).map(source).collect();
    Ok(configs.into_iter().zip(sources).collect())
}

/// What is different at one of the nodes, counted from 0.
fn local_node(node: u16, manifest: &Manifest, config: &Config) -> Config {
    let mut config = config.clone();
    config.listen.ports = vec![manifest.node_http_port + node];
    if node == 0 {
        config.listen.ports.insert(0, manifest.entrypoint_port);
    }
    let store = config.store_directory.unwrap_or_else(|| manifest.state.directory.join("store"));
    if manifest.nodes == 1 {
        config.store_directory = Some(store);
    } else {
        config.pod_name = format!("slimfaas-{node}");
        config.peer.port = manifest.raft_port + node;
        config.store_directory = Some(store.join(&config.pod_name));
    }
    config
}

/// One of several nodes of this process.
fn local_peers(node: usize, configs: &[Config], keys: &KeySource) -> Peers {
    let others = configs.iter().enumerate().filter(|(other, _)| *other != node);
    let peer = |(_, config): (usize, &Config)| Peer {
        name: config.pod_name.as_str().into(),
        address: SocketAddr::new(config.listen.address, config.peer.port),
        ready: true,
    };
    Peers {
        keys: Some(keys.clone()),
        leads: always(node == 0),
        membership: always(others.map(peer).collect()),
        listed: always(true),
        knows_all: always(true),
        share_table: true,
    }
}

/// The list of `MOCK_KUBERNETES_FUNCTIONS`. The second part is what it says that is not used.
pub fn fixed(text: &str, config: &Config) -> Result<(Source, Vec<Problem>), Vec<Problem>> {
    let table = Table::new(&config.namespace);
    let template = UrlTemplate::parse(&config.base_function_url)
        .map_err(|error| vec![Problem::new("BASE_FUNCTION_URL", error.to_string())])?;
    let functions = fixed_functions::parse(text, &template, &config.namespace)?;
    let nodes = Nodes::new(&config.peer.nodes, &config.pod_name);
    let peers = || Peers {
        keys: key_file(config),
        // There is nothing to lead: nobody scales.
        leads: always(true),
        membership: nodes.peers(),
        listed: always(true),
        knows_all: always(false),
        share_table: false,
    };
    let source = Source {
        table: Arc::clone(&table),
        cluster: Arc::new(FixedCluster::new(functions.functions, &config.namespace, &table)),
        callers: Arc::new(NobodyKnown),
        jobs: None,
        identities: None,
        dependency_changes: None,
        peers: (!config.peer.nodes.is_empty()).then(peers),
        worker: Box::new(|_readiness, mut end| {
            Box::pin(async move {
                tokio::select! {
                    biased; // the end first
                    () = end.signaled() => {}
                    () = nodes.run() => {}
                }
            })
        }),
    };
    Ok((source, functions.warnings))
}

/// The workloads of a Kubernetes cluster.
pub async fn kubernetes(config: &Config) -> Result<Source, KubernetesError> {
    let table = Table::new(&config.namespace);
    let salt = config.identity_salt_file.as_deref().map(read_salt).transpose()?;
    let options = KubeOptions {
        salt,
        namespace: config.namespace.clone(),
        other_namespaces: config.other_namespaces.clone(),
        template: UrlTemplate::parse(&config.base_function_url)?,
        pod_name: config.pod_name.clone(),
        peer_port: config.peer.port,
    };
    let cluster = KubeCluster::connect(options, Arc::clone(&table)).await?;
    let running = Arc::clone(&cluster);
    Ok(Source {
        table,
        callers: Arc::<KubeCluster>::clone(&cluster),
        jobs: Some(Arc::<KubeCluster>::clone(&cluster)),
        identities: salt
            .is_some()
            .then(|| Identified { index: Arc::<KubeCluster>::clone(&cluster), table: cluster.identities() }),
        dependency_changes: Some(cluster.dependency_changes()),
        peers: Some(Peers {
            keys: key_file(config),
            leads: cluster.leads(),
            membership: cluster.peers(),
            listed: cluster.is_listed(),
            knows_all: cluster.is_alone(),
            share_table: false,
        }),
        worker: Box::new(move |readiness, end| {
            // Before the first poll, so that there is no moment at which it seems ready.
            let listed = readiness.block("the first list of functions and pods from the API server");
            Box::pin(running.run(listed, end))
        }),
        cluster,
    })
}

/// What never changes.
pub(super) fn always<T>(value: T) -> watch::Receiver<T> {
    watch::Sender::new(value).subscribe()
}

fn key_file(config: &Config) -> Option<KeySource> {
    config.peer.key_file.clone().map(KeySource::File)
}

fn read_salt(path: &Path) -> Result<Key, KubernetesError> {
    let file = || path.to_owned();
    let text = std::fs::read_to_string(path).map_err(|source| KubernetesError::SaltFile { file: file(), source })?;
    keys::parse(&text).map_err(|source| KubernetesError::Salt { file: file(), source })
}

#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    #[error("cannot read the salt of identities {file}: {source}")]
    SaltFile { file: PathBuf, source: std::io::Error },
    #[error("the salt of identities {file}: {source}")]
    Salt { file: PathBuf, source: keys::KeyFormError },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the template of functions' addresses: {0}")]
    Template(#[from] UrlError),
}

/// Without a cluster that knows its pods nobody can be proven to be inside.
struct NobodyKnown;

impl CallerIndex for NobodyKnown {
    fn identify(&self, _peer: SocketAddr, _local: SocketAddr) -> Pin<Box<dyn Future<Output = Caller> + Send + '_>> {
        Box::pin(std::future::ready(Caller::Outside))
    }
}
