//! Upgraded connections (WebSocket): after the function's 101, bytes go both ways until one side ends.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Response, StatusCode, Version, request, response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::h2::LocalExecutor;
use super::pool::Pool;
use super::{Answered, Failure, Outbound, failure_of, h1};
use crate::proxy::body::Body;
use crate::proxy::outcome::Outcome;
use crate::proxy::slot::Slot;
use crate::table::view::Endpoint;

/// After one side has closed its half: for the other's last words. An idle peer must not keep the slot for ever.
const LINGER: Duration = Duration::from_secs(5);

/// What the client asked to upgrade to; taken from the head before its connection headers go.
#[derive(Clone)]
pub(in crate::proxy) struct Wanted(HeaderValue);

/// Both ends of a connection that the function has agreed to upgrade.
pub(super) struct Tunnel {
    client: OnUpgrade,
    function: OnUpgrade,
    protocol: HeaderValue,
}

/// Remembers an HTTP/1.1 request's wish to upgrade.
pub(in crate::proxy) fn remember(head: &mut request::Parts) {
    if head.version != Version::HTTP_11 {
        return;
    }
    let Some(protocol) = head.headers.get(header::UPGRADE) else { return };
    let lists_upgrade = |value: &HeaderValue| {
        value.to_str().is_ok_and(|value| value.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")))
    };
    // `Upgrade: h2c` from HTTP/1.1 is gone from the standard (RFC 9113 §3.1): such a request is served as it is.
    if protocol != "h2c" && head.headers.get_all(header::CONNECTION).iter().any(lists_upgrade) {
        let wanted = Wanted(protocol.clone());
        head.extensions.insert(wanted);
    }
}

pub(super) fn wanted(head: &request::Parts) -> bool {
    head.extensions.get::<Wanted>().is_some()
}

/// Such a connection is never shared, so it comes from no pool and goes to none.
pub(super) async fn send(
    pool: &Rc<Pool>,
    endpoint: &Arc<Endpoint>,
    mut outbound: Outbound,
) -> Result<Answered, Failure> {
    let Ok(stream) = h1::connect(endpoint, &pool.limits).await else {
        return Err(Failure::Unsent(Box::new(outbound)));
    };
    let Ok((mut sender, driver)) = h1::builder(&pool.limits).handshake(TokioIo::new(stream)).await else {
        return Err(Failure::Unsent(Box::new(outbound)));
    };
    hyper::rt::Executor::execute(&LocalExecutor, driver.with_upgrades());
    outbound.head.version = Version::HTTP_11;
    let Wanted(protocol) = outbound.head.extensions.get::<Wanted>().expect("checked by the caller").clone();
    let headers = &mut outbound.head.headers;
    headers.insert(header::HOST, endpoint.authority.clone());
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol.clone());
    let client = outbound.head.extensions.remove::<OnUpgrade>();
    let mut response = match sender.try_send_request(outbound.into_request().0).await {
        Ok(response) => response,
        Err(unsent) => return Err(failure_of(unsent.error())),
    };
    let tunnel = match client {
        Some(client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let protocol = response.headers().get(header::UPGRADE).cloned().unwrap_or(protocol);
            Some(Tunnel { client, function: hyper::upgrade::on(&mut response), protocol })
        }
        _ => None,
    };
    Ok(Answered { response, lease: None, note: None, tunnel })
}

impl Tunnel {
    /// The 101 for the client; the tunnel runs from when it has been sent.
    #[expect(clippy::disallowed_methods, reason = "ends with either of its two connections, or with the core")]
    pub(super) fn open(self, mut head: response::Parts, slot: Slot, outcome: Outcome) -> Response<Body> {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, self.protocol);
        let (client, function) = (self.client, self.function);
        tokio::task::spawn_local(async move {
            let _slot = slot;
            let (Ok(client), Ok(function)) = tokio::join!(client, function) else { return };
            let mut drain = outcome.drain();
            let ended = tokio::select! {
                biased; // what was already received is passed on
                ended = relay(client, function) => ended,
                () = drain.forced() => Ok(()),
            };
            outcome.tunnel_ended(ended);
        });
        Response::from_parts(head, Body::empty())
    }
}

/// Both ways, until both have ended, or [`LINGER`] after one has.
async fn relay(client: Upgraded, function: Upgraded) -> io::Result<()> {
    let (from_client, to_client) = split(TokioIo::new(client));
    let (from_function, to_function) = split(TokioIo::new(function));
    let up = one_way(from_client, to_function);
    let down = one_way(from_function, to_client);
    tokio::pin!(up, down);
    tokio::select! {
        biased; // either order is as good
        ended = &mut up => rest(ended, down).await,
        ended = &mut down => rest(ended, up).await,
    }
}

async fn one_way(mut from: ReadHalf<TokioIo<Upgraded>>, mut to: WriteHalf<TokioIo<Upgraded>>) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// One way has ended; the other may still have something to say.
async fn rest(first: io::Result<()>, other: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    first?;
    tokio::time::timeout(LINGER, other).await.unwrap_or(Ok(()))
}
