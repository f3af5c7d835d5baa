//! What the node agents ask of a gateway: whom the kernel is to know, and what it is to guard.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::identity::table::{Policy, Table};
use crate::identity::{digest, encode};
use crate::net;
use crate::peer::{Answer, Failure, Service};

/// How long an agent's question waits for news; shorter than the agent's own deadline.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks whether an agent has come to this node, which nobody tells.
const LOOK_EVERY: Duration = Duration::from_secs(2);

pub(super) struct AgentService {
    table: watch::Receiver<Arc<Table>>,
}

impl AgentService {
    pub(super) fn new(table: watch::Receiver<Arc<Table>>) -> Self {
        Self { table }
    }

    async fn answer(&self, known: &[u8]) -> Bytes {
        let mut table = self.table.clone();
        let news = async {
            loop {
                let policy = encode(&told(&table.borrow_and_update().policy, is_tagged()));
                if digest(&policy) != known {
                    return Bytes::from(policy);
                }
                // Either something changes, or it is time to look again.
                let _waited = tokio::time::timeout(LOOK_EVERY, table.changed()).await;
            }
        };
        tokio::time::timeout(PATIENCE, news).await.unwrap_or_default()
    }
}

impl Service for AgentService {
    /// The question is the digest of what the agent knows; the answer is empty when that is still so.
    fn serve(&self, _from: Arc<str>, request: Bytes) -> Answer<'_> {
        Box::pin(async move {
            // Before the first list of the cluster, everybody would be unknown.
            let listed = self.table.clone().wait_for(|table| !table.policy.known.is_empty()).await.is_ok();
            if !listed {
                return Err(Failure("this gateway is ending".to_owned()));
            }
            Ok(self.answer(&request).await)
        })
    }
}

/// Nothing is guarded while this gateway's own connections bear no tag: the guard would shut it out.
fn told(policy: &Policy, is_tagged: bool) -> Policy {
    let mut policy = policy.clone();
    if !is_tagged {
        policy.guarded.clear();
        policy.exclusions.clear();
    }
    policy
}

/// Whether an agent's programs run on this node: they answer on any socket.
fn is_tagged() -> bool {
    net::kernel_tells_callers()
}
