//! When something goes wrong, the answer, the metrics and the log say whose fault it was.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::backend::{Backend, Reply, keep, ok};
use super::client::{self, Answer, Connection, eventually, status_of};
use super::gateway::{Fixed, Gateway, claim_ports, loopback, start_example};

const LIMIT: Duration = Duration::from_secs(20);

/// A problem of this gateway, whole.
#[track_caller]
fn check_problem(answer: &Answer, status: u16, name: &str, retry_after: Option<&str>, detail: &str) {
    assert_eq!(answer.status, status, "{}", answer.head);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("retry-after"), retry_after);
    let problem: Value = serde_json::from_slice(&answer.body).expect("a problem is JSON");
    let title = answer.head.split("\r\n").next().and_then(|line| line.get(13..));
    let expected = json!({
        "type": format!("urn:slimfaas:problem:{name}"), "title": title, "status": status, "detail": detail,
    });
    assert_eq!(problem, expected);
}

fn rejections(gateway: &Gateway, reason: &str) -> Result<u64> {
    gateway.metric("slimfaas_rejections_total", &[&format!("reason=\"{reason}\"")])
}

#[test]
fn a_client_that_goes_away_is_counted_as_gone() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    let gateway = Fixed::at(function.address).start()?;
    for target in ["/slow?ms=60000", "/stream?chunks=1000&delay_ms=100", "/download?bytes=10000000000"] {
        let before = gateway.metric("slimfaas_clients_gone_total", &[])?;
        let mut connection = Connection::open(gateway.address)?;
        connection.send(format!("GET /function/f{target} HTTP/1.1\r\nHost: h\r\n\r\n"))?;
        let in_flight = |count| {
            eventually(&format!("{count} in flight"), LIMIT, || {
                let now = gateway.metric("slimfaas_function_requests_in_flight", &[])?;
                Ok((now == count).then_some(()))
            })
        };
        in_flight(1)?;
        drop(connection);
        in_flight(0).with_context(|| format!("the call of {target} goes on without its client"))?;
        assert_eq!(gateway.metric("slimfaas_clients_gone_total", &[])?, before + 1, "{target}");
    }
    let log = gateway.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("the client went away")).collect();
    assert_eq!(lines.len(), 3, "{log}");
    for line in lines {
        assert!(line.contains("status=499") && line.contains("function=default/f"), "{line}");
    }
    Ok(())
}

#[test]
fn a_client_that_goes_away_within_its_body_is_gone_too() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    for (protocol, target) in [("http1", "/upload"), ("http1", "/echo"), ("h2c", "/upload"), ("h2c", "/echo")] {
        let annotations = json!({ "SlimFaas/AppProtocol": protocol });
        let gateway = Fixed::new().function("f", format!("http://{}", function.address), &annotations).start()?;
        let mut connection = Connection::open(gateway.address)?;
        connection.send(format!("POST /function/f{target} HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\npart"))?;
        eventually("the call in flight", LIMIT, || {
            Ok((gateway.metric("slimfaas_function_requests_in_flight", &[])? == 1).then_some(()))
        })?;
        drop(connection);
        eventually("the client counted as gone", LIMIT, || {
            Ok((gateway.metric("slimfaas_clients_gone_total", &[])? == 1).then_some(()))
        })
        .with_context(|| format!("{protocol} {target}: {}", gateway.log()))?;
        assert_eq!(gateway.metric("slimfaas_function_requests_in_flight", &[])?, 0);
        assert_eq!(gateway.metric("slimfaas_responses_cut_total", &[])?, 0, "the function is not to blame");
    }
    Ok(())
}

#[test]
fn a_client_that_goes_away_while_its_function_starts_leaves_nothing_waiting() -> Result<()> {
    let gateway = never_ready("60")?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send("GET /function/never/ HTTP/1.1\r\nHost: h\r\n\r\n")?;
    let waiting = |count| {
        eventually(&format!("{count} waiting"), LIMIT, || {
            Ok((gateway.metric("slimfaas_function_requests_waiting", &[])? == count).then_some(()))
        })
    };
    waiting(1)?;
    drop(connection);
    waiting(0)?;
    assert_eq!(gateway.metric("slimfaas_clients_gone_total", &[])?, 1);
    Ok(())
}

