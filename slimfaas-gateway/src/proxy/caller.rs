//! Who is asking: proven by the connection, worked out once, and only when the answer depends on it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use slimfaas_ebpf::contract::{CallerReply, Verdict};
use tokio::sync::OnceCell;

use crate::clock::{self, Tick};
use crate::drain;
use crate::model::caller::Caller;
use crate::net::TcpStream;
use crate::net::socket_options::kernel_caller;
use crate::proxy::Core;
use crate::proxy::pace::Pace;
use crate::telemetry::traffic::Proof;

/// One accepted connection's two ends, and what is known of the other. Lives as long as anything uses the
/// connection, also after an upgrade.
pub(crate) struct Connection {
    /// The core that serves it.
    pub(super) core: Rc<Core>,
    pub(super) peer: SocketAddr,
    local: SocketAddr,
    /// The peer's address as `X-Forwarded-For` has it.
    peer_header: HeaderValue,
    /// What the kernel said when the connection was accepted: whose it is does not change, only what that means.
    kernel: Option<CallerReply>,
    /// Worked out by address, where the kernel says nothing.
    by_address: OnceCell<Caller>,
    pub(super) pace: Arc<Pace>,
    /// Keeps the process from ending while the connection is in use.
    pub(super) drain: drain::Watch,
    /// Counts against the limit of connections.
    _permit: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl Connection {
    pub(super) fn new(
        core: &Rc<Core>,
        stream: &TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        drain: drain::Watch,
        permit: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> Self {
        // A dual-stack listener shows IPv4 peers as `::ffff:a.b.c.d`; everybody else writes `a.b.c.d`.
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let peer = plain(peer);
        let peer_header = HeaderValue::from_str(&peer.ip().to_string()).expect("an address is a header value");
        Self {
            core: Rc::clone(core),
            peer,
            local: plain(local),
            peer_header,
            kernel: ask_kernel(core, stream),
            by_address: OnceCell::new(),
            pace: Pace::accepted(Tick::of(clock::now())),
            drain,
            _permit: permit,
        }
    }

    pub(super) fn peer_header(&self) -> &HeaderValue {
        &self.peer_header
    }

    /// Where the kernel says nothing, the first use may take milliseconds; later ones are free.
    pub(super) async fn caller(&self) -> Caller {
        let gateway = &self.core.gateway;
        if let (Some(reply), Some(identities)) = (&self.kernel, &gateway.identities) {
            gateway.stats.proven(Proof::Kernel);
            return match Verdict::from_u32(reply.verdict) {
                // The tag is true. What its owner may do follows from our own view, not from the agent's of the moment
                // at which the connection was opened.
                Some(Verdict::Known | Verdict::Foreign) => identities.caller(reply.identity.0),
                Some(Verdict::Untagged | Verdict::Forged) | None => Caller::Outside,
            };
        }
        gateway.stats.proven(Proof::Address);
        self.by_address.get_or_init(|| gateway.callers.identify(self.peer, self.local)).await.clone()
    }
}

/// One system call for each connection, where its answer is understood.
fn ask_kernel(core: &Core, stream: &TcpStream) -> Option<CallerReply> {
    core.gateway.identities.as_ref()?;
    match kernel_caller(stream) {
        Ok(Some(reply)) => {
            core.gateway.stats.told(Verdict::from_u32(reply.verdict));
            Some(reply)
        }
        Ok(None) => {
            core.gateway.stats.untold();
            None
        }
        Err(error) => {
            // The connection is gone, or the kernel has no memory: nothing is known of who it was.
            tracing::debug!(%error, "cannot ask the kernel for the caller");
            Some(CallerReply::default())
        }
    }
}
