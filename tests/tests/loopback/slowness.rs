//! Clients that take their time get only so much of it.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::backend::{Backend, ok};
use super::client::{Connection, status_of};
use super::gateway::{Fixed, Gateway};

/// Much more than any limit that these tests set, much less than the defaults.
const SOON: Duration = Duration::from_secs(10);

fn start(options: &[(&'static str, &str)]) -> Result<(Gateway, Backend)> {
    let backend = Backend::start(|_| ok("answered"))?;
    let gateway = options.iter().fold(Fixed::at(backend.address), |fixed, (name, value)| fixed.set(name, value));
    Ok((gateway.start()?, backend))
}

/// Sends `first`, then `piece` every 100 ms, until the gateway closes. Returns what it said.
fn drip(gateway: &Gateway, first: &str, piece: &str) -> Result<String> {
    let mut connection = Connection::open(gateway.address)?;
    connection.send(first)?;
    let mut writer = connection.stream().try_clone()?;
    let (piece, count) = (piece.to_owned(), if piece.is_empty() { 0 } else { 600 });
    let dripping = std::thread::spawn(move || {
        // Until the other side has closed, or for long after that should have been.
        for _ in 0..count {
            std::thread::sleep(Duration::from_millis(100));
            if std::io::Write::write_all(&mut writer, piece.as_bytes()).is_err() {
                return;
            }
        }
    });
    let begin = Instant::now();
    let said = String::from_utf8_lossy(&connection.rest()?).into_owned();
    assert!(begin.elapsed() < SOON, "closed only after {:?}", begin.elapsed());
    drop(connection);
    assert!(dripping.join().is_ok());
    Ok(said)
}

#[test]
fn slow_headers_are_cut() -> Result<()> {
    let (gateway, backend) = start(&[("SlimFaas__Limits__HeadersTimeoutSeconds", "1")])?;
    let said = drip(&gateway, "GET /function/f/x HTTP/1.1\r\nHost: h\r\n", "X-A: b\r\n")?;
    assert!(said.is_empty() || status_of(&said)? == 408, "{said}");
    assert_eq!(backend.requests(), []);
    Ok(())
}

#[test]
fn slow_bodies_are_cut_with_a_408() -> Result<()> {
    let (gateway, _backend) =
        start(&[("SlimFaas__Limits__BodyRateGraceSeconds", "1"), ("SlimFaas__Limits__BodyBytesPerSecond", "1000")])?;
    let head = "POST /function/f/x HTTP/1.1\r\nHost: h\r\n";
    let said = drip(&gateway, &format!("{head}Content-Length: 100000\r\n\r\n"), "slow")?;
    assert_eq!(status_of(&said)?, 408, "{said}");
    assert!(said.contains("urn:slimfaas:problem:body-too-slow"), "{said}");
    let said = drip(&gateway, &format!("{head}Transfer-Encoding: chunked\r\n\r\n"), "1\r\na\r\n")?;
    assert_eq!(status_of(&said)?, 408, "{said}");
    let said = drip(&gateway, &format!("{head}Content-Length: 100000\r\n\r\n"), "")?;
    assert_eq!(status_of(&said)?, 408, "{said}");
    assert_eq!(gateway.metric("slimfaas_rejections_total", &["body-too-slow"])?, 3);
    Ok(())
}

#[test]
fn a_body_at_the_rate_passes() -> Result<()> {
    let (gateway, _backend) =
        start(&[("SlimFaas__Limits__BodyRateGraceSeconds", "1"), ("SlimFaas__Limits__BodyBytesPerSecond", "1000")])?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send("POST /function/f/x HTTP/1.1\r\nHost: h\r\nContent-Length: 8000\r\n\r\n")?;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(150));
        connection.send("a".repeat(400))?;
    }
    assert_eq!(connection.answer()?.text(), "answered");
    Ok(())
}

#[test]
fn slow_first_bytes_are_cut() -> Result<()> {
    let (gateway, backend) = start(&[("SlimFaas__Limits__HeadersTimeoutSeconds", "1")])?;
    // The beginning of what could be HTTP/2, then of what could be anything, then nothing at all.
    for first in ["PRI * HTTP/2.0\r\n", "P", ""] {
        let said = drip(&gateway, first, "")?;
        assert!(said.is_empty() || status_of(&said)? == 408, "{first:?}: {said}");
    }
    assert_eq!(backend.requests(), []);
    Ok(())
}

#[test]
fn a_pause_between_requests_is_not_a_slow_request() -> Result<()> {
    let (gateway, _backend) = start(&[
        ("SlimFaas__Limits__HeadersTimeoutSeconds", "1"),
        ("SlimFaas__Limits__KeepAliveTimeoutSeconds", "30"),
    ])?;
    let mut connection = Connection::open(gateway.address)?;
    for _ in 0..2 {
        connection.send("GET /function/f/x HTTP/1.1\r\nHost: h\r\n\r\n")?;
        assert_eq!(connection.answer()?.text(), "answered");
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(())
}

#[test]
fn an_unused_connection_is_closed() -> Result<()> {
    let (gateway, _backend) = start(&[("SlimFaas__Limits__KeepAliveTimeoutSeconds", "1")])?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send("GET /function/f/x HTTP/1.1\r\nHost: h\r\n\r\n")?;
    assert_eq!(connection.answer()?.text(), "answered");
    let begin = Instant::now();
    assert_eq!(connection.rest()?, b"");
    assert!(begin.elapsed() < SOON, "closed only after {:?}", begin.elapsed());
    Ok(())
}

#[test]
fn slow_headers_of_a_later_request_are_cut() -> Result<()> {
    let (gateway, backend) = start(&[("SlimFaas__Limits__HeadersTimeoutSeconds", "1")])?;
    let first = "GET /function/f/x HTTP/1.1\r\nHost: h\r\n\r\n";
    // Within the packet of the first request, and after its answer.
    for begun in ["GET /function/f/y HTTP/1.1\r\n", ""] {
        let said = drip(&gateway, &format!("{first}{begun}"), "X")?;
        assert_eq!((status_of(&said)?, said.matches("HTTP/1.1 ").count()), (200, 1), "{said}");
    }
    assert_eq!(backend.requests().len(), 2);
    Ok(())
}

#[test]
fn connections_that_are_not_between_requests_may_be_silent() -> Result<()> {
    let silent = Duration::from_secs(3);
    let backend = Backend::raw(move |mut stream, head| {
        use std::io::{Read, Write};
        if head.contains("/chat") {
            let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
            let _sent = stream.write_all(head.as_bytes());
            let mut byte = [0];
            let _read = stream.read(&mut byte);
            let _sent = stream.write_all(&byte);
        } else {
            std::thread::sleep(silent);
            let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlate");
        }
    })?;
    let gateway = Fixed::at(backend.address)
        .set("SlimFaas__Limits__HeadersTimeoutSeconds", 1)
        .set("SlimFaas__Limits__KeepAliveTimeoutSeconds", 1)
        .start()?;
    let mut chat = Connection::open(gateway.address)?;
    chat.send("GET /function/f/chat HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")?;
    assert_eq!(status_of(&chat.head()?)?, 101);
    assert_eq!(gateway.get("/function/f/late")?.text(), "late");
    chat.send("x")?;
    assert_eq!(chat.bytes(1)?, b"x");
    Ok(())
}