#[test]
fn a_function_that_refuses_connections() -> Result<()> {
    let gateway = Fixed::at(loopback(claim_ports(1)?)).start()?;
    let answer = gateway.get("/function/f/x")?;
    let detail = "no replica of the function accepts connections";
    check_problem(&answer, 503, "connect-failed", Some("1"), detail);
    assert_eq!(rejections(&gateway, "connect-failed")?, 1);
    let log = gateway.log();
    assert!(log.contains(r#"status=503"#) && log.contains(r#"reason="connect-failed" side=Function"#), "{log}");
    Ok(())
}

#[test]
fn a_function_that_comes_back_within_a_second_loses_no_call() -> Result<()> {
    let address = loopback(claim_ports(1)?);
    let gateway = Fixed::at(address).start()?;
    std::thread::scope(|scope| {
        let call = scope.spawn(|| gateway.get("/function/f/x"));
        std::thread::sleep(Duration::from_millis(200));
        let _backend = Backend::start_at(address, |_| ok("back"))?;
        let answer = call.join().map_err(|_panic| anyhow::anyhow!("the call panicked"))??;
        assert_eq!((answer.status, answer.text().as_str()), (200, "back"));
        Ok(())
    })
}

#[test]
fn a_function_that_does_not_answer_in_time() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    let configuration = json!({ "SlimFaas/Configuration": r#"{"DefaultSync":{"HttpTimeout":1}}"# });
    let gateway = Fixed::new().function("f", format!("http://{}", function.address), &configuration).start()?;
    let begin = Instant::now();
    let answer = gateway.get("/function/f/slow?ms=30000")?;
    check_problem(&answer, 503, "response-timeout", Some("1"), "the function did not answer within 1s");
    assert!((1..10).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    assert_eq!(gateway.metric("slimfaas_function_requests_in_flight", &[])?, 0);
    // The limit is for the head: a body may take longer.
    let answer = gateway.get("/function/f/stream?chunks=4&delay_ms=500")?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "chunk 0\nchunk 1\nchunk 2\nchunk 3\n"));
    Ok(())
}

#[test]
fn a_function_that_closes_before_its_response() -> Result<()> {
    let detail = "the function closed the connection before its response";
    for bytes in ["", "HTTP/1.1 200 OK\r\ncontent-le", "SSH-2.0-OpenSSH_9.2\r\n\r\n"] {
        let backend = Backend::start(move |_| Reply::Close(bytes.as_bytes().to_vec()))?;
        let gateway = Fixed::at(backend.address).start()?;
        let answer = gateway.get("/function/f/x")?;
        check_problem(&answer, 503, "response-failed", Some("1"), detail);
        // It may have done its work: nobody else is asked.
        assert_eq!(backend.requests().len(), 1);
        assert_eq!(rejections(&gateway, "response-failed")?, 1);
    }
    Ok(())
}

#[test]
fn a_response_that_breaks_off_is_not_ended_as_if_whole() -> Result<()> {
    for (bytes, received) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart", "part"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n", "4\r\npart\r\n"),
    ] {
        let (break_off, broken) = std::sync::mpsc::channel::<()>();
        let broken = std::sync::Mutex::new(broken);
        let backend = Backend::raw(move |mut stream, _| {
            let _sent = stream.write_all(bytes.as_bytes());
            // Once the client has seen it.
            let _told = broken.lock().map(|broken| broken.recv_timeout(LIMIT));
        })?;
        let gateway = Fixed::at(backend.address).start()?;
        let mut connection = Connection::open(gateway.address)?;
        connection.send("GET /function/f/x HTTP/1.1\r\nHost: h\r\n\r\n")?;
        assert_eq!(status_of(&connection.head()?)?, 200);
        assert_eq!(connection.bytes(received.len())?, received.as_bytes());
        drop(break_off);
        assert_eq!(connection.rest()?, b"", "nothing that looks like an end");
        assert_eq!(gateway.metric("slimfaas_responses_cut_total", &[])?, 1);
        assert!(gateway.log().contains("the function broke off its response"), "{}", gateway.log());
    }
    Ok(())
}

