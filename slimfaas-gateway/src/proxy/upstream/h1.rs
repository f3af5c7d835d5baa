//! HTTP/1.1 to a function, on a connection that the using task drives itself.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;

use super::pool::{Lease, Pool, PoolLimits};
use super::{Answered, Failure, Outbound, failure_of};
use crate::clock::{self, Tick};
use crate::net::{self, TcpStream};
use crate::proxy::body::{BodyFault, RequestBody};
use crate::proxy::rejection::Rejection;
use crate::table::view::Endpoint;

/// How long other endpoints are preferred after a refused connection.
const AVOIDED_AFTER_REFUSAL: std::time::Duration = std::time::Duration::from_secs(1);

type Driver = Connection<TokioIo<TcpStream>, RequestBody>;

/// One connection. It makes progress only while somebody polls it.
pub(super) struct H1 {
    sender: SendRequest<RequestBody>,
    /// `None` once the connection has ended.
    driver: Option<Pin<Box<Driver>>>,
    /// It has ended because the request's body did.
    is_cut_by_client: bool,
}

/// Opens a connection, and remembers for others when that fails.
pub(super) async fn connect(endpoint: &Endpoint, limits: &PoolLimits) -> std::io::Result<TcpStream> {
    let connected = net::connect(&endpoint.address, limits.connect_timeout).await;
    if let Err(error) = &connected {
        tracing::debug!(pod = %endpoint.pod, address = %endpoint.address, %error, "cannot connect");
        endpoint.avoid_until(Tick::of(clock::now()) + AVOIDED_AFTER_REFUSAL);
    }
    connected
}

pub(super) fn builder(limits: &PoolLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(limits.header_bytes);
    builder
}

impl H1 {
    async fn open(endpoint: &Endpoint, limits: &PoolLimits) -> Result<Self, ()> {
        let stream = connect(endpoint, limits).await.map_err(drop)?;
        let (sender, driver) = builder(limits).handshake(TokioIo::new(stream)).await.map_err(drop)?;
        Ok(Self { sender, driver: Some(Box::pin(driver)), is_cut_by_client: false })
    }

    /// Lets the connection read and write. Ready once it has ended.
    pub(super) fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(driver) = &mut self.driver else { return Poll::Ready(()) };
        match driver.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(ended) => {
                // That it ended reaches the request through its response or its body, why only if that is the response.
                self.is_cut_by_client = ended.is_err_and(|error| BodyFault::behind(&error).is_some());
                self.driver = None;
                Poll::Ready(())
            }
        }
    }

    pub(super) fn is_cut_by_client(&self) -> bool {
        self.is_cut_by_client
    }

    /// Whether the server has kept the connection open since its last use.
    async fn is_usable(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(self.poll_drive(cx).is_pending() && self.sender.is_ready())).await
    }

    async fn exchange(&mut self, outbound: Outbound) -> Result<Response<Incoming>, Failure> {
        let (request, inner) = outbound.into_request();
        let response = self.sender.try_send_request(request);
        tokio::pin!(response);
        let result = poll_fn(|cx| {
            // Before the response: it is what brings it. Its end shows in the response too.
            let _open = self.poll_drive(cx).is_pending();
            response.as_mut().poll(cx)
        });
        result.await.map_err(|mut unsent| match unsent.take_message() {
            Some(request) => Failure::Unsent(Box::new(Outbound::from_request(request, inner))),
            None => failure_of(unsent.error()),
        })
    }
}

pub(super) async fn send(
    pool: &Rc<Pool>,
    endpoint: &Arc<Endpoint>,
    mut outbound: Outbound,
) -> Result<Answered, Failure> {
    outbound.head.version = Version::HTTP_11;
    outbound.head.headers.insert(http::header::HOST, endpoint.authority.clone());
    // Kept connections that the server has closed meanwhile are passed over; a new one is the last try here.
    let mut is_repeated = false;
    loop {
        let (mut connection, is_new) = match pool.take(endpoint.id) {
            Some(mut kept) => {
                if !kept.is_usable().await {
                    continue;
                }
                (kept, false)
            }
            None => match H1::open(endpoint, &pool.limits).await {
                Ok(opened) => (opened, true),
                // What may have ended one replica is not offered to the others.
                Err(()) if is_repeated => return Err(Failure::Sent(Rejection::ResponseFailed)),
                Err(()) => return Err(Failure::Unsent(Box::new(outbound))),
            },
        };
        // The server may close a kept connection just as it is used, which says nothing of the request.
        let spare = (!is_new && !is_repeated && outbound.is_repeatable()).then(|| outbound.again());
        match connection.exchange(outbound).await {
            Ok(response) => {
                let lease = Some(Lease::new(pool, endpoint.id, connection));
                return Ok(Answered { response, lease, note: None, tunnel: None });
            }
            Err(Failure::Unsent(back)) if !is_new => outbound = *back,
            Err(failure) => match (failure, spare) {
                (Failure::Sent(Rejection::ResponseFailed), Some(spare)) => {
                    outbound = spare;
                    is_repeated = true;
                }
                (failure, _) => return Err(failure),
            },
        }
    }
}
