//! What targets get, how often, and what publishers hear of it.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::super::backend::{Backend, keep, ok};
use super::super::client::{self, Connection, eventually};
use super::super::gateway::{loopback, start_example};
use super::{LIMIT, annotations, counted, deliveries, gateway, outcomes, publish, subscriber};

#[test]
fn functions_and_urls_get_the_request_as_it_came() -> Result<()> {
    let (function, url) = (Backend::start(|_| ok("done"))?, Backend::start(|_| ok("done"))?);
    let targets = format!("reload=>http://{}/in/;http://{}/in", url.address, url.address);
    let gateway = gateway(function.address, &subscriber(5)).set("SLIMFAAS_SUBSCRIBE_EVENTS", targets).start()?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send(
        "PUT /publish-event/reload/a%2Fb//c/?x=1&y HTTP/1.1\r\nHost: api.example.com\r\nX-One: 1\r\nX-One: 2\r\n\
         Authorization: Bearer t\r\nAccept: text/html\r\nUser-Agent: tests\r\nContent-Type: text/plain\r\n\
         Connection: x-hop, upgrade\r\nUpgrade: websocket\r\nX-Hop: 1\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    )?;
    assert_eq!(connection.answer()?.status, 204);
    for (backend, base) in [(&function, ""), (&url, "/in")] {
        let [got] = &backend.requests()[..] else { panic!("one request, not {:?}", backend.requests()) };
        assert_eq!(got.line(), format!("PUT {base}/a%2Fb//c/?x=1&y HTTP/1.1"));
        assert_eq!(got.body, b"abcde");
        for (name, value) in [
            ("host", Some(backend.address.to_string().as_str())),
            ("x-one", Some("1")),
            ("authorization", Some("Bearer t")),
            // The original drops these.
            ("accept", Some("text/html")),
            ("user-agent", Some("tests")),
            ("content-type", Some("text/plain")),
            ("content-length", Some("5")),
            ("x-forwarded-host", Some("api.example.com")),
            ("x-forwarded-for", Some("127.0.0.1")),
            ("x-hop", None),
            ("upgrade", None),
            ("transfer-encoding", None),
        ] {
            assert_eq!(got.header(name), value, "{name} of {}", got.head);
        }
        assert!(got.head.contains("x-one: 2"), "{}", got.head);
        backend.forget();
    }
    // Without a body the original sends no headers at all.
    let bare = client::request(gateway.address, "GET /publish-event/reload HTTP/1.1\r\nHost: h\r\nX-One: 1\r\n\r\n")?;
    assert_eq!(bare.status, 204);
    let [got] = &function.requests()[..] else { panic!("one request") };
    assert_eq!((got.line(), got.header("x-one"), got.header("content-length")), ("GET / HTTP/1.1", Some("1"), None));
    let reports = deliveries(&gateway, "/publish-event/reload", "", b"")?;
    assert_eq!(
        (&reports[0]["Function"], &reports[0]["Target"]),
        (&Value::Null, &json!(format!("http://{}", url.address)))
    );
    assert_eq!((&reports[1]["Function"], &reports[1]["Namespace"]), (&json!("f"), &json!("default")));
    Ok(())
}

#[test]
fn a_large_body_arrives_whole_everywhere() -> Result<()> {
    let backends = [Backend::start(|_| ok(""))?, Backend::start(|_| ok(""))?];
    let mut fixed = gateway(backends[0].address, &subscriber(10));
    fixed = fixed.function("g", format!("http://{}", backends[1].address), &subscriber(10));
    let gateway = fixed.start()?;
    for length in [0, 65_536, 65_537, 3_000_000] {
        let body: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        assert_eq!(publish(&gateway, "/publish-event/reload", "", &body)?.status, 204, "{length}");
        for backend in &backends {
            let [got] = &backend.requests()[..] else { panic!("one request") };
            assert!(got.body == body, "{length} bytes were changed");
            backend.forget();
        }
    }
    eventually("no file is left", LIMIT, || {
        Ok((gateway.metric("slimfaas_event_body_file_bytes", &[])? == 0).then_some(()))
    })
}

/// A subscriber that answers these statuses in turn, and the last of them for ever.
fn answering(statuses: &'static [u16]) -> Result<Backend> {
    let next = AtomicUsize::new(0);
    Backend::start(move |_| {
        let status = statuses[next.fetch_add(1, Ordering::SeqCst).min(statuses.len() - 1)];
        keep(&format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n\r\n"))
    })
}

#[test]
fn what_the_owner_lists_is_tried_again() -> Result<()> {
    let retries =
        annotations("reload", &json!({"HttpTimeout": 5, "TimeoutRetries": [0, 0], "HttpStatusRetries": [500, 503]}));
    for (statuses, outcome, status, attempts) in [
        (&[200][..], "delivered", 200, 1),
        (&[202], "delivered", 202, 1),
        (&[302], "delivered", 302, 1),
        (&[404], "refused", 404, 1),
        (&[500, 200], "delivered", 200, 2),
        (&[500, 503, 204], "delivered", 204, 3),
        (&[500], "refused", 500, 3),
        (&[502], "refused", 502, 1),
    ] {
        let backend = answering(statuses)?;
        let gateway = gateway(backend.address, &retries).start()?;
        let [report] = &deliveries(&gateway, "/publish-event/reload", "", b"body")?[..] else { panic!("one delivery") };
        let found = (&report["Outcome"], &report["Status"], &report["Attempts"]);
        assert_eq!(found, (&json!(outcome), &json!(status), &json!(attempts)), "{statuses:?}");
        let got = backend.requests();
        assert_eq!((got.len(), got.iter().all(|request| request.body == b"body")), (attempts, true), "{statuses:?}");
        assert_eq!(counted(&gateway, outcome)?, 1);
        assert_eq!(gateway.metric("slimfaas_event_retries_total", &[])?, attempts as u64 - 1);
    }
    Ok(())
}

#[test]
fn who_cannot_answer_is_named_and_the_others_have_it() -> Result<()> {
    let tried_twice =
        annotations("reload", &json!({"HttpTimeout": 1, "TimeoutRetries": [0], "HttpStatusRetries": [500]}));
    let good = Backend::start(|_| ok("done"))?;
    let hanging = Backend::raw(|_stream, _| std::thread::sleep(LIMIT))?;
    let broken = Backend::raw(|stream, _| drop(stream.shutdown(Shutdown::Both)))?;
    let nobody = loopback(slimfaas_tests::gateway::claim_ports(1)?);
    let mut fixed = gateway(good.address, &tried_twice);
    for (name, address) in [("hanging", hanging.address), ("broken", broken.address), ("nobody", nobody)] {
        fixed = fixed.function(name, format!("http://{address}"), &tried_twice);
    }
    let gateway = fixed.start()?;
    // The original answers 204 whatever happened, and so do we to those who do not ask.
    assert_eq!(publish(&gateway, "/publish-event/reload", "", b"x")?.status, 204);
    let reports = deliveries(&gateway, "/publish-event/reload", "", b"x")?;
    let of = |name: &str| {
        let report = reports.iter().find(|report| report["Function"] == name).expect("a report");
        (report["Outcome"].as_str().unwrap_or_default(), report["Attempts"].as_u64().unwrap_or_default())
    };
    assert_eq!(of("f"), ("delivered", 1));
    assert_eq!(of("hanging"), ("timed-out", 2));
    assert_eq!(of("broken"), ("failed", 2));
    assert_eq!(of("nobody"), ("unreachable", 2));
    Ok(())
}

#[test]
fn a_publisher_waits_as_long_as_it_likes() -> Result<()> {
    let slow = Backend::start(|_| {
        std::thread::sleep(Duration::from_millis(1500));
        ok("done")
    })?;
    let quick = Backend::start(|_| ok("done"))?;
    let gateway = gateway(slow.address, &subscriber(10))
        .function("quick", format!("http://{}", quick.address), &subscriber(10))
        .start()?;
    let began = Instant::now();
    let answer = publish(&gateway, "/publish-event/reload", "Prefer: respond-async\r\n", b"x")?;
    assert_eq!((answer.status, answer.body.len()), (202, 0));
    let answer = publish(&gateway, "/publish-event/reload", "Prefer: return=representation, wait=1\r\n", b"x")?;
    assert!(began.elapsed() < Duration::from_millis(1490), "{:?}", began.elapsed());
    let report: Value = serde_json::from_slice(&answer.body)?;
    assert_eq!((answer.status, &report["Complete"]), (202, &json!(false)));
    let names: Vec<&Value> =
        report["Deliveries"].as_array().into_iter().flatten().map(|delivery| &delivery["Function"]).collect();
    assert_eq!(names, ["quick"]);
    assert_eq!(publish(&gateway, "/publish-event/reload", "Prefer: wait=20\r\n", b"x")?.status, 204);
    // Who did not wait has lost nothing.
    eventually("all are delivered", LIMIT, || Ok((counted(&gateway, "delivered")? == 6).then_some(())))
}

#[test]
fn deliveries_go_on_without_their_publisher_and_while_the_gateway_leaves() -> Result<()> {
    let slow = Backend::start(|_| {
        std::thread::sleep(Duration::from_millis(500));
        ok("done")
    })?;
    let failing = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&failing);
    let flaky = Backend::start(move |_| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        if first { keep("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n") } else { ok("done") }
    })?;
    let retried = annotations("reload", &json!({"HttpTimeout": 5, "TimeoutRetries": [1], "HttpStatusRetries": [500]}));
    let mut gateway = gateway(slow.address, &subscriber(5))
        .function("flaky", format!("http://{}", flaky.address), &retried)
        .start()?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send("POST /publish-event/reload HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")?;
    eventually("the first attempt", LIMIT, || Ok((failing.load(Ordering::SeqCst) == 1).then_some(())))?;
    drop(connection);
    assert_eq!(gateway.terminate()?.code(), Some(0), "{}", gateway.log());
    assert_eq!((slow.requests().len(), flaky.requests().len()), (1, 2));
    Ok(())
}

