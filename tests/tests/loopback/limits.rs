//! Each limit at its value, and one past it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::scope;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use super::backend::{Backend, Reply, ok};
use super::client::{self, Answer, Connection, eventually, status_of};
use super::gateway::{Fixed, Gateway};

const LIMIT: Duration = Duration::from_secs(20);

/// A function that answers only when told to, and counts what it works on.
struct Gate {
    backend: Backend,
    state: Arc<GateState>,
}

#[derive(Default)]
struct GateState {
    running: AtomicUsize,
    most: AtomicUsize,
    /// How many answers may still go out.
    allowed: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    fn start() -> Result<Self> {
        let state = Arc::new(GateState::default());
        let inner = Arc::clone(&state);
        let backend = Backend::start(move |request| {
            let running = inner.running.fetch_add(1, Ordering::SeqCst) + 1;
            inner.most.fetch_max(running, Ordering::SeqCst);
            let allowed = inner.allowed.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = inner.changed.wait_timeout_while(allowed, LIMIT, |allowed| *allowed == 0);
            *waited.unwrap_or_else(PoisonError::into_inner).0 -= 1;
            inner.running.fetch_sub(1, Ordering::SeqCst);
            ok(request.target())
        })?;
        Ok(Self { backend, state })
    }

    /// Lets this many more answers out.
    fn open(&self, count: usize) {
        *self.state.allowed.lock().unwrap_or_else(PoisonError::into_inner) += count;
        self.state.changed.notify_all();
    }

    fn gateway(&self, annotations: &Value) -> Fixed<'static> {
        Fixed::new().function("f", format!("http://{}", self.backend.address), annotations)
    }
}

/// Calls in a row, each of which is on its way before the next begins, while `then` runs; then their answers.
fn call_in_order(
    gateway: &Gateway,
    count: usize,
    on_its_way: impl Fn(usize) -> Result<bool>,
    then: impl FnOnce() -> Result<()>,
) -> Result<Vec<Answer>> {
    scope(|scope| {
        let mut calls = Vec::new();
        for number in 0..count {
            calls.push(scope.spawn(move || gateway.get(format!("/function/f/{number}"))));
            eventually("the call on its way", LIMIT, || Ok(on_its_way(number + 1)?.then_some(())))?;
        }
        then()?;
        calls.into_iter().map(|call| call.join().unwrap_or_else(|_panic| Err(anyhow!("a call panicked")))).collect()
    })
}

fn gauge(gateway: &Gateway, name: &str) -> Result<usize> {
    Ok(usize::try_from(gateway.metric(&format!("slimfaas_function_requests_{name}"), &[])?)?)
}

#[test]
fn calls_over_the_parallel_limit_wait_in_order() -> Result<()> {
    for limit in ["SlimFaas/NumberParallelRequest", "SlimFaas/NumberParallelRequestPerPod"] {
        let gate = Gate::start()?;
        let gateway = gate.gateway(&json!({ limit: "3" })).start()?;
        let on_its_way = |count| Ok(gauge(&gateway, "in_flight")? + gauge(&gateway, "waiting")? == count);
        let answers = call_in_order(&gateway, 10, on_its_way, || {
            assert_eq!((gauge(&gateway, "in_flight")?, gauge(&gateway, "waiting")?), (3, 7));
            for done in 1..=10_usize {
                gate.open(1);
                let left = 10 - done;
                eventually("the next call at the function", LIMIT, || {
                    let counted = (gauge(&gateway, "in_flight")?, gauge(&gateway, "waiting")?);
                    let arrived = gate.backend.requests().len();
                    let expected = ((left.min(3), left.saturating_sub(3)), (done + 3).min(10));
                    Ok(((counted, arrived) == expected).then_some(()))
                })?;
            }
            Ok(())
        })?;
        for (number, answer) in answers.iter().enumerate() {
            assert_eq!((answer.status, answer.text()), (200, format!("/{number}")));
        }
        assert_eq!(gate.state.most.load(Ordering::SeqCst), 3, "{limit}");
        let arrived: Vec<String> = gate.backend.requests().iter().map(|request| request.target().to_owned()).collect();
        // The first three take their slots together; those that waited come in their order.
        assert_eq!(arrived[3..], ["/3", "/4", "/5", "/6", "/7", "/8", "/9"], "{limit}");
    }
    Ok(())
}

