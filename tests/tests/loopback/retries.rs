//! Calls that are tried again: on another replica when nothing was sent, or where the function's owner asks for it.

use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::scope;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::json;

use super::backend::{Backend, Reply, keep, ok};
use super::client::{self, Connection, eventually};
use super::gateway::{Fixed, Gateway, loopback};

/// Most bytes of a body that can be sent a second time.
const KEPT_BYTES_MAX: usize = 64 * 1024;

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nx-own: 1\r\ncontent-length: 4\r\n\r\nbusy";

/// Before a function with two further attempts, at once, after a 503 or a failure.
fn start(backend: &Backend) -> Result<Gateway> {
    let configuration = r#"{"DefaultSync":{"TimeoutRetries":[0,0],"HttpStatusRetries":[503]}}"#;
    let annotations = json!({ "SlimFaas/Configuration": configuration });
    Fixed::new().function("f", format!("http://{}", backend.address), &annotations).start()
}

/// Fails this many times.
fn start_failing(times: usize, reply: fn() -> Reply) -> Result<Backend> {
    let count = AtomicUsize::new(0);
    Backend::start(move |request| {
        let is_failure = count.fetch_add(1, Ordering::SeqCst) < times;
        if is_failure { reply() } else { ok(&request.body.len().to_string()) }
    })
}

#[test]
fn listed_failures_are_tried_again_with_the_same_request() -> Result<()> {
    let unavailable: fn() -> Reply = || keep(UNAVAILABLE);
    for reply in [unavailable, || Reply::Close(Vec::new())] {
        let backend = start_failing(2, reply)?;
        let gateway = start(&backend)?;
        let answer = client::post(gateway.address, "/function/f/x?y", b"the body")?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "8"));
        let seen = backend.requests();
        assert_eq!(seen.len(), 3);
        for request in &seen {
            assert_eq!((&request.head, &request.body[..]), (&seen[0].head, &b"the body"[..]));
        }
        assert_eq!(gateway.metric("slimfaas_sync_retries_total", &[])?, 2);
        assert_eq!(gateway.metric("slimfaas_function_requests_total", &[])?, 1, "it is one call");
        assert_eq!(gateway.metric("slimfaas_function_requests_in_flight", &[])?, 0);
    }
    Ok(())
}

#[test]
fn the_last_attempts_answer_is_the_answer() -> Result<()> {
    let backend = start_failing(usize::MAX, || keep(UNAVAILABLE))?;
    let gateway = start(&backend)?;
    let answer = gateway.get("/function/f/x")?;
    let expected = UNAVAILABLE.replace("\r\n\r\n", "\r\ndate: \r\n\r\n");
    assert_eq!(answer.without_date(), expected);
    assert_eq!(backend.requests().len(), 3);
    Ok(())
}

#[test]
fn other_statuses_are_answers() -> Result<()> {
    let backend = start_failing(1, || keep("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"))?;
    let gateway = start(&backend)?;
    assert_eq!(gateway.get("/function/f/x")?.status, 500);
    assert_eq!(backend.requests().len(), 1);
    Ok(())
}

#[test]
fn only_a_body_that_fits_is_sent_again() -> Result<()> {
    for (length, attempts) in [(KEPT_BYTES_MAX, 2), (KEPT_BYTES_MAX + 1, 1), (3 * 1024 * 1024, 1)] {
        let backend = start_failing(1, || keep(UNAVAILABLE))?;
        let gateway = start(&backend)?;
        let answer = client::post(gateway.address, "/function/f/x", &vec![b'a'; length])?;
        let expected = if attempts == 2 { (200, length.to_string()) } else { (503, "busy".to_owned()) };
        assert_eq!((answer.status, answer.text()), expected, "{length} bytes");
        let seen = backend.requests();
        assert_eq!(seen.len(), attempts, "{length} bytes");
        assert!(seen.iter().all(|request| request.body.len() == length), "{length} bytes");
    }
    Ok(())
}

#[test]
fn a_body_of_chunks_is_sent_again_whole() -> Result<()> {
    let backend = start_failing(1, || keep(UNAVAILABLE))?;
    let gateway = start(&backend)?;
    let request = "POST /function/f/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(client::request(gateway.address, request)?.status, 200);
    let [first, second] = &backend.requests()[..] else { panic!("{:?}", backend.requests()) };
    for request in [first, second] {
        // Known as a whole, or still in its chunks: never both, never neither.
        let framed = (request.header("content-length"), request.header("transfer-encoding"));
        assert!(matches!(framed, (Some("5"), None) | (None, Some("chunked"))), "{request:?}");
        let letters: Vec<u8> = request.body.iter().copied().filter(|byte| (b'a'..=b'e').contains(byte)).collect();
        assert_eq!(letters, b"abcde", "{request:?}");
    }
    Ok(())
}

