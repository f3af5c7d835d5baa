//! Functions as Deployments and StatefulSets of a Kubernetes cluster.
//!
//! `watches` follows the API server; `workload`, `pod` and `serving` reduce its objects to facts; `index` puts the
//! facts together; `worker` writes the table and has pods probed (`proof`). Nothing here is on a request's path: when
//! the API server is away, everything goes on with what was last known.

mod events;
mod index;
mod jobs;
mod lease;
pub mod node;
mod pod;
mod proof;
mod scale;
mod serving;
mod watches;
mod worker;
mod workload;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Client;
use tokio::sync::watch;

use slimfaas_ebpf::contract::{Identity, Key};

use self::events::{Announcements, Announcer};
use self::index::Index;
use self::jobs::KubeJobs;
use crate::cluster::{Cluster, ClusterFuture, ScaleError, Scaling};
use crate::config::url_template::UrlTemplate;
use crate::identity::table::Table as Identities;
use crate::model::caller::Caller;
use crate::model::function::FunctionId;
use crate::model::peer::Peer;
use crate::model::spec::Dependency;
use crate::table::{CallerIndex, IdentityIndex, Table};

/// The API server's name of an object; never used again.
type Uid = Arc<str>;

/// What the caller of [`KubeCluster::connect`] decides.
pub struct KubeOptions {
    /// The gateway's own; its Lease lives there.
    pub namespace: String,
    /// Further ones whose functions are served.
    pub other_namespaces: Vec<String>,
    pub template: UrlTemplate,
    /// Of this gateway, as Kubernetes calls it.
    pub pod_name: String,
    /// Where nodes reach each other.
    pub peer_port: u16,
    /// Makes identities of names; without it the kernel's word on callers is not understood.
    pub salt: Option<Key>,
}

/// The functions of some namespaces. Watches nothing before [`KubeCluster::run`].
pub struct KubeCluster {
    client: Client,
    options: KubeOptions,
    table: Arc<Table>,
    index: Mutex<Index>,
    announcer: Announcer,
    announcements: Mutex<Option<Announcements>>,
    /// The workload that runs the gateway itself, once its pod has been seen.
    own_workload: Mutex<Option<Uid>>,
    dependencies: watch::Sender<u64>,
    peers: watch::Sender<Arc<[Peer]>>,
    listed: watch::Sender<bool>,
    leads: watch::Sender<bool>,
    alone: watch::Sender<bool>,
    identities: watch::Sender<Arc<Identities>>,
    jobs: KubeJobs,
}

#[derive(Debug, thiserror::Error)]
#[error("no way to the API server: {0:#} (in a pod, check its service account; elsewhere, check KUBECONFIG)")]
pub struct ConnectError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl KubeCluster {
    /// Finds the API server: the pod's service account, or a kubeconfig. Asks it nothing yet.
    pub async fn connect(options: KubeOptions, table: Arc<Table>) -> Result<Arc<Self>, ConnectError> {
        let client = Client::try_default().await.map_err(|error| ConnectError(error.into()))?;
        let (announcer, announcements) = events::channel();
        Ok(Arc::new(Self {
            client,
            table,
            index: Mutex::new(Index::new(options.template.clone())),
            announcer,
            announcements: Mutex::new(Some(announcements)),
            own_workload: Mutex::default(),
            dependencies: watch::Sender::new(0),
            peers: watch::Sender::new(Arc::new([])),
            listed: watch::Sender::new(false),
            leads: watch::Sender::new(false),
            alone: watch::Sender::new(true),
            identities: watch::Sender::default(),
            jobs: KubeJobs::new(),
            options,
        }))
    }

    /// Sees each change of what `dependency_ready` answers.
    pub fn dependency_changes(&self) -> watch::Receiver<u64> {
        self.dependencies.subscribe()
    }

    /// The other gateway nodes.
    pub fn peers(&self) -> watch::Receiver<Arc<[Peer]>> {
        self.peers.subscribe()
    }

    /// Whether it is known which pods there are; until then nobody knows the other nodes.
    pub fn is_listed(&self) -> watch::Receiver<bool> {
        self.listed.subscribe()
    }

    /// Whether this node does what only one may do.
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Whether there is no other gateway node.
    pub fn is_alone(&self) -> watch::Receiver<bool> {
        self.alone.subscribe()
    }

    /// Whom the kernel is to know, and what it is to guard; empty before everything has been listed, and without salt.
    pub fn identities(&self) -> watch::Receiver<Arc<Identities>> {
        self.identities.subscribe()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own_workload(&self) -> MutexGuard<'_, Option<Uid>> {
        self.own_workload.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cluster for KubeCluster {
    fn scale<'a>(&'a self, scaling: &'a Scaling) -> ClusterFuture<'a, Result<(), ScaleError>> {
        Box::pin(self.patch_scale(scaling))
    }

    /// Any Deployment or StatefulSet of the function's namespace: ready when one of its pods is.
    fn dependency_ready(&self, function: &FunctionId, name: &Dependency) -> Option<bool> {
        match name {
            Dependency::Workload(name) => self.index().dependency_ready(&FunctionId::new(&function.namespace, name)),
            Dependency::Process(_) => None,
        }
    }
}

/// Who calls, by the exact address of its pod: what is known where no agent tells more. Host-network pods and
/// processes of nodes are outside.
impl CallerIndex for KubeCluster {
    fn identify(&self, peer: SocketAddr, _local: SocketAddr) -> Pin<Box<dyn Future<Output = Caller> + Send + '_>> {
        let own = self.own_workload().clone();
        let caller = self.index().caller(peer.ip().to_canonical(), own.as_ref());
        Box::pin(std::future::ready(caller.unwrap_or(Caller::Outside)))
    }
}

/// Who calls, by the tag that the caller's kernel has put into its SYN.
impl IdentityIndex for KubeCluster {
    fn caller(&self, identity: u32) -> Caller {
        self.identities.borrow().caller(Identity(identity))
    }
}