#[test]
fn only_so_many_calls_wait() -> Result<()> {
    let gate = Gate::start()?;
    let gateway = gate
        .gateway(&json!({ "SlimFaas/NumberParallelRequest": "1" }))
        .set("SlimFaas__Limits__WaitingPerFunction", 2)
        .start()?;
    let on_its_way = |count| Ok(gauge(&gateway, "in_flight")? + gauge(&gateway, "waiting")? == count);
    let answers = call_in_order(&gateway, 3, on_its_way, || {
        let refused = gateway.get("/function/f/one-too-many")?;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
        assert!(refused.text().contains("urn:slimfaas:problem:too-many-waiting"), "{}", refused.text());
        assert!(refused.text().contains("2 requests wait for this function already"), "{}", refused.text());
        assert_eq!(gauge(&gateway, "waiting")?, 2);
        gate.open(3);
        Ok(())
    })?;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(gate.backend.requests().len(), 3);
    Ok(())
}

#[test]
fn a_slot_is_waited_for_only_so_long() -> Result<()> {
    let gate = Gate::start()?;
    let gateway = gate
        .gateway(&json!({ "SlimFaas/NumberParallelRequest": "1" }))
        .set("SlimFaas__Limits__SlotTimeoutSeconds", 1)
        .start()?;
    let answers = call_in_order(
        &gateway,
        1,
        |count| Ok(gauge(&gateway, "in_flight")? == count),
        || {
            let refused = gateway.get("/function/f/late")?;
            assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
            assert!(refused.text().contains("urn:slimfaas:problem:slot-timeout"), "{}", refused.text());
            assert_eq!(gauge(&gateway, "waiting")?, 0);
            gate.open(1);
            Ok(())
        },
    )?;
    assert_eq!(answers[0].status, 200);
    gate.open(1);
    assert_eq!(gateway.get("/function/f/next")?.text(), "/next");
    Ok(())
}

#[test]
fn a_waiting_caller_that_goes_away_leaves_its_place() -> Result<()> {
    let gate = Gate::start()?;
    let gateway = gate.gateway(&json!({ "SlimFaas/NumberParallelRequest": "1" })).start()?;
    let on_its_way = |count| Ok(gauge(&gateway, "in_flight")? == count);
    call_in_order(&gateway, 1, on_its_way, || {
        let mut leaving = Connection::open(gateway.address)?;
        leaving.send("GET /function/f/leaving HTTP/1.1\r\nHost: h\r\n\r\n")?;
        let waiting =
            |count| {
                eventually("the number of waiting calls", LIMIT, || {
                    Ok((gauge(&gateway, "waiting")? == count).then_some(()))
                })
            };
        waiting(1)?;
        drop(leaving);
        waiting(0)?;
        gate.open(2);
        assert_eq!(gateway.get("/function/f/next")?.text(), "/next");
        Ok(())
    })?;
    let arrived: Vec<String> = gate.backend.requests().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(arrived, ["/0", "/next"]);
    Ok(())
}

#[test]
fn a_body_is_only_so_long() -> Result<()> {
    const BYTES: usize = 1000;
    let backend = Backend::start(|request| ok(&request.body.len().to_string()))?;
    let gateway = Fixed::at(backend.address).set("SlimFaas__Limits__BodyBytes", BYTES).start()?;
    let fits = client::post(gateway.address, "/function/f/x", &[b'a'; BYTES])?;
    assert_eq!((fits.status, fits.text().as_str()), (200, "1000"));
    let over = client::post(gateway.address, "/function/f/x", &[b'a'; BYTES + 1])?;
    assert_eq!((over.status, over.header("connection")), (413, Some("close")));
    assert!(over.text().contains("larger than 1000 bytes"), "{}", over.text());
    assert_eq!(backend.requests().len(), 1, "what says that it is too long is not forwarded");

    let chunked = |chunks: &[usize]| {
        let chunks: String = chunks.iter().map(|length| format!("{length:x}\r\n{}\r\n", "a".repeat(*length))).collect();
        let head = "POST /function/f/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        client::request(gateway.address, &format!("{head}{chunks}0\r\n\r\n"))
    };
    assert_eq!(chunked(&[400, 600])?.status, 200);
    assert_eq!(chunked(&[400, 601])?.status, 413);
    let whole = backend.requests().iter().filter(|request| request.is_whole).count();
    assert_eq!(whole, 2, "a body that was cut must not look whole");
    assert_eq!(gateway.metric("slimfaas_rejections_total", &["body-too-large"])?, 2);
    Ok(())
}

#[test]
fn headers_are_only_so_long() -> Result<()> {
    let backend = Backend::start(|_| ok("fits"))?;
    let gateway = Fixed::at(backend.address).set("SlimFaas__Limits__HeaderBytes", "16KiB").start()?;
    let with = |length: usize| {
        let start = "GET /function/f/x HTTP/1.1\r\nHost: h\r\nX-Long: ";
        let value = "a".repeat(length - start.len() - 4);
        client::request(gateway.address, &format!("{start}{value}\r\n\r\n"))
    };
    // hyper looks at whole reads: what it has buffered beyond the limit it refuses, what ends before is served.
    assert_eq!(with(16 * 1024 - 1)?.status, 200);
    assert_eq!(with(16 * 1024 + 1)?.status, 431);
    assert_eq!(with(15 * 1024)?.status, 200);
    assert_eq!(with(64 * 1024)?.status, 431);
    Ok(())
}

