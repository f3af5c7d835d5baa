//! What the node agents ask of a gateway: whom the kernel is to know, and what it is to guard.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::watch;

use crate::clock;
use crate::identity::table::{Policy, Table};
use crate::identity::{digest, encode};
use crate::model::peer::Peer;
use crate::net;
use crate::peer::{Answer, Client, Failure, Kind, Service};

/// How long an agent's question waits for news; shorter than the agent's own deadline.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks whether agents have come to the gateways' nodes, which nobody tells.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// For another gateway to say whether its connections bear tags; one that does not is taken for gone.
const PEER_TIMEOUT: Duration = Duration::from_secs(1);

/// The question of one gateway to another. An agent's is empty or a digest.
const ARE_YOU_TAGGED: &[u8] = b"?";
const YES: &[u8] = b"+";
const NO: &[u8] = b"-";

pub(super) struct AgentService {
    table: watch::Receiver<Arc<Table>>,
    client: Client,
    membership: watch::Receiver<Arc<[Peer]>>,
}

impl AgentService {
    pub(super) fn new(
        table: watch::Receiver<Arc<Table>>,
        client: Client,
        membership: watch::Receiver<Arc<[Peer]>>,
    ) -> Self {
        Self { table, client, membership }
    }

    async fn answer(&self, known: &[u8]) -> Bytes {
        let mut table = self.table.clone();
        let news = async {
            loop {
                let may_guard = self.all_gateways_are_tagged().await;
                let policy = encode(&told(&table.borrow_and_update().policy, may_guard));
                if digest(&policy) != known {
                    return Bytes::from(policy);
                }
                // Either something changes, or it is time to look again.
                let _waited = tokio::time::timeout(LOOK_EVERY, table.changed()).await;
            }
        };
        tokio::time::timeout(PATIENCE, news).await.unwrap_or_default()
    }

    /// A guard would shut out a gateway on a node without an agent: from its functions, and from the other gateways.
    async fn all_gateways_are_tagged(&self) -> bool {
        if !net::kernel_tells_callers() {
            return false;
        }
        let peers = Arc::clone(&self.membership.borrow());
        let deadline = clock::now() + PEER_TIMEOUT;
        let question = || Bytes::from_static(ARE_YOU_TAGGED);
        let calls = peers.iter().map(|peer| self.client.call(peer.address, Kind::Agent, question(), deadline));
        let answers = join_all(calls).await;
        answers.into_iter().flatten().all(|answer| answer != NO)
    }
}

impl Service for AgentService {
    /// An agent's question is the digest of what it knows, or nothing; the answer is empty when that is still so.
    fn serve(&self, _from: Arc<str>, request: Bytes) -> Answer<'_> {
        Box::pin(async move {
            if request == ARE_YOU_TAGGED {
                return Ok(Bytes::from_static(if net::kernel_tells_callers() { YES } else { NO }));
            }
            // Before the first list of the cluster, everybody would be unknown.
            let listed = self.table.clone().wait_for(|table| !table.policy.known.is_empty()).await.is_ok();
            if !listed {
                return Err(Failure("this gateway is ending".to_owned()));
            }
            Ok(self.answer(&request).await)
        })
    }
}

/// What an agent may be told.
fn told(policy: &Policy, may_guard: bool) -> Policy {
    let mut policy = policy.clone();
    if !may_guard {
        policy.guarded.clear();
        policy.exclusions.clear();
    }
    policy
}

#[cfg(test)]
mod tests {
    use slimfaas_ebpf::contract::{ExclusionKey, GuardFlags, Identity, IdentityEntry};

    use super::*;

    #[test]
    fn without_tags_nothing_is_guarded() {
        let policy = Policy {
            known: [(Identity(5), IdentityEntry::default())].into(),
            guarded: [((Identity(5), 80), GuardFlags(0))].into(),
            exclusions: [ExclusionKey { function: Identity(5), caller: Identity(6) }].into(),
        };
        assert_eq!(told(&policy, true), policy);
        let open = told(&policy, false);
        assert_eq!(open, Policy { known: policy.known, ..Policy::default() });
    }
}
