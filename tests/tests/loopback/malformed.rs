//! What is no HTTP is refused with a 4xx or a close, costs little, and harms nobody else.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::backend::{Backend, ok};
use super::client::{self, Connection, status_of};
use super::gateway::{Fixed, Gateway};

fn start() -> Result<(Gateway, Backend)> {
    let backend = Backend::start(|_| ok("answered"))?;
    Ok((Fixed::at(backend.address).start()?, backend))
}

/// Sends `bytes` and returns the statuses of all answers until the gateway closes the connection.
fn statuses(gateway: &Gateway, bytes: &[u8]) -> Result<Vec<u16>> {
    let mut connection = Connection::open(gateway.address)?;
    // The gateway may have closed before all was sent.
    let _sent = connection.stream().write_all(bytes);
    let mut statuses = Vec::new();
    let all = connection.rest()?;
    let mut rest = &all[..];
    while let Some(at) = rest.windows(9).position(|window| matches!(window, b"HTTP/1.1 " | b"HTTP/1.0 ")) {
        let head = String::from_utf8_lossy(&rest[at..]).into_owned();
        statuses.push(status_of(&head)?);
        rest = &rest[at + 9..];
    }
    Ok(statuses)
}

#[track_caller]
fn check(gateway: &Gateway, what: &str, bytes: &[u8], expected: &[u16]) {
    let begin = Instant::now();
    let statuses = statuses(gateway, bytes).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    assert_eq!(statuses, expected, "{what}");
    assert!(begin.elapsed() < Duration::from_secs(20), "{what} took {:?}", begin.elapsed());
    let answer = client::get(gateway.address, "/function/f/after").map(|answer| answer.status);
    assert_eq!(answer.ok(), Some(200), "the gateway does not answer after {what}");
}

/// A POST with these header lines, then these bytes.
fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /function/f/x HTTP/1.1\r\nHost: h\r\n{headers}\r\n{body}").into_bytes()
}

