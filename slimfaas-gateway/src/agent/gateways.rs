//! What the gateways say: asked again and again, so that a change is here as soon as it is there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::clock;
use crate::identity::table::Policy;
use crate::identity::{decode, digest};
use crate::net;
use crate::peer::{Client, Kind};

/// Longer than a gateway takes when it has nothing to tell.
const DEADLINE: Duration = Duration::from_secs(30);
/// After a failure.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Gateways {
    /// Host and port of their peer port, such as a headless Service's.
    pub(super) address: String,
    pub(super) client: Client,
}

impl Gateways {
    /// Tells each policy that a gateway tells, for ever.
    pub(super) async fn follow(self, told: watch::Sender<Option<Arc<Policy>>>) {
        let mut known = Bytes::new();
        let mut complained = false;
        // The one that answered last is asked again: another may not know everything yet.
        let mut favourite = None;
        loop {
            match self.ask(&mut favourite, &known).await {
                Ok(None) => complained = false,
                Ok(Some((policy, encoded))) => {
                    complained = false;
                    known = Bytes::copy_from_slice(&digest(&encoded));
                    tracing::info!(
                        workloads = policy.known.len(),
                        guarded_ports = policy.guarded.len(),
                        exclusions = policy.exclusions.len(),
                        "a gateway has told its policy"
                    );
                    told.send_replace(Some(Arc::new(policy)));
                }
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!(
                            error,
                            gateways = self.address,
                            "no gateway tells its policy: what was told stays"
                        );
                    }
                    favourite = None;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Nothing when it is as known.
    async fn ask(&self, favourite: &mut Option<SocketAddr>, known: &Bytes) -> Result<Option<(Policy, Bytes)>, String> {
        let addresses = match *favourite {
            Some(address) => vec![address],
            None => net::resolve_all(&self.address).await.map_err(|error| format!("cannot resolve: {error}"))?,
        };
        let mut last = "the name has no address".to_owned();
        for address in addresses {
            let deadline = clock::now() + DEADLINE;
            match self.client.call(address, Kind::Agent, known.clone(), deadline).await {
                Ok(answer) if answer.is_empty() => {
                    *favourite = Some(address);
                    return Ok(None);
                }
                Ok(answer) => {
                    let policy = decode(&answer).map_err(|error| format!("{address}: {error}"))?;
                    *favourite = Some(address);
                    return Ok(Some((policy, answer)));
                }
                Err(error) => last = format!("{address}: {error}"),
            }
        }
        Err(last)
    }
}