#[test]
fn the_owners_parallel_limit_holds_for_events_too() -> Result<()> {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (inner_running, inner_most) = (Arc::clone(&running), Arc::clone(&most));
    let backend = Backend::start(move |_| {
        inner_most.fetch_max(inner_running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        inner_running.fetch_sub(1, Ordering::SeqCst);
        ok("done")
    })?;
    for limit in ["SlimFaas/NumberParallelRequest", "SlimFaas/NumberParallelRequestPerPod"] {
        most.store(0, Ordering::SeqCst);
        let mut annotations = subscriber(10);
        annotations[limit] = json!("2");
        let gateway = gateway(backend.address, &annotations).start()?;
        std::thread::scope(|scope| {
            let calls = |event: bool| {
                let gateway = &gateway;
                scope.spawn(move || -> Result<()> {
                    for _ in 0..5 {
                        let target = if event { "/publish-event/reload" } else { "/function/f/" };
                        let expected = if event { 204 } else { 200 };
                        assert_eq!(publish(gateway, target, "", b"x")?.status, expected);
                    }
                    Ok(())
                })
            };
            let all: Vec<_> = (0..8).map(|number| calls(number % 2 == 0)).collect();
            all.into_iter().try_for_each(|call| call.join().expect("no call panics"))
        })?;
        assert_eq!(most.load(Ordering::SeqCst), 2, "{limit}");
        assert_eq!(counted(&gateway, "delivered")?, 20, "{limit}");
    }
    Ok(())
}

#[test]
fn a_function_that_speaks_http_2_gets_events_too() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    let mut annotations = subscriber(10);
    annotations["SlimFaas/AppProtocol"] = json!("h2c");
    let gateway = gateway(function.address, &annotations).start()?;
    for length in [0, 1000, 1_000_000] {
        let reports = deliveries(&gateway, "/publish-event/reload/upload", "", &vec![b'x'; length])?;
        assert_eq!((outcomes(&reports), &reports[0]["Status"]), (vec!["delivered"], &json!(200)), "{length}");
    }
    Ok(())
}