/// A function whose process never serves; calls of it give up after `seconds`.
fn never_ready(seconds: &str) -> Result<Gateway> {
    Gateway::local(&format!(
        "  never:\n    command: [\"sleep\", \"1000\"]\n    environment: {{ PATH: /usr/bin:/bin }}\n    annotations:\n      \
         SlimFaas/Function: \"true\"\n      \
         SlimFaas/Configuration: '{{\"DefaultSync\":{{\"HttpTimeout\":{seconds}}}}}'\n"
    ))
}

#[test]
fn a_function_that_never_becomes_ready() -> Result<()> {
    let gateway = never_ready("1")?;
    let answer = gateway.get("/function/never/")?;
    check_problem(&answer, 503, "wake-timeout", Some("5"), "the function did not become ready within 1s");
    assert_eq!(rejections(&gateway, "wake-timeout")?, 1);
    assert!(gateway.log().contains(r#"reason="wake-timeout" side=Gateway"#), "{}", gateway.log());
    Ok(())
}

#[test]
fn a_functions_own_failures_are_its_own() -> Result<()> {
    const ANSWERS: [&str; 4] = [
        "HTTP/1.1 500 Internal Server Error\r\nx-own: a\r\nx-own: b\r\ncontent-length: 4\r\n\r\nbang",
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 77\r\ncontent-type: text/x\r\ncontent-length: 4\r\n\r\nbusy",
        "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 9\r\n\r\nnot there",
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\ncontent-length: 0\r\n\r\n",
    ];
    let backend = Backend::start(|request| {
        let number = request.target().trim_start_matches('/').parse::<usize>();
        number.map_or_else(|_| ok(""), |number| keep(ANSWERS[number]))
    })?;
    let gateway = Fixed::at(backend.address).start()?;
    for (number, expected) in ANSWERS.iter().enumerate() {
        let answer = gateway.get(format!("/function/f/{number}"))?;
        let date = "date: \r\n\r\n";
        let with_date = expected.replacen("\r\n\r\n", &format!("\r\n{date}"), 1);
        assert_eq!(answer.without_date(), with_date);
    }
    assert_eq!(backend.requests().len(), ANSWERS.len(), "a call was made again");
    assert_eq!(gateway.metric("slimfaas_rejections_total", &[])?, 0);
    assert_eq!(gateway.metric("slimfaas_function_requests_total", &["code=\"5xx\""])?, 2);
    assert_eq!(gateway.metric("slimfaas_function_requests_total", &["code=\"4xx\""])?, 2);
    Ok(())
}

#[test]
fn a_kept_connection_that_the_function_closes_costs_no_call() -> Result<()> {
    // It answers as if the connection stayed, and closes.
    let backend = Backend::start(|_| Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()))?;
    let gateway = Fixed::at(backend.address).start()?;
    for _ in 0..40 {
        let answer = gateway.get("/function/f/x")?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        // What is sent while it closes may have been lost, or read: only afterwards it is known to be unsent.
        eventually("closed", LIMIT, || Ok((backend.closed() == backend.accepted()).then_some(())))?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn a_method_that_is_not_for_a_route_is_told_which_are() -> Result<()> {
    let backend = Backend::start(|_| ok(""))?;
    let gateway = Fixed::at(backend.address).start()?;
    for (method, target, allow) in [
        ("BREW", "/function/f/x", "GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS"),
        ("POST", "/status-functions", "GET, HEAD"),
        ("PUT", "/wake-functions", "GET, POST"),
        ("DELETE", "/health", "GET, HEAD"),
    ] {
        let answer = client::call(gateway.address, method, target)?;
        check_problem(&answer, 405, "method-not-allowed", None, &format!("this route takes {allow}"));
        assert_eq!(answer.header("allow"), Some(allow));
    }
    assert_eq!(backend.requests(), []);
    Ok(())
}
