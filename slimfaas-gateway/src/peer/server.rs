//! Accepts other nodes: strangers first, who prove within a time that they hold the key, or are closed.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::clock::{self, Instant};
use crate::drain;
use crate::net::{TcpListener, TcpStream};
use crate::peer::handshake::{self, HandshakeError, Versions};
use crate::peer::key::{Key, Keys};
use crate::peer::limits::{CONNECTIONS_MAX, HANDSHAKE_TIME, REVOKED_GRACE, STRANGERS_MAX};
use crate::peer::pipe::{self, Reader, Writer};
use crate::peer::serving::{Services, Serving};
use crate::peer::stats::{Open, PeerStats};

/// After a failed accept, as when file descriptors have run out: looping would not bring them back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Strangers are worth a line in the log at most this often; the metric counts each.
const STRANGER_LOG_EVERY: Duration = Duration::from_secs(60);

/// What every accepted connection has in common.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) versions: Versions,
    pub(super) keys: watch::Receiver<Arc<Keys>>,
    pub(super) services: Arc<Services>,
    pub(super) stats: Arc<PeerStats>,
    /// When a stranger was last logged.
    pub(super) logged: Arc<Mutex<Option<Instant>>>,
}

/// A node that has proven to hold the key.
struct Accepted {
    reader: Reader,
    writer: Writer,
    key: Key,
    caller: Arc<str>,
    /// The record that was the proof.
    first: Vec<u8>,
}

impl Server {
    /// Accepts until the drain starts; resolves when the last connection has ended.
    pub(super) async fn run(self, listener: TcpListener, mut drain: drain::Watch) {
        let mut strangers: JoinSet<Option<Accepted>> = JoinSet::new();
        let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
        let mut conversations = JoinSet::new();
        loop {
            tokio::select! {
                // The end first, so that nothing is accepted after it; then what frees a place.
                biased;
                () = drain.signaled() => break,
                Some(_) = conversations.join_next() => {}
                Some(known) = strangers.join_next() => {
                    if let Ok(Some(accepted)) = known
                        && conversations.len() < CONNECTIONS_MAX
                    {
                        conversations.spawn(self.clone().converse(accepted, drain.clone()));
                    }
                }
                accepted = listener.accept() => {
                    let Ok((stream, address)) = accepted else {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    };
                    oldest.retain(|stranger| !stranger.is_finished());
                    if oldest.len() >= STRANGERS_MAX
                        && let Some(stranger) = oldest.pop_front()
                    {
                        stranger.abort();
                        self.note_failure(address, &HandshakeError::TimedOut);
                    }
                    oldest.push_back(strangers.spawn(self.clone().meet(stream, address)));
                }
            }
        }
        drop((listener, strangers));
        while conversations.join_next().await.is_some() {}
    }

    /// Finds out whether a stranger is a node of ours.
    async fn meet(self, stream: TcpStream, address: SocketAddr) -> Option<Accepted> {
        let failure = match timeout(HANDSHAKE_TIME, self.shake_hands(stream)).await {
            Ok(Ok(accepted)) => return Some(accepted),
            Ok(Err(failure)) => failure,
            Err(_elapsed) => HandshakeError::TimedOut,
        };
        self.note_failure(address, &failure);
        None
    }

    async fn shake_hands(&self, mut stream: TcpStream) -> Result<Accepted, HandshakeError> {
        stream.set_nodelay(true)?;
        let keys = Arc::clone(&self.keys.borrow());
        let agreed = handshake::answer(&mut stream, &keys, self.versions).await?;
        let (mut reader, writer) = pipe::split(stream, agreed.session, &self.stats);
        let first = reader.record().await.map_err(|_broken| HandshakeError::Stranger)?.to_vec();
        Ok(Accepted { reader, writer, key: agreed.key, caller: agreed.caller, first })
    }

    async fn converse(self, accepted: Accepted, drain: drain::Watch) {
        let Accepted { mut reader, mut writer, key, caller, first } = accepted;
        let _open = Open::count(&self.stats.incoming);
        let serving = Serving::new(Arc::clone(&caller), &self.services, &self.stats);
        let ended = tokio::select! {
            // What has come first: a request that is there is seen, whatever becomes of the connection.
            biased;
            broken = serving.read(first, &mut reader) => Err(broken),
            written = serving.write(&mut writer) => written,
            () = self.oversee(&serving, &key, drain) => Ok(()),
        };
        if let Err(reason) = ended {
            tracing::debug!(peer = &*caller, %reason, "a peer's connection has ended");
        }
    }

    /// Closes the connection when the process ends or its key is not accepted any more; resolves when it must not
    /// live any longer.
    async fn oversee(&self, serving: &Serving, key: &Key, mut drain: drain::Watch) {
        let mut keys = self.keys.clone();
        let revoked = async {
            // An error: nobody can take the key away any more.
            if keys.wait_for(|keys| !keys.accepts(key)).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let mut forced = drain.clone();
        tokio::select! {
            biased; // the end of the process first: it has its own deadline
            () = drain.signaled() => {
                serving.close();
                forced.forced().await;
            }
            () = revoked => {
                serving.leave();
                tokio::time::sleep(REVOKED_GRACE).await;
            }
        }
    }

    fn note_failure(&self, address: SocketAddr, failure: &HandshakeError) {
        // Whoever connects and leaves (a probe of the port) has not tried.
        if matches!(failure, HandshakeError::Io(_)) {
            tracing::debug!(%address, %failure, "a connection to the peer port");
            return;
        }
        self.stats.handshakes_failed_incoming.fetch_add(1, Ordering::Relaxed);
        let now = clock::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|last| now >= last + STRANGER_LOG_EVERY) {
            *logged = Some(now);
            tracing::warn!(%address, %failure, "refused at the peer port (further ones are only counted for a minute)");
        }
    }
}
