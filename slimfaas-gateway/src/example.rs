//! The example function, `slimfaas example-function`, and the example job, `slimfaas example-job`: something to call
//! and something to run that need nothing installed.
//!
//! Also what the gateway is measured against, so its hot path is short.

mod routes;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::net::{self, TcpListener};

/// For running requests to finish after the wish to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(120);

/// After a failed accept, which mostly means that there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves HTTP/1.1 and h2c on `port` until `stop`, then finishes the running requests. `name` is how it calls itself.
/// It listens after `start_delay`, as programs do that have much to load.
pub async fn run(port: u16, name: &str, start_delay: Duration, stop: impl Future<Output = ()>) -> io::Result<()> {
    sleep(start_delay).await;
    let listener = net::listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        // A machine without IPv6.
        .or_else(|_| net::listen(SocketAddr::from(([0, 0, 0, 0], port))))?;
    serve(TcpListener::from_std(listener)?, name, stop).await
}

/// The work of the example job: a line for each word, with a pause after each.
pub async fn work(words: &[String], pause: Duration, mut out: impl io::Write) -> io::Result<()> {
    for word in words {
        writeln!(out, "{word}")?;
        out.flush()?;
        sleep(pause).await;
    }
    Ok(())
}

async fn serve(listener: TcpListener, name: &str, stop: impl Future<Output = ()>) -> io::Result<()> {
    let name: Arc<str> = name.into();
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).pipeline_flush(true);
    server.http2().timer(TokioTimer::new());
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            // The stop first, so that nothing is accepted after it.
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => {
                let Ok((stream, _peer)) = accepted else {
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                stream.set_nodelay(true).ok();
                let name = Arc::clone(&name);
                let service = service_fn(move |request| {
                    let name = Arc::clone(&name);
                    async move { Ok::<_, Infallible>(routes::serve(request, &name).await) }
                });
                let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
                let connection = graceful.watch(connection.into_owned());
                // How a connection ends is its client's business.
                connections.spawn(async move { connection.await.ok(); });
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.ok();
    Ok(())
}

#[cfg(test)]
mod tests;
