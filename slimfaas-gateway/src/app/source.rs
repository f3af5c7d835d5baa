//! Which cluster feeds the table, wired from what the command line and the environment say.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use crate::cluster::fixed::FixedCluster;
use crate::cluster::kube::{ConnectError, KubeCluster, KubeOptions};
use crate::cluster::local::manifest::Manifest;
use crate::cluster::local::{LocalCluster, LocalOptions, Output, StateDirectory, StateError};
use crate::cluster::{Cluster, ClusterFuture};
use crate::config::url_template::{UrlError, UrlTemplate};
use crate::config::{Config, fixed_functions};
use crate::drain;
use crate::model::caller::Caller;
use crate::model::peer::Peer;
use crate::model::problem::Problem;
use crate::readiness::Readiness;
use crate::table::{CallerIndex, Table};

/// Where the functions come from, and what goes with it.
pub struct Source {
    /// What the cluster writes.
    pub table: Arc<Table>,
    pub cluster: Arc<dyn Cluster>,
    pub callers: Arc<dyn CallerIndex>,
    /// Sees each change of what `Cluster::dependency_ready` answers, where it can change.
    pub dependency_changes: Option<watch::Receiver<u64>>,
    /// Where there can be other gateway nodes.
    pub peers: Option<Peers>,
    /// Runs until the given signal; ends what the cluster started. Holds the process unready until it knows the
    /// functions.
    pub worker: Box<dyn FnOnce(Readiness, drain::Watch) -> ClusterFuture<'static, ()> + Send>,
}

/// This gateway node among the others.
pub struct Peers {
    /// Whether this node does what only one may do.
    pub leads: watch::Receiver<bool>,
    /// The other nodes.
    pub membership: watch::Receiver<Arc<[Peer]>>,
    /// Whether there is no other.
    pub alone: watch::Receiver<bool>,
}

/// Child processes of this one.
pub fn local(manifest: Manifest, clean: bool, config: &Config) -> Result<Source, StateError> {
    let table = Table::new(&config.namespace);
    let state = StateDirectory::open(&manifest, clean)?;
    // Ties the life of the processes to ours; without it they run all the same.
    let wrapper: Option<PathBuf> = std::env::current_exe().ok();
    let options = LocalOptions { output: Output::to_stdout(config.log.no_color), wrapper };
    let cluster = LocalCluster::new(manifest, state, Arc::clone(&table), &config.namespace, options);
    let running = Arc::clone(&cluster);
    Ok(Source {
        table,
        callers: cluster.callers(),
        dependency_changes: Some(cluster.dependency_changes()),
        peers: None,
        worker: Box::new(move |_readiness, mut end| {
            Box::pin(async move { running.run(async { end.signaled().await }).await })
        }),
        cluster,
    })
}

/// The list of `MOCK_KUBERNETES_FUNCTIONS`. The second part is what it says that is not used.
pub fn fixed(text: &str, config: &Config) -> Result<(Source, Vec<Problem>), Vec<Problem>> {
    let table = Table::new(&config.namespace);
    let template = UrlTemplate::parse(&config.base_function_url)
        .map_err(|error| vec![Problem::new("BASE_FUNCTION_URL", error.to_string())])?;
    let functions = fixed_functions::parse(text, &template, &config.namespace)?;
    let source = Source {
        table: Arc::clone(&table),
        cluster: Arc::new(FixedCluster::new(functions.functions, &config.namespace, &table)),
        callers: Arc::new(NobodyKnown),
        dependency_changes: None,
        peers: None,
        worker: Box::new(|_readiness, mut end| Box::pin(async move { end.signaled().await })),
    };
    Ok((source, functions.warnings))
}

/// The workloads of a Kubernetes cluster.
pub async fn kubernetes(config: &Config) -> Result<Source, KubernetesError> {
    let table = Table::new(&config.namespace);
    let options = KubeOptions {
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
        dependency_changes: Some(cluster.dependency_changes()),
        peers: Some(Peers { leads: cluster.leads(), membership: cluster.peers(), alone: cluster.is_alone() }),
        worker: Box::new(move |readiness, end| {
            // Before the first poll, so that there is no moment at which it seems ready.
            let listed = readiness.block("the first list of functions and pods from the API server");
            Box::pin(running.run(listed, end))
        }),
        cluster,
    })
}

#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
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