#[test]
fn only_so_many_connections_are_served() -> Result<()> {
    let backend = Backend::start(|_| ok("served"))?;
    let gateway = Fixed::at(backend.address).set("SlimFaas__Limits__Connections", 3).start()?;
    let request = "GET /function/f/x HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut served = Vec::new();
    for _ in 0..3 {
        let mut connection = Connection::open(gateway.address)?;
        connection.send(request)?;
        assert_eq!(connection.answer()?.text(), "served");
        served.push(connection);
    }
    let mut waiting = Connection::open(gateway.address)?;
    waiting.send(request)?;
    waiting.stream().set_read_timeout(Some(Duration::from_millis(500)))?;
    let early = waiting.stream().peek(&mut [0]);
    assert!(early.is_err(), "a fourth connection is served: {early:?}");
    served.pop();
    waiting.stream().set_read_timeout(Some(LIMIT))?;
    assert_eq!(waiting.answer()?.text(), "served", "the place of one that ended is not given on");
    Ok(())
}

#[test]
fn a_response_head_is_only_so_long() -> Result<()> {
    let backend = Backend::start(|_| {
        let long = "a".repeat(256 * 1024);
        super::backend::keep(&format!("HTTP/1.1 200 OK\r\nx-long: {long}\r\ncontent-length: 0\r\n\r\n"))
    })?;
    let gateway = Fixed::at(backend.address).start()?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send("GET /function/f/x HTTP/1.1\r\nHost: h\r\n\r\n")?;
    assert_eq!(status_of(&connection.head()?)?, 503);
    Ok(())
}

/// Whatever becomes of a call, its slot is free for the next one.
#[test]
fn a_slot_always_comes_back() -> Result<()> {
    let backend = Backend::start(|request| match request.target() {
        "/closes" => Reply::Close(Vec::new()),
        "/breaks-off" => Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart".to_vec()),
        "/garbage" => Reply::Close(b"garbage\r\n\r\n".to_vec()),
        "/silent" => {
            std::thread::sleep(Duration::from_secs(3));
            ok("late")
        }
        "/switches" => Reply::Close(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_vec()),
        "/no-body" => super::backend::keep("HTTP/1.1 204 No Content\r\n\r\n"),
        other => ok(other),
    })?;
    let annotations = json!({
        "SlimFaas/NumberParallelRequest": "1",
        "SlimFaas/NumberParallelRequestPerPod": "1",
        "SlimFaas/Configuration": r#"{"DefaultSync":{"HttpTimeout":1}}"#,
    });
    let gateway = Fixed::new()
        .function("f", format!("http://{}", backend.address), &annotations)
        .set("SlimFaas__Limits__BodyBytes", 1000)
        .set("SlimFaas__Limits__BodyRateGraceSeconds", 1)
        .set("SlimFaas__Limits__SlotTimeoutSeconds", 10)
        .start()?;
    let upgrade = "Connection: upgrade\r\nUpgrade: x\r\n";
    let big = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n", 2000, "a".repeat(2000));
    for (target, more, leaves_early) in [
        ("/closes", "", false),
        ("/breaks-off", "", false),
        ("/garbage", "", false),
        ("/silent", "", false),
        ("/silent", "", true),
        ("/switches", "", false),
        ("/switches", upgrade, false),
        ("/switches", upgrade, true),
        ("/refuses-to-switch", upgrade, false),
        ("/no-body", "", false),
        ("/too-big", &big, false),
        ("/too-slow", "Content-Length: 900\r\n\r\npart", false),
        ("/body-cut", "Content-Length: 900\r\n\r\npart", true),
        ("/bad-chunk", "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", false),
    ] {
        let mut connection = Connection::open(gateway.address)?;
        let end = if more.contains("\r\n\r\n") { "" } else { "\r\n" };
        connection.send(format!("POST /function/f{target} HTTP/1.1\r\nHost: h\r\n{more}{end}"))?;
        if !leaves_early {
            // Whatever it is, or nothing.
            let _answer = connection.head();
        }
        drop(connection);
        let next = gateway.get("/function/f/next")?;
        assert_eq!((next.status, next.text().as_str()), (200, "/next"), "after {target}");
    }
    assert_eq!((gauge(&gateway, "in_flight")?, gauge(&gateway, "waiting")?), (0, 0));
    Ok(())
}
