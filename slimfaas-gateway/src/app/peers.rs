//! The channel to the other gateway nodes, wired.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::app::source::Peers;
use crate::config::Config;
use crate::drain;
use crate::model::peer::Peer;
use crate::peer::activity::Activity;
use crate::peer::key::KeySource;
use crate::peer::{self, BindError, Node, NodeOptions};
use crate::scaler::{Authority, WakeHandle};
use crate::table::Table;
use crate::telemetry::metrics::{Metrics, MetricsError};

/// What connects this node to its peers; not running yet.
pub(super) struct Channel {
    membership: watch::Receiver<Arc<[Peer]>>,
    /// `None`: there is no key, so there is no port.
    port: Option<Port>,
}

struct Port {
    node: Node,
    activity: Activity,
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
        membership: watch::Receiver<Arc<[Peer]>>,
        table: &Arc<Table>,
        metrics: &Metrics,
        wake: WakeHandle,
    ) -> Result<Self, PeersError> {
        let Some(file) = &config.peer.key_file else { return Ok(Self { membership, port: None }) };
        let node = Node::bind(NodeOptions {
            listen: SocketAddr::new(config.listen.address, config.peer.port),
            name: config.pod_name.as_str().into(),
            keys: KeySource::File(file.clone()),
        })?;
        metrics.add_peers(&node.stats())?;
        let activity = Activity::new(&node, Arc::clone(table), membership.clone(), move || wake.request());
        Ok(Self { membership, port: Some(Port { node, activity }) })
    }

    /// Who this node is for the scaler. Without a channel it knows everything only while it is alone.
    pub(super) fn authority(&self, peers: &Peers) -> Authority {
        let knows_all = self.port.as_ref().map_or_else(|| peers.alone.clone(), |port| port.activity.is_complete());
        Authority::new(peers.leads.clone(), knows_all)
    }

    /// The port, if there is one.
    pub(super) fn node(&self) -> Option<&Node> {
        self.port.as_ref().map(|port| &port.node)
    }

    /// The other nodes.
    pub(super) fn membership(&self) -> watch::Receiver<Arc<[Peer]>> {
        self.membership.clone()
    }

    /// Talks until `end`.
    pub(super) async fn run(self, end: drain::Watch) {
        let Some(Port { node, activity }) = self.port else {
            return peer::run_without(self.membership, end).await;
        };
        let (ran, ()) = tokio::join!(node.run(self.membership, end.clone()), activity.run(end));
        if let Err(error) = ran {
            tracing::error!(%error, "the peer port failed: this gateway no longer knows what others do");
        }
    }
}
