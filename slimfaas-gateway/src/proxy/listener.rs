//! One core of the traffic plane: its own runtime, listening sockets and connections.

use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::upstream::{LocalExecutor, Pool, PoolLimits};
use super::{Core, Gateway, serve_request};
use crate::config::Limits;
use crate::drain;
use crate::net::{TcpListener, TcpStream};
use crate::proxy::caller::Connection;
use crate::proxy::deliver::{self, Deliveries};
use crate::proxy::pace::{PaceLimits, PacedStream};

/// HTTP/2: most bytes of one stream, and of one connection, that may be unread by us: bounds memory per client.
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// HTTP/2: a client that has vanished without a word (a laptop that sleeps) is noticed after both.
const H2_PING_INTERVAL: Duration = Duration::from_secs(60);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs one core until drained; call it on a thread of its own.
pub fn run(
    listeners: Vec<std::net::TcpListener>,
    gateway: Arc<Gateway>,
    connections: Arc<Semaphore>,
    deliveries: Deliveries,
    drain: drain::Watch,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let pool = Pool::new(pool_limits(&gateway.limits));
        let server = Rc::new(server(&gateway.limits));
        let core = Rc::new(Core { gateway, pool });
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let listener = TcpListener::from_std(listener)?;
            let accept =
                accept(listener, Rc::clone(&core), Rc::clone(&server), Arc::clone(&connections), drain.clone());
            accepting.spawn_local(accept);
        }
        accepting.spawn_local(deliver::run(Rc::clone(&core), deliveries, drain.clone()));
        let mut end = drain.clone();
        drop(drain);
        while accepting.join_next().await.is_some() {}
        // Connections hold their own watch; this core's runtime must outlive them.
        end.signaled().await;
        core_idle(&core, end).await;
        Ok(())
    })
}

/// Every connection holds the core; so it is ours alone once they are gone.
async fn core_idle(core: &Rc<Core>, mut end: drain::Watch) {
    let idle = async {
        while Rc::strong_count(core) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        biased; // an idle core needs no force
        () = idle => {}
        () = end.forced() => {}
    }
}

fn pool_limits(limits: &Limits) -> PoolLimits {
    PoolLimits {
        idle: limits.idle_upstream,
        idle_timeout: limits.idle_upstream_timeout,
        connect_timeout: limits.connect_timeout,
        header_bytes: limits.header_bytes,
    }
}

fn server(limits: &Limits) -> auto::Builder<LocalExecutor> {
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        // `pace` does this, with one timer for a connection instead of one for each request.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT);
    builder
}

async fn accept(
    listener: TcpListener,
    core: Rc<Core>,
    server: Rc<auto::Builder<LocalExecutor>>,
    connections: Arc<Semaphore>,
    mut drain: drain::Watch,
) {
    loop {
        // A permit only for a connection that is there: one kept for the next to come would be missing elsewhere.
        let accepted = async {
            let (stream, peer) = listener.accept().await?;
            Ok::<_, io::Error>((stream, peer, Arc::clone(&connections).acquire_owned().await.ok()))
        };
        let accepted = tokio::select! {
            biased; // a drained core must not take another connection
            () = drain.signaled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer, permit)) => {
                let Ok(local) = stream.local_addr() else { continue };
                let connection = Rc::new(Connection::new(&core, &stream, peer, local, drain.clone(), permit));
                spawn_connection(stream, connection, Rc::clone(&server), drain.clone());
            }
            Err(error) => {
                // Out of file descriptors, mostly: those in use must end first.
                tracing::warn!(%error, "cannot accept connections: check the limit of open files");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a connection's task is held by its drain watch")]
fn spawn_connection(
    stream: TcpStream,
    connection: Rc<Connection>,
    server: Rc<auto::Builder<LocalExecutor>>,
    drain: drain::Watch,
) {
    tokio::task::spawn_local(serve_connection(stream, connection, server, drain));
}

async fn serve_connection(
    stream: TcpStream,
    connection: Rc<Connection>,
    server: Rc<auto::Builder<LocalExecutor>>,
    mut drain: drain::Watch,
) {
    let peer = connection.peer;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let gateway = Arc::clone(&connection.core.gateway);
    let _open = gateway.stats.connection();
    let pace = Arc::clone(&connection.pace);
    let io = PacedStream::new(stream, &pace);
    let service = service_fn(move |request| {
        let serving = serve_request(Rc::clone(&connection), request);
        async move { Ok::<_, Infallible>(serving.await) }
    });
    let serving = server.serve_connection_with_upgrades(io, service);
    tokio::pin!(serving);
    let limits = PaceLimits { head: gateway.limits.headers_timeout, idle: gateway.limits.keep_alive_timeout };
    let ended = tokio::select! {
        biased; // the rest is looked at only when the connection has nothing to do
        ended = serving.as_mut() => ended,
        too_slow = pace.watch(limits) => {
            tracing::debug!(%peer, ?too_slow, "closing a connection");
            Ok(())
        }
        () = drain.signaled() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                biased; // what can still finish does
                ended = serving => ended,
                _too_slow = pace.watch(limits) => Ok(()),
                () = drain.forced() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "connection ended");
    }
}