#[test]
fn request_lines_that_are_none() -> Result<()> {
    let (gateway, _backend) = start()?;
    let cases: &[(&str, &[u8], &[u16])] = &[
        ("HTTP/0.9", b"GET /function/f/x\r\n\r\n", &[400]),
        ("an unknown version", b"GET /function/f/x HTTP/1.2\r\nHost: h\r\n\r\n", &[400]),
        ("version 3", b"GET /function/f/x HTTP/3.0\r\nHost: h\r\n\r\n", &[400]),
        ("a version in lowercase", b"GET /function/f/x http/1.1\r\nHost: h\r\n\r\n", &[400]),
        ("two spaces", b"GET  /function/f/x HTTP/1.1\r\nHost: h\r\n\r\n", &[400]),
        ("a tab for a space", b"GET\t/function/f/x\tHTTP/1.1\r\nHost: h\r\n\r\n", &[400]),
        ("a space within the target", b"GET /function/f/x y HTTP/1.1\r\nHost: h\r\n\r\n", &[400]),
        ("no target", b"GET HTTP/1.1\r\nHost: h\r\n\r\n", &[400]),
        ("a target without a slash", b"GET function/f/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", &[400]),
        ("a NUL in the target", b"GET /function/f/\0 HTTP/1.1\r\nHost: h\r\n\r\n", &[400]),
        ("a control character in the target", b"GET /function/f/\x01 HTTP/1.1\r\nHost: h\r\n\r\n", &[400]),
        ("a method with a colon", b"GE:T /function/f/x HTTP/1.1\r\nHost: h\r\n\r\n", &[400]),
        ("a method with a NUL", b"G\0T /function/f/x HTTP/1.1\r\nHost: h\r\n\r\n", &[400]),
        ("a space before the method", b" GET /function/f/x HTTP/1.1\r\nHost: h\r\n\r\n", &[400]),
        ("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", &[400]),
        ("a method in lowercase", b"get /function/f/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", &[405]),
        ("an unknown method", b"BREW /function/f/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", &[405]),
        ("TRACE", b"TRACE /function/f/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", &[405]),
        ("CONNECT", b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", &[404]),
    ];
    for (what, bytes, expected) in cases {
        check(&gateway, what, bytes, expected);
    }
    Ok(())
}

#[test]
fn headers_that_are_none() -> Result<()> {
    let (gateway, _backend) = start()?;
    let head = |lines: &str| format!("GET /function/f/x HTTP/1.1\r\n{lines}\r\n\r\n").into_bytes();
    let cases: &[(&str, &str, &[u16])] = &[
        ("no Host", "Accept: */*", &[400]),
        ("two Hosts", "Host: a\r\nHost: b", &[400]),
        ("a space before the colon", "Host : h", &[400]),
        ("a space before the colon of a length", "Host: h\r\nContent-Length : 3", &[400]),
        ("a line folded", "Host: h\r\nX-A: a\r\n b", &[400]),
        ("a first line folded", " Host: h\r\nHost: h", &[400]),
        ("a name that is empty", "Host: h\r\n: x", &[400]),
        ("a name with a space", "Host: h\r\nX A: b", &[400]),
        ("a name with a NUL", "Host: h\r\nX\0A: b", &[400]),
        ("a name that is no ASCII", "Host: h\r\nX-Ä: b", &[400]),
        ("a value with a NUL", "Host: h\r\nX-A: a\0b", &[400]),
        ("a value with a bare CR", "Host: h\r\nX-A: a\rb", &[400]),
        ("a value with a DEL", "Host: h\r\nX-A: a\x7fb", &[400]),
        ("a line without a colon", "Host: h\r\nX-A", &[400]),
    ];
    for (what, lines, expected) in cases {
        check(&gateway, what, &head(lines), expected);
    }
    Ok(())
}

#[test]
fn bodies_whose_end_is_in_doubt() -> Result<()> {
    let (gateway, backend) = start()?;
    let chunked = "Transfer-Encoding: chunked\r\n";
    let cases: &[(&str, Vec<u8>, &[u16])] = &[
        ("two lengths", post("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"), &[400]),
        ("two lengths in one", post("Content-Length: 3, 4\r\n", "abcd"), &[400]),
        ("a length of letters", post("Content-Length: abc\r\n", "abc"), &[400]),
        ("a length with a sign", post("Content-Length: +3\r\n", "abc"), &[400]),
        ("a negative length", post("Content-Length: -3\r\n", "abc"), &[400]),
        ("a length in hexadecimal", post("Content-Length: 0x3\r\n", "abc"), &[400]),
        ("a length of nothing", post("Content-Length:\r\n", "abc"), &[400]),
        ("a length over 64 bits", post("Content-Length: 18446744073709551616\r\n", "abc"), &[400]),
        ("an encoding that is unknown", post("Transfer-Encoding: gzip\r\n", "abc"), &[400]),
        ("an encoding over chunked", post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"), &[400]),
        ("chunked as a quoted word", post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"), &[400]),
        ("chunked with a prefix", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), &[400]),
    ];
    for (what, bytes, expected) in cases {
        check(&gateway, what, bytes, expected);
    }
    let targets: Vec<String> = backend.requests().iter().map(|request| request.target().to_owned()).collect();
    assert!(targets.iter().all(|target| target == "/after"), "{targets:?}");
    for (what, body) in [
        ("a size of letters", "xyz\r\nabc\r\n0\r\n\r\n"),
        ("a size with a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a size with a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a size that is empty", "\r\nabc\r\n0\r\n\r\n"),
        ("a size over 64 bits", "fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("a chunk longer than its size", "3\r\nabcdef\r\n0\r\n\r\n"),
        ("a chunk without an end", "3\r\nabc0\r\n\r\n"),
        ("a size after a space", " 3\r\nabc\r\n0\r\n\r\n"),
        ("a bare LF after a size", "3\nabc\r\n0\r\n\r\n"),
        ("a bare LF in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
    ] {
        check(&gateway, what, &post(chunked, body), &[400]);
    }
    Ok(())
}

#[test]
fn floods_are_cut() -> Result<()> {
    let (gateway, _backend) = start()?;
    let line = |target: &str| format!("GET /function/f/{target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n");
    let many: String = (0..200).map(|number| format!("X-{number}: a\r\n")).collect();
    check(&gateway, "200 headers", (line("x") + &many + "\r\n").as_bytes(), &[431]);
    let long = format!("X-Long: {}\r\n\r\n", "a".repeat(128 * 1024));
    check(&gateway, "a header of 128 KiB", (line("x") + &long).as_bytes(), &[431]);
    let endless: String = (0..4096).map(|_| format!("X: {}\r\n", "a".repeat(1024))).collect();
    check(&gateway, "4 MiB of headers", (line("x") + &endless).as_bytes(), &[431]);
    check(&gateway, "a target of 60 KiB", (line(&"a".repeat(60 * 1024)) + "\r\n").as_bytes(), &[200]);
    check(&gateway, "a target of 128 KiB", (line(&"a".repeat(128 * 1024)) + "\r\n").as_bytes(), &[431]);
    let extensions = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(1024 * 1024));
    check(&gateway, "a chunk's extensions", &post("Transfer-Encoding: chunked\r\n", &extensions), &[400]);
    let small: String = (0..20_000).map(|_| format!("1;{}\r\na\r\n", "x".repeat(64))).collect();
    check(&gateway, "extensions of many chunks", &post("Transfer-Encoding: chunked\r\n", &small), &[400]);
    let trailers: String = (0..4096).map(|number| format!("X-{number}: {}\r\n", "a".repeat(64))).collect();
    let trailers = format!("0\r\n{trailers}\r\n");
    check(&gateway, "trailers", &post("Transfer-Encoding: chunked\r\n", &trailers), &[400]);
    assert!(gateway.peak_memory()? < 64 * 1024, "{} KiB", gateway.peak_memory()?);
    Ok(())
}
