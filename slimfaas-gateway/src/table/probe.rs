//! Finds out that a starting pod serves, milliseconds after it does; then whether it still does.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::model::spec::UpstreamProtocol;
use crate::net::{self, TcpStream};
use crate::table::view::Address;

/// What proves that a pod serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// GET of `path` answers 2xx or 3xx.
    Http { path: String, protocol: UpstreamProtocol },
    /// A connection is accepted.
    Tcp,
}

/// How long a start may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartPolicy {
    /// From now to the first good answer.
    pub startup_timeout: Duration,
    /// For one answer, once connected.
    pub answer_timeout: Duration,
}

/// How a ready pod is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    pub period: Duration,
    /// For one check.
    pub timeout: Duration,
}

/// Bad answers in a row after which a ready pod is not ready.
const FAILURES_MAX: u32 = 3;

/// For one connect while a pod starts. A packet lost before its network is up would otherwise cost the kernel's
/// first retransmission, a second.
const START_CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// One check that failed.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    #[error("no connection: {0}")]
    Connect(#[source] io::Error),
    #[error("no valid HTTP answer: {0}")]
    Protocol(#[source] hyper::Error),
    #[error("status {0}; 2xx or 3xx is healthy")]
    Status(StatusCode),
    #[error("no answer in time")]
    Timeout,
    #[error("the health path is not a URL path")]
    Path,
}

#[derive(Debug, thiserror::Error)]
#[error("not ready within {} s of its start, check its health path and its log: {last}", startup_timeout.as_secs_f32())]
pub struct NeverReady {
    pub startup_timeout: Duration,
    #[source]
    pub last: Unhealthy,
}

/// Returns as soon as `probe` succeeds, normally within 3 ms of the pod's `listen()`.
pub async fn wait_ready(address: &Address, probe: &Probe, policy: StartPolicy) -> Result<(), NeverReady> {
    let begin = clock::now();
    let mut last = Unhealthy::Timeout;
    let attempts = async {
        loop {
            let connect_timeout = START_CONNECT_TIMEOUT.min(policy.answer_timeout);
            match attempt(address, probe, connect_timeout, policy.answer_timeout).await {
                Ok(()) => return,
                Err(error) => last = error,
            }
            sleep(pause(begin.elapsed())).await;
        }
    };
    match timeout(policy.startup_timeout, attempts).await {
        Ok(()) => Ok(()),
        Err(_elapsed) => Err(NeverReady { startup_timeout: policy.startup_timeout, last }),
    }
}

/// Time to the next attempt, `elapsed` after the start. A refused connect on the way to a local port costs some ten
/// microseconds, so the first seconds, in which most starts end, are tried as fast as the timer goes.
fn pause(elapsed: Duration) -> Duration {
    Duration::from_millis(match elapsed.as_millis() {
        0..500 => 1,
        500..2_000 => 2,
        2_000..5_000 => 10,
        5_000..30_000 => 50,
        _ => 250,
    })
}

/// Checks a pod that is ready every period and tells each change of mind, for as long as it is polled.
/// `changed(false)` after three bad answers in a row, `changed(true)` at the next good one.
pub async fn watch_health(
    address: &Address,
    probe: &Probe,
    policy: HealthPolicy,
    mut changed: impl FnMut(bool),
) -> Infallible {
    let mut failures = 0_u32;
    loop {
        sleep(policy.period).await;
        match check(address, probe, policy.timeout).await {
            Ok(()) => {
                if failures >= FAILURES_MAX {
                    changed(true);
                }
                failures = 0;
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::debug!(%address, failures, %error, "health check failed");
                if failures == FAILURES_MAX {
                    changed(false);
                }
            }
        }
    }
}

/// One check, within `limit` altogether.
pub async fn check(address: &Address, probe: &Probe, limit: Duration) -> Result<(), Unhealthy> {
    timeout(limit, attempt(address, probe, limit, limit)).await.unwrap_or(Err(Unhealthy::Timeout))
}

async fn attempt(
    address: &Address,
    probe: &Probe,
    connect_timeout: Duration,
    answer_timeout: Duration,
) -> Result<(), Unhealthy> {
    let stream = net::connect(address, connect_timeout).await.map_err(Unhealthy::Connect)?;
    let Probe::Http { path, protocol } = probe else { return Ok(()) };
    let status = timeout(answer_timeout, get(stream, address, path, *protocol)).await;
    match status.unwrap_or(Err(Unhealthy::Timeout))? {
        status if status.is_success() || status.is_redirection() => Ok(()),
        status => Err(Unhealthy::Status(status)),
    }
}

/// The status of a GET on a connection of its own. The body is not read: the connection ends with the answer.
async fn get(
    stream: TcpStream,
    address: &Address,
    path: &str,
    protocol: UpstreamProtocol,
) -> Result<StatusCode, Unhealthy> {
    let request = match protocol {
        UpstreamProtocol::Http1 => Request::get(path).header(header::HOST, address.to_string()),
        UpstreamProtocol::H2c => Request::get(format!("http://{address}{path}")),
    };
    let request = request.header(header::USER_AGENT, "slimfaas-probe").body(Empty::<Bytes>::new());
    let request = request.map_err(|_not_a_uri| Unhealthy::Path)?;
    let io = TokioIo::new(stream);
    let response = match protocol {
        UpstreamProtocol::Http1 => {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(io).await.map_err(Unhealthy::Protocol)?;
            net::drive(sender.send_request(request), connection).await
        }
        UpstreamProtocol::H2c => {
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
            let (mut sender, connection) = handshake.await.map_err(Unhealthy::Protocol)?;
            net::drive(sender.send_request(request), connection).await
        }
    };
    Ok(response.map_err(Unhealthy::Protocol)?.status())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinSet;

    use super::*;
    use crate::net::TcpListener;

    const START: StartPolicy =
        StartPolicy { startup_timeout: Duration::from_secs(5), answer_timeout: Duration::from_millis(300) };

    fn http() -> Probe {
        Probe::Http { path: "/health".into(), protocol: UpstreamProtocol::Http1 }
    }

    /// Answers the n-th connection with `answers[n]` (the last one for ever); `None` never answers.
    async fn server(answers: Vec<Option<&'static str>>) -> (Address, JoinSet<()>, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Socket(listener.local_addr().unwrap());
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let n = counted.fetch_add(1, Ordering::SeqCst);
                let mut head = [0; 1024];
                let read = stream.read(&mut head).await.unwrap();
                assert!(read == 0 || head.starts_with(b"GET /health HTTP/1.1\r\n"), "{:?}", &head[..read]);
                match answers[n.min(answers.len() - 1)] {
                    Some(status) => {
                        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                    None => open.push(stream),
                }
            }
        });
        (address, tasks, count)
    }

    #[tokio::test]
    async fn a_start_ends_at_the_first_good_answer() {
        let cases = [
            (vec![Some("200 OK")], 1),
            (vec![Some("302 Found")], 1),
            (vec![Some("503 Service Unavailable"), Some("404 Not Found"), Some("204 No Content")], 3),
            (vec![None, Some("200 OK")], 2),
            (vec![Some("garbage"), Some("200 OK")], 2),
        ];
        for (answers, attempts) in cases {
            let (address, _server, count) = server(answers.clone()).await;
            wait_ready(&address, &http(), START).await.unwrap();
            assert_eq!(count.load(Ordering::SeqCst), attempts, "{answers:?}");
        }
    }

    #[tokio::test]
    async fn a_pod_that_is_never_ready_says_why() {
        let policy = StartPolicy { startup_timeout: Duration::from_millis(100), ..START };
        let (address, _server, _) = server(vec![Some("500 Oops")]).await;
        let error = wait_ready(&address, &http(), policy).await.unwrap_err();
        assert!(matches!(error.last, Unhealthy::Status(StatusCode::INTERNAL_SERVER_ERROR)), "{error}");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = wait_ready(&Address::Socket(free), &Probe::Tcp, policy).await.unwrap_err();
        assert!(matches!(error.last, Unhealthy::Connect(_)), "{error}");
    }

    #[tokio::test]
    async fn a_listener_is_noticed_soon_after_it_listens() {
        let mut delays: Vec<Duration> = Vec::new();
        for _ in 0..10 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let (sender, receiver) = mpsc::channel::<()>();
            let thread = std::thread::spawn(move || {
                receiver.recv_timeout(Duration::from_millis(20)).unwrap_err();
                let listener = std::net::TcpListener::bind(port).unwrap();
                (clock::now(), listener)
            });
            wait_ready(&Address::Socket(port), &Probe::Tcp, START).await.unwrap();
            let noticed = clock::now();
            drop(sender);
            delays.push(noticed.saturating_duration_since(thread.join().unwrap().0));
        }
        delays.sort();
        // The bound is far above the 1 to 3 ms that it takes, for machines with other work.
        assert!(delays[5] < Duration::from_millis(50), "{delays:?}");
    }

    #[tokio::test]
    async fn three_bad_answers_in_a_row_change_the_mind_and_one_good_one_back() {
        let (bad, good) = (Some("500 Oops"), Some("200 OK"));
        let (address, _server, count) = server(vec![good, bad, bad, good, bad, bad, bad, bad, good]).await;
        let policy = HealthPolicy { period: Duration::from_millis(5), timeout: Duration::from_secs(1) };
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let changed = |ready| sender.send((ready, count.load(Ordering::SeqCst))).unwrap();
        let probe = http();
        let watching = watch_health(&address, &probe, policy, changed);
        let seen = async { (receiver.recv().await.unwrap(), receiver.recv().await.unwrap()) };
        let seen = tokio::select! { seen = seen => seen, never = watching => match never {} };
        assert_eq!(seen, ((false, 7), (true, 9)));
    }

    #[tokio::test]
    async fn http2_is_probed_as_http2() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Socket(listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                assert_eq!((request.version(), request.uri().path()), (http::Version::HTTP_2, "/health"));
                Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.serve_connection(TokioIo::new(stream), service).await.ok();
        });
        let probe = Probe::Http { path: "/health".into(), protocol: UpstreamProtocol::H2c };
        check(&address, &probe, Duration::from_secs(2)).await.unwrap();
    }
}
