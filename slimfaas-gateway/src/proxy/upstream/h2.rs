//! HTTP/2 with prior knowledge to a function (gRPC): one connection per core and endpoint, shared by its requests.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use http::uri::{Parts, Scheme};
use http::{Uri, Version, header};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::pool::Pool;
use super::{Answered, Failure, Outbound, failure_of, failure_within_body, h1};
use crate::proxy::body::RequestBody;
use crate::table::view::Endpoint;

/// Runs hyper's tasks on this core.
#[derive(Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "these tasks end with the connection that they serve")]
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

async fn open(pool: &Rc<Pool>, endpoint: &Endpoint) -> Option<SendRequest<RequestBody>> {
    let stream = h1::connect(endpoint, &pool.limits).await.ok()?;
    let mut builder = http2::Builder::new(LocalExecutor);
    builder.timer(TokioTimer::new()).adaptive_window(true);
    let (sender, driver) = builder.handshake(TokioIo::new(stream)).await.ok()?;
    hyper::rt::Executor::execute(&LocalExecutor, driver);
    pool.put_shared(endpoint.id, sender.clone());
    Some(sender)
}

pub(super) async fn send(
    pool: &Rc<Pool>,
    endpoint: &Arc<Endpoint>,
    mut outbound: Outbound,
) -> Result<Answered, Failure> {
    outbound.head.version = Version::HTTP_2;
    outbound.head.headers.remove(header::HOST);
    outbound.head.uri = absolute(&outbound.head.uri, endpoint);
    let note = outbound.body.note();
    let known = pool.share(endpoint.id);
    let mut reused = known.is_some();
    let mut sender = known;
    loop {
        let mut open_sender = match sender.take() {
            Some(sender) => sender,
            None => match open(pool, endpoint).await {
                Some(opened) => opened,
                None => return Err(Failure::Unsent(Box::new(outbound))),
            },
        };
        let (request, inner) = outbound.into_request();
        match open_sender.try_send_request(request).await {
            Ok(response) => return Ok(Answered { response, lease: None, note: Some(note), tunnel: None }),
            Err(mut unsent) => match unsent.take_message() {
                Some(request) if reused => {
                    reused = false;
                    outbound = Outbound::from_request(request, inner);
                }
                Some(request) => return Err(Failure::Unsent(Box::new(Outbound::from_request(request, inner)))),
                None => {
                    return Err(note
                        .get()
                        .map_or_else(|| failure_of(unsent.error()), |kind| failure_within_body(*kind)));
                }
            },
        }
    }
}

fn absolute(uri: &Uri, endpoint: &Endpoint) -> Uri {
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = endpoint.authority.to_str().ok().and_then(|authority| authority.parse().ok());
    parts.path_and_query = uri.path_and_query().cloned();
    Uri::from_parts(parts).expect("scheme, authority and path make a target")
}
