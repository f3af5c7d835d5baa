//! The channel to the other gateway nodes, wired.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::app::agents::AgentService;
use crate::app::source::Peers;
use crate::config::Config;
use crate::drain;
use crate::identity::table::Table as Identities;
use crate::model::peer::Peer;
use crate::peer::activity::Activity;
use crate::peer::{self, BindError, Kind, Node, NodeOptions};
use crate::scaler::{Authority, WakeHandle};
use crate::table::Table;
use crate::telemetry::metrics::{Metrics, MetricsError};

/// What connects this node to its peers; not running yet.
pub(super) struct Channel {
    membership: watch::Receiver<Arc<[Peer]>>,
    listed: watch::Receiver<bool>,
    /// `None`: there is no key, so there is no port.
    port: Option<Port>,
}

struct Port {
    node: Node,
    /// `None`: there is nothing to tell.
    activity: Option<Activity>,
}

#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

impl Channel {
    /// Binds the peer port. `wake` is the scaler's: calls on other nodes wake functions too.
    pub(super) fn bind(
        config: &Config,
        peers: &Peers,
        table: &Arc<Table>,
        metrics: &Metrics,
        wake: WakeHandle,
    ) -> Result<Self, PeersError> {
        let membership = peers.membership.clone();
        let listed = peers.listed.clone();
        let Some(keys) = peers.keys.clone() else { return Ok(Self { membership, listed, port: None }) };
        let node = Node::bind(NodeOptions {
            listen: SocketAddr::new(config.listen.address, config.peer.port),
            name: config.pod_name.as_str().into(),
            keys,
        })?;
        metrics.add_peers(&node.stats())?;
        let activity = || Activity::new(&node, Arc::clone(table), membership.clone(), move || wake.request());
        let activity = (!peers.share_table).then(activity);
        Ok(Self { membership, listed, port: Some(Port { node, activity }) })
    }

    /// Who this node is for the scaler.
    pub(super) fn authority(&self, peers: &Peers) -> Authority {
        let activity = self.port.as_ref().and_then(|port| port.activity.as_ref());
        let knows_all = activity.map_or_else(|| peers.knows_all.clone(), Activity::is_complete);
        Authority::new(peers.leads.clone(), knows_all)
    }

    /// Has the node agents told whom the kernel is to know; without a port nobody can ask.
    pub(super) fn serve_agents(&self, table: watch::Receiver<Arc<Identities>>) {
        if let Some(Port { node, .. }) = &self.port {
            let service = AgentService::new(table, node.client(), self.membership());
            node.register(Kind::Agent, Arc::new(service));
        }
    }

    /// The port, if there is one.
    pub(super) fn node(&self) -> Option<&Node> {
        self.port.as_ref().map(|port| &port.node)
    }

    /// The other nodes.
    pub(super) fn membership(&self) -> watch::Receiver<Arc<[Peer]>> {
        self.membership.clone()
    }

    /// Whether `membership` is known.
    pub(super) fn is_listed(&self) -> watch::Receiver<bool> {
        self.listed.clone()
    }

    /// Talks until `end`.
    pub(super) async fn run(self, end: drain::Watch) {
        let Some(Port { node, activity }) = self.port else {
            return peer::run_without(self.membership, end).await;
        };
        let telling = end.clone();
        let tell = async move {
            if let Some(activity) = activity {
                activity.run(telling).await;
            }
        };
        let (ran, ()) = tokio::join!(node.run(self.membership, end), tell);
        if let Err(error) = ran {
            tracing::error!(%error, "the peer port failed: this gateway no longer knows what others do");
        }
    }
}
