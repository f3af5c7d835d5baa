//! Who is asking: proven by the connection, worked out once, and only when the answer depends on it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use tokio::sync::OnceCell;

use crate::clock::{self, Tick};
use crate::drain;
use crate::model::caller::Caller;
use crate::proxy::Core;
use crate::proxy::pace::Pace;

/// One accepted connection's two ends, and what is known of the other. Lives as long as anything uses the
/// connection, also after an upgrade.
pub(crate) struct Connection {
    /// The core that serves it.
    pub(super) core: Rc<Core>,
    pub(super) peer: SocketAddr,
    local: SocketAddr,
    /// The peer's address as `X-Forwarded-For` has it.
    peer_header: HeaderValue,
    caller: OnceCell<Caller>,
    pub(super) pace: Arc<Pace>,
    /// Keeps the process from ending while the connection is in use.
    pub(super) drain: drain::Watch,
    /// Counts against the limit of connections.
    _permit: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl Connection {
    pub(super) fn new(
        core: &Rc<Core>,
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
            caller: OnceCell::new(),
            pace: Pace::accepted(Tick::of(clock::now())),
            drain,
            _permit: permit,
        }
    }

    pub(super) fn peer_header(&self) -> &HeaderValue {
        &self.peer_header
    }

    /// The first use may take milliseconds; later ones are free.
    pub(super) async fn caller(&self) -> &Caller {
        let index = &self.core.gateway.callers;
        self.caller.get_or_init(|| index.identify(self.peer, self.local)).await
    }
}
