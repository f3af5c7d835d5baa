//! Finds out, milliseconds after it is so, that a pod serves: long before the kubelet's next probe.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::index::ToProve;
use super::serving::Readiness;
use crate::model::spec::UpstreamProtocol;
use crate::table::probe::{Probe, StartPolicy, wait_ready};
use crate::table::view::Address;

/// What a probe found about one instance of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) instance: i32,
    /// Accepts connections on this port.
    pub(super) port: u16,
    /// Its own readiness probe answers well, as far as the gateway can ask it.
    pub(super) answers: bool,
}

/// For an answer to one probe; the kubelet's default is a second too.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a declared port may stay closed after the pod's probe has succeeded on another, undeclared one.
const DECLARED_PORT_GRACE: Duration = Duration::from_secs(2);

/// A pod is waited for as long as it exists; this only bounds one round.
const ROUND: Duration = Duration::from_secs(3600);

/// Tells what is found, step by step; ends when there is nothing more to find out. To be dropped when the pod goes.
pub(super) async fn prove(pod: ToProve, mut found: impl FnMut(Proof)) {
    let port = serving_port(&pod).await;
    let mut proof = Proof { instance: pod.instance, port, answers: false };
    until_ready(pod.ip, port, &Probe::Tcp).await;
    match &pod.serving.readiness {
        Readiness::Opaque => found(proof),
        Readiness::Tcp { port: probed } if *probed == port => {
            proof.answers = true;
            found(proof);
        }
        readiness => {
            found(proof);
            let (probe, probed) = probe(readiness, &pod);
            until_ready(pod.ip, probed, &probe).await;
            proof.answers = true;
            found(proof);
        }
    }
}

/// The declared port; or that of its probe, if only that one is open.
async fn serving_port(pod: &ToProve) -> u16 {
    let declared = pod.serving.ports[0];
    let Some(undeclared) = pod.serving.undeclared else { return declared };
    // Whichever opens first. The declared one is looked at first in each turn.
    tokio::select! {
        biased;
        () = until_ready(pod.ip, declared, &Probe::Tcp) => return declared,
        () = until_ready(pod.ip, undeclared, &Probe::Tcp) => {}
    }
    match tokio::time::timeout(DECLARED_PORT_GRACE, until_ready(pod.ip, declared, &Probe::Tcp)).await {
        Ok(()) => declared,
        Err(_elapsed) => undeclared,
    }
}

fn probe(readiness: &Readiness, pod: &ToProve) -> (Probe, u16) {
    match readiness {
        // Over HTTP/1.1 whatever the function speaks: so does the kubelet.
        Readiness::Http { path, port } => {
            (Probe::Http { path: path.clone(), protocol: UpstreamProtocol::Http1 }, *port)
        }
        Readiness::Tcp { port } => (Probe::Tcp, *port),
        Readiness::Opaque => (Probe::Tcp, pod.serving.ports[0]),
    }
}

async fn until_ready(ip: IpAddr, port: u16, probe: &Probe) {
    let address = Address::Socket(SocketAddr::new(ip, port));
    let policy = StartPolicy { startup_timeout: ROUND, answer_timeout: ANSWER_TIMEOUT };
    while let Err(error) = wait_ready(&address, probe, policy).await {
        tracing::warn!(%address, %error, "a pod does not become ready");
    }
}
