//! This core's unused connections, by endpoint.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;

use super::h1::H1;
use crate::clock::{self, Instant};
use crate::proxy::body::RequestBody;

/// Limits of a pool and of its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolLimits {
    /// Unused HTTP/1.1 connections kept per endpoint.
    pub(crate) idle: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) header_bytes: usize,
}

/// Belongs to one core; never shared between threads.
pub(crate) struct Pool {
    pub(super) limits: PoolLimits,
    h1: RefCell<HashMap<u64, Vec<Idle>>>,
    h2: RefCell<HashMap<u64, Shared>>,
    sweeping: Cell<bool>,
}

struct Idle {
    connection: H1,
    since: Instant,
}

/// An HTTP/2 connection ends by itself once nobody holds a sender of it and its last stream is over.
struct Shared {
    sender: SendRequest<RequestBody>,
    used: Instant,
}

/// A connection in use; gives itself back when its exchange is over.
pub(super) struct Lease {
    pub(super) connection: H1,
    endpoint: u64,
    pool: Rc<Pool>,
}

impl Lease {
    pub(super) fn new(pool: &Rc<Pool>, endpoint: u64, connection: H1) -> Self {
        Self { connection, endpoint, pool: Rc::clone(pool) }
    }

    /// The exchange is complete. `now` was read by whoever saw it end.
    pub(super) fn give_back(self, now: Instant) {
        self.pool.put(self.endpoint, self.connection, now);
    }
}

impl Pool {
    pub(crate) fn new(limits: PoolLimits) -> Rc<Self> {
        Rc::new(Self { limits, h1: RefCell::default(), h2: RefCell::default(), sweeping: Cell::new(false) })
    }

    /// The connection used last: the least likely one to have been closed.
    pub(super) fn take(&self, endpoint: u64) -> Option<H1> {
        let mut idle = self.h1.borrow_mut();
        idle.get_mut(&endpoint)?.pop().map(|idle| idle.connection)
    }

    fn put(self: &Rc<Self>, endpoint: u64, connection: H1, now: Instant) {
        let mut idle = self.h1.borrow_mut();
        let kept = idle.entry(endpoint).or_default();
        if kept.len() < self.limits.idle {
            kept.push(Idle { connection, since: now });
        }
        self.start_sweeping();
    }

    /// A sender of the endpoint's HTTP/2 connection, if that is open.
    pub(super) fn share(&self, endpoint: u64) -> Option<SendRequest<RequestBody>> {
        let mut shared = self.h2.borrow_mut();
        let connection = shared.get_mut(&endpoint).filter(|shared| !shared.sender.is_closed())?;
        connection.used = clock::now();
        Some(connection.sender.clone())
    }

    pub(super) fn put_shared(self: &Rc<Self>, endpoint: u64, sender: SendRequest<RequestBody>) {
        self.h2.borrow_mut().insert(endpoint, Shared { sender, used: clock::now() });
        self.start_sweeping();
    }

    fn start_sweeping(self: &Rc<Self>) {
        if !self.sweeping.replace(true) {
            self.spawn_sweep();
        }
    }

    /// One task while anything is kept: closes what has been unused for too long.
    #[expect(clippy::disallowed_methods, reason = "ends by itself within the idle timeout, and holds no request")]
    fn spawn_sweep(self: &Rc<Self>) {
        let pool = Rc::clone(self);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(pool.limits.idle_timeout).await;
                if !pool.sweep(clock::now()) {
                    pool.sweeping.set(false);
                    return;
                }
            }
        });
    }

    /// Whether anything is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut idle = self.h1.borrow_mut();
        idle.retain(|_, kept| {
            kept.retain(|idle| now.duration_since(idle.since) < self.limits.idle_timeout);
            !kept.is_empty()
        });
        let mut shared = self.h2.borrow_mut();
        shared.retain(|_, shared| {
            !shared.sender.is_closed() && now.duration_since(shared.used) < self.limits.idle_timeout
        });
        !idle.is_empty() || !shared.is_empty()
    }
}
