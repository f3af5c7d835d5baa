//! `/health`, `/ready` and `/metrics` of the agent.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinSet;

use super::kernel::{Counters, Forger};
use crate::net::TcpListener;
use slimfaas_ebpf::contract::Counter;

/// Scrapers and probes are few.
const CONNECTIONS_MAX: usize = 32;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept, which mostly means that there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the agent shows of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// What is still missing; empty when ready.
    pub(super) pending: Vec<&'static str>,
    pub(super) counters: Counters,
    pub(super) forgers: Vec<Forger>,
    pub(super) cgroups: usize,
    pub(super) known: usize,
    pub(super) guards: usize,
    /// Pods of the node whose cgroup has not been seen.
    pub(super) awaited: usize,
    /// The kernel refused a change, and what it holds is not what it should.
    pub(super) refused: u64,
    pub(super) key_generation: u32,
}

pub(super) type Board = Arc<Mutex<Shown>>;

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, board: Board) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased; // what has ended makes room
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                let Ok((stream, _)) = accepted else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let board = Arc::clone(&board);
                connections.spawn(async move {
                    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let answer = answer(request.uri().path(), &board);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let mut server = http1::Builder::new();
                    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
                    // How a connection ends is its client's business.
                    let _ended = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        }
    }
}

/// Where it listens, for the log.
pub(super) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::from_std(crate::net::listen(address)?)
}

fn answer(path: &str, board: &Board) -> Response<Full<Bytes>> {
    let shown = board.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (status, text) = match path {
        "/health" => (StatusCode::OK, "OK".to_owned()),
        "/ready" if shown.pending.is_empty() => (StatusCode::OK, "READY".to_owned()),
        "/ready" => {
            let reasons: String = shown.pending.iter().map(|what| format!("\nwaiting for {what}")).collect();
            (StatusCode::SERVICE_UNAVAILABLE, format!("NOT_READY{reasons}"))
        }
        "/metrics" => (StatusCode::OK, metrics(&shown)),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn metrics(shown: &Shown) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
        // Writing into memory does not fail.
        let _written = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _written = writeln!(text, "{name}{labels} {value}");
        }
    };
    let plain = |value: u64| vec![(String::new(), value)];
    let count = |counter: Counter| plain(shown.counters.counted.get(&counter).copied().unwrap_or(0));
    let outcome = |(outcome, count): (&slimfaas_ebpf::policy::GuardOutcome, &u64)| {
        (format!("{{outcome=\"{}\",allowed=\"{}\"}}", outcome.as_str(), outcome.allows()), *count)
    };
    let outcomes: Vec<_> = shown.counters.outcomes.iter().map(outcome).collect();
    let forger = |forger: &Forger| (format!("{{address=\"{}\"}}", forger.address), forger.count);
    let forgers: Vec<_> = shown.forgers.iter().map(forger).collect();
    let size = |count: usize| plain(u64::try_from(count).unwrap_or(u64::MAX));
    family(
        "slimfaas_agent_guarded_connections_total",
        "counter",
        "Connections to guarded ports of this node.",
        &outcomes,
    );
    family("slimfaas_agent_tags_written_total", "counter", "SYNs that left with a tag.", &count(Counter::TagWritten));
    family(
        "slimfaas_agent_tags_refused_total",
        "counter",
        "SYNs without room for their tag.",
        &count(Counter::TagRefused),
    );
    family("slimfaas_agent_tags_verified_total", "counter", "Accepted true tags.", &count(Counter::TagVerified));
    family("slimfaas_agent_tags_forged_total", "counter", "Accepted false tags.", &count(Counter::TagForged));
    family("slimfaas_agent_forged_tags", "gauge", "False tags by address, of those seen lately.", &forgers);
    family("slimfaas_agent_cgroups", "gauge", "Cgroups that the kernel can tell apart.", &size(shown.cgroups));
    family("slimfaas_agent_pods_awaited", "gauge", "Pods without a known cgroup.", &size(shown.awaited));
    family("slimfaas_agent_known_workloads", "gauge", "Workloads that the kernel knows.", &size(shown.known));
    family("slimfaas_agent_guarded_ports", "gauge", "Ports of this node's pods that are guarded.", &size(shown.guards));
    family("slimfaas_agent_refusals_total", "counter", "Changes that the kernel refused.", &plain(shown.refused));
    family("slimfaas_agent_key_generation", "gauge", "Changes of the keys.", &plain(u64::from(shown.key_generation)));
    text
}

#[cfg(test)]
mod tests {
    use slimfaas_ebpf::policy::GuardOutcome;

    use super::*;

    #[test]
    fn what_is_missing_makes_it_unready() {
        let board = Board::default();
        assert_eq!(answer("/ready", &board).status(), StatusCode::OK);
        board.lock().expect("nobody panicked").pending = vec!["the key of tags"];
        assert_eq!(answer("/ready", &board).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer("/health", &board).status(), StatusCode::OK);
        assert_eq!(answer("/metrics", &board).status(), StatusCode::OK);
        assert_eq!(answer("/", &board).status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn counters_are_shown_by_name() {
        let mut shown = Shown { guards: 3, ..Shown::default() };
        shown.counters.outcomes.insert(GuardOutcome::OtherNamespace, 7);
        shown.counters.counted.insert(Counter::TagForged, 2);
        shown.forgers.push(Forger { address: "10.0.0.7".parse().expect("an address"), count: 2 });
        let text = metrics(&shown);
        for line in [
            "slimfaas_agent_guarded_connections_total{outcome=\"other_namespace\",allowed=\"false\"} 7",
            "slimfaas_agent_tags_forged_total 2",
            "slimfaas_agent_forged_tags{address=\"10.0.0.7\"} 2",
            "slimfaas_agent_guarded_ports 3",
            "# TYPE slimfaas_agent_tags_written_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
