//! The pool of ports that processes are given.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::net;

/// Between two looks at a pool without a free port.
const RECHECK: Duration = Duration::from_secs(1);

pub(super) struct Ports {
    pool: RangeInclusive<u16>,
    state: Mutex<State>,
    /// Wakes those who wait for a port, at each that comes back.
    freed: Notify,
}

struct State {
    taken: BTreeSet<u16>,
    /// Where the next search begins: a port is not used again while old connections to it may still be around.
    next: u16,
}

/// A port, given back on drop.
pub(super) struct Lease {
    ports: Arc<Ports>,
    port: u16,
}

impl Ports {
    pub(super) fn new(pool: RangeInclusive<u16>) -> Arc<Self> {
        let state = State { taken: BTreeSet::new(), next: *pool.start() };
        Arc::new(Self { pool, state: Mutex::new(state), freed: Notify::new() })
    }

    /// A port that neither we nor, at this moment, anybody else uses.
    pub(super) fn lease(self: &Arc<Self>) -> Option<Lease> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = (*self.pool.start(), *self.pool.end());
        let candidates = (state.next..=last).chain(first..state.next);
        let free = |port: &u16| net::check_unused(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).is_ok();
        let port = candidates.filter(|port| !state.taken.contains(port)).find(free)?;
        state.taken.insert(port);
        state.next = if port == last { first } else { port + 1 };
        Some(Lease { ports: Arc::clone(self), port })
    }

    /// Waits for a port; `exhausted` is called when there is none at first.
    pub(super) async fn wait(self: &Arc<Self>, exhausted: impl FnOnce()) -> Lease {
        if let Some(lease) = self.lease() {
            return lease;
        }
        exhausted();
        loop {
            let freed = self.freed.notified();
            if let Some(lease) = self.lease() {
                return lease;
            }
            // A port may also be given back by somebody else, who does not tell us.
            timeout(RECHECK, freed).await.ok();
        }
    }
}

impl Lease {
    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.ports.state.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&self.port);
        self.ports.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few neighbouring ports that are free now.
    fn free_range(test: u16, length: u16) -> RangeInclusive<u16> {
        let first = (0..50).map(|i| 21_000 + std::process::id() as u16 % 5_000 + i * 64 + test * 16).find(|first| {
            (*first..first + length)
                .all(|port| net::check_unused(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok())
        });
        let first = first.expect("some free ports");
        first..=first + length - 1
    }

    #[test]
    fn ports_in_use_are_skipped_and_come_back_last() {
        let pool = free_range(0, 3);
        let first = *pool.start();
        let other = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, first + 1)).unwrap();
        let ports = Ports::new(pool);
        let (a, b) = (ports.lease().unwrap(), ports.lease().unwrap());
        assert_eq!((a.port(), b.port()), (first, first + 2));
        assert!(ports.lease().is_none());
        drop(other);
        drop(a);
        assert_eq!(ports.lease().unwrap().port(), first);
        assert_eq!(ports.lease().unwrap().port(), first + 1);
    }

    #[tokio::test]
    async fn a_port_that_somebody_else_gives_back_is_found() {
        let pool = free_range(1, 1);
        let other = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *pool.start())).unwrap();
        let ports = Ports::new(pool);
        let lease = timeout(Duration::from_secs(10), ports.wait(|| drop(other))).await.expect("found");
        assert!(ports.lease().is_none());
        drop(lease);
    }

    #[tokio::test]
    async fn a_port_that_comes_back_wakes_who_waits() {
        let ports = Ports::new(free_range(2, 1));
        let lease = ports.lease().unwrap();
        let mut told = false;
        let mut waiting = Box::pin(ports.wait(|| told = true));
        let early = timeout(Duration::from_millis(20), &mut waiting).await;
        assert!(early.is_err());
        drop(lease);
        timeout(Duration::from_secs(2), &mut waiting).await.expect("woken");
        drop(waiting);
        assert!(told);
    }
}
