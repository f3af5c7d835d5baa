//! The task of a link: connects when there is something to send, and keeps the connection while it is used.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::clock::{self, Instant};
use crate::model::address::Address;
use crate::net;
use crate::peer::client::Client;
use crate::peer::handshake::{self, Agreed, HandshakeError, Versions};
use crate::peer::key::{Key, Keys};
use crate::peer::limits::{
    BACKOFF_MAX, BACKOFF_MIN, HANDSHAKE_TIME, IDLE_MAX, PING_EVERY, PRESENT_KEY_AFTER, RETIRE_TIME, SILENCE_MAX,
};
use crate::peer::link::{Link, Retirement};
use crate::peer::pipe::{self, Broken, Reader, Writer};
use crate::peer::stats::{Open, PeerStats};

/// What every link of a node has in common.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) client: Client,
    pub(super) name: Arc<str>,
    pub(super) versions: Versions,
    pub(super) keys: watch::Receiver<Arc<Keys>>,
    pub(super) stats: Arc<PeerStats>,
}

impl Dialer {
    /// Until the link was not used for a while, or its peer has left.
    pub(super) async fn run(mut self, link: Arc<Link>) {
        let mut backoff = Duration::ZERO;
        while self.wait_for_work(&link).await {
            match self.connect(&link).await {
                Ok((stream, agreed)) => {
                    link.connected();
                    backoff = Duration::ZERO;
                    tracing::debug!(peer = %link.address, "connected to a peer");
                    let ended = self.converse(&link, stream, agreed).await;
                    link.disconnected();
                    match ended {
                        Ok(()) => tracing::debug!(peer = %link.address, "closed the connection to a peer"),
                        Err(reason) => tracing::info!(peer = %link.address, %reason, "lost a peer"),
                    }
                }
                Err(reason) => {
                    let first = backoff.is_zero();
                    backoff = (backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
                    if !matches!(reason, HandshakeError::Io(_)) {
                        self.stats.handshakes_failed_outgoing.fetch_add(1, Ordering::Relaxed);
                    }
                    // Once: the same again and again says nothing new.
                    if first {
                        tracing::warn!(peer = %link.address, %reason, "no connection to a peer");
                    }
                    link.unreachable(clock::now() + backoff, &reason.to_string().into());
                }
            }
        }
    }

    /// False: the link has ended.
    async fn wait_for_work(&self, link: &Arc<Link>) -> bool {
        loop {
            if link.has_work() {
                return true;
            }
            if link.is_unwanted() && self.client.end_if_quiet(link) {
                return false;
            }
            tokio::select! {
                biased; // work first: it keeps the link
                () = link.sendable.notified() => {}
                () = link.attention.notified() => {}
                () = tokio::time::sleep(IDLE_MAX) => {}
            }
        }
    }

    /// Tries each key in turn: a peer may not have the present one yet.
    async fn connect(&mut self, link: &Link) -> Result<(net::TcpStream, Agreed), HandshakeError> {
        let keys = Arc::clone(&self.keys.borrow_and_update());
        let mut refused = HandshakeError::NoKey;
        for key in keys.all() {
            match timeout(HANDSHAKE_TIME, self.connect_with(link, key)).await {
                Ok(Err(HandshakeError::KeyRefused)) => refused = HandshakeError::KeyRefused,
                Ok(result) => return result,
                Err(_elapsed) => return Err(HandshakeError::TimedOut),
            }
        }
        Err(refused)
    }

    async fn connect_with(&self, link: &Link, key: &Key) -> Result<(net::TcpStream, Agreed), HandshakeError> {
        let mut stream = net::connect(&Address::Socket(link.address), HANDSHAKE_TIME).await?;
        let agreed = handshake::call(&mut stream, key, &self.name, self.versions).await?;
        Ok((stream, agreed))
    }

    async fn converse(&mut self, link: &Arc<Link>, stream: net::TcpStream, agreed: Agreed) -> Result<(), Broken> {
        let stats = Arc::clone(&self.stats);
        let _open = Open::count(&stats.outgoing);
        let (mut reader, mut writer) = pipe::split(stream, agreed.session, &stats);
        // The first record proves that we are who began the handshake.
        link.ping();
        tokio::select! {
            // What has come first: a reply that is there counts, whatever becomes of the connection.
            biased;
            broken = read(link, &mut reader) => Err(broken),
            broken = write(link, &mut writer) => Err(broken),
            () = self.oversee(link, &agreed.key) => Ok(()),
        }
    }

    /// Resolves when the connection should close.
    async fn oversee(&mut self, link: &Arc<Link>, key: &Key) {
        // Made anew when there is another key, so that no connection uses one that is about to be taken away; and after
        // a while when the peer had the present one not yet.
        let mut look_for_key = clock::now() + PRESENT_KEY_AFTER;
        let mut patience: Option<Instant> = None;
        loop {
            let ping = clock::now() + PING_EVERY;
            let next = patience.map_or(ping, |patience| ping.min(patience));
            tokio::select! {
                biased; // what may end it before what keeps it
                changed = self.keys.changed() => match changed {
                    Ok(()) => look_for_key = clock::now(),
                    Err(_ended) => return,
                },
                () = link.attention.notified() => {}
                () = tokio::time::sleep_until(next) => link.ping(),
            }
            let now = clock::now();
            let is_outdated = now >= look_for_key && self.keys.borrow_and_update().present() != Some(key);
            if is_outdated || link.is_unwanted() {
                link.retire();
            }
            match link.retirement() {
                Retirement::Ended => return,
                Retirement::None => patience = None,
                Retirement::Waiting => {
                    // Some call takes its time; the others do not wait for it any longer.
                    if now >= *patience.get_or_insert(now + RETIRE_TIME) {
                        link.carry_on();
                        (patience, look_for_key) = (None, now + PRESENT_KEY_AFTER);
                    }
                }
            }
        }
    }
}

async fn read(link: &Link, reader: &mut Reader) -> Broken {
    loop {
        let taken = match timeout(SILENCE_MAX, reader.record()).await {
            Ok(record) => record.and_then(|record| Ok(link.take(record)?)),
            Err(_elapsed) => Err(Broken::Silent),
        };
        if let Err(broken) = taken {
            return broken;
        }
    }
}

async fn write(link: &Link, writer: &mut Writer) -> Broken {
    loop {
        match writer.flush(|record| link.fill(record)).await {
            Ok(true) => {}
            Ok(false) => link.sendable.notified().await,
            Err(broken) => return broken,
        }
    }
}