/// A replica whose address refuses connections while everybody still believes that it is ready.
#[test]
fn a_dead_address_costs_no_call() -> Result<()> {
    let mut gateway = Gateway::local(
        "  fun:\n    command: [\"/bin/sh\", \"-c\", '\"$0\" example-function --port {port} --name fun; /bin/sleep 1000', \
         \"${SLIMFAAS_EXE}\"]\n    annotations:\n      SlimFaas/Function: \"true\"\n      \
         SlimFaas/ReplicasAtStart: \"2\"\n    health: { path: /health, periodSeconds: 3600 }\n",
    )?;
    assert_eq!(gateway.get("/function/fun/hello/you")?.status, 200);
    let ready = || gateway.metric("slimfaas_autoscaler_ready_replicas", &[]);
    eventually("two replicas", Duration::from_secs(30), || Ok((ready()? == 2).then_some(())))?;
    assert_eq!(gateway.get("/function/fun/crash")?.status, 503);
    eventually("one address dead", Duration::from_secs(30), || {
        let log = gateway.log();
        let ports = log.lines().filter(|line| line.contains("started pod=")).filter_map(|line| line.rsplit('=').next());
        let refuses = |port: &u16| TcpStream::connect(loopback(*port)).is_err();
        Ok((ports.filter_map(|port| port.parse().ok()).filter(refuses).count() == 1).then_some(()))
    })?;
    for _ in 0..12 {
        // At once, so that both are in use; again and again, so that the dead one is tried again.
        scope(|scope| {
            let calls: Vec<_> = (0..10).map(|_| scope.spawn(|| gateway.get("/function/fun/slow?ms=50"))).collect();
            for call in calls {
                let answer = call.join().map_err(|_panic| anyhow!("a call panicked"))??;
                assert_eq!((answer.status, answer.text().as_str()), (200, "waited 50 ms\n"));
            }
            Ok::<_, anyhow::Error>(())
        })?;
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(ready()?, 2, "nobody has noticed, so the calls were offered to the dead one too");
    // A polite end, which ends what the replicas started too.
    assert_eq!(gateway.terminate()?.code(), Some(0));
    Ok(())
}

/// Answers on each connection once, and closes it when the next request comes.
fn start_tiring() -> Result<Backend> {
    let served = std::sync::Mutex::new(std::collections::BTreeSet::new());
    Backend::start(move |request| {
        let is_first = served.lock().expect("no thread panics with it").insert(request.connection);
        if is_first { ok("fine") } else { Reply::Close(Vec::new()) }
    })
}

#[test]
fn a_call_that_ends_one_replica_is_not_offered_to_another() -> Result<()> {
    let gateway = Gateway::local(
        "  fun:\n    command: [\"${SLIMFAAS_EXE}\", example-function]\n    annotations:\n      \
         SlimFaas/Function: \"true\"\n      SlimFaas/ReplicasAtStart: \"3\"\n",
    )?;
    assert_eq!(gateway.get("/function/fun/hello/you")?.status, 200);
    let ready = || gateway.metric("slimfaas_autoscaler_ready_replicas", &[]);
    eventually("three replicas", Duration::from_secs(30), || Ok((ready()? == 3).then_some(())))?;
    let mut client = Connection::open(gateway.address)?;
    for path in ["hello/1", "hello/2", "hello/3", "crash"] {
        // On one connection, so that the last call goes over a kept one to its function.
        client.send(format!("GET /function/fun/{path} HTTP/1.1\r\nhost: h\r\n\r\n"))?;
        assert_eq!(client.answer()?.status, if path == "crash" { 503 } else { 200 });
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(gateway.log().matches("ended by itself").count(), 1, "{}", gateway.log());
    Ok(())
}

#[test]
fn a_kept_connection_that_closes_under_a_request_costs_nothing_that_can_be_repeated() -> Result<()> {
    let backend = start_tiring()?;
    let gateway = Fixed::new().function("f", format!("http://{}", backend.address), &json!({})).start()?;
    // One connection of the client's, so that one core and its connections serve all of it.
    let mut client = Connection::open(gateway.address)?;
    let mut call = |request: &str| -> Result<u16> {
        client.send(format!("{request} HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"))?;
        Ok(client.answer()?.status)
    };
    assert_eq!(call("GET /function/f/1")?, 200);
    assert_eq!(call("GET /function/f/2")?, 200, "sent again on a new connection");
    let seen: Vec<(usize, String)> = backend.requests().iter().map(|r| (r.connection, r.line().to_owned())).collect();
    let line = |n: u32| format!("GET /{n} HTTP/1.1");
    assert_eq!(seen, [(1, line(1)), (1, line(2)), (2, line(2))]);
    // Sent twice, a POST could do its work twice.
    assert_eq!(call("POST /function/f/3")?, 503);
    assert_eq!(backend.requests().len(), 4);
    Ok(())
}
