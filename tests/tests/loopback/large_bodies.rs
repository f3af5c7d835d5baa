//! Asynchronous calls with bodies that are too large for the log: streamed to files before 202, and from them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use slimfaas_tests::process::Scratch;

use super::backend::{Backend, Request, keep, ok};
use super::client::{self, Connection, eventually};
use super::gateway::{Fixed, Gateway, claim_ports, loopback};
use super::nodes::{Nodes, wait_voters};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;
/// What a gateway takes that streams a body each way, and not what the body takes.
const MEMORY_KIB_MAX: u64 = 64 * 1024;

fn gateway<'a>(function: SocketAddr, folder: &Scratch) -> Fixed<'a> {
    let configuration = json!({"DefaultAsync": {"HttpTimeout": 30, "TimeoutRetries": [1], "HttpStatusRetries": [500]}});
    let annotations = json!({"SlimFaas/Configuration": configuration.to_string()});
    let function = format!("http://{function}");
    Fixed::new().function("f", function, &annotations).set("SlimFaas__Store__Directory", folder.path().display())
}

/// Bytes that differ everywhere.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn files(folder: &Scratch) -> Result<usize> {
    match std::fs::read_dir(folder.path().join("bodies")) {
        Ok(entries) => Ok(entries.count()),
        // The gateway listens a moment before it opens its store.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn until_no_files(folder: &Scratch) -> Result<()> {
    eventually("the body is removed", LIMIT, || Ok((files(folder)? == 0).then_some(())))
}

fn requests(backend: &Backend, count: usize) -> Result<Vec<Request>> {
    eventually(&format!("{count} deliveries"), LIMIT, || {
        let all = backend.requests();
        Ok((all.iter().filter(|request| request.is_whole).count() >= count).then_some(all))
    })
}

/// The head of a call whose body has a length.
fn head(length: usize) -> String {
    format!("POST /async-function/f/x HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n")
}

/// Begins a body without a length, and sends this much of it.
fn begin_chunks(gateway: &Gateway, bytes: &[u8]) -> Result<Connection> {
    let mut connection = Connection::open(gateway.address)?;
    connection.send("POST /async-function/f/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for chunk in bytes.chunks(50_000) {
        connection.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())?;
    }
    Ok(connection)
}

#[test]
fn a_large_body_is_streamed_both_ways() -> Result<()> {
    let (backend, folder) = (Backend::start(|_| ok("done"))?, Scratch::new("store")?);
    let gateway = gateway(backend.address, &folder).start()?;
    let body = content(48 * MIB);
    let answer = client::post(gateway.address, "/async-function/f/x", &body)?;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let delivered = &requests(&backend, 1)?[0];
    assert_eq!(delivered.header("content-length"), Some(&*body.len().to_string()));
    assert_eq!(delivered.header("slimfaas-element-id"), answer.header("slimfaas-element-id"));
    assert!(delivered.body == body, "another body");
    until_no_files(&folder)?;
    let peak = gateway.peak_memory()?;
    assert!(peak < MEMORY_KIB_MAX, "{peak} KiB");
    // Counted by a task that hears of it.
    eventually("it is counted", LIMIT, || {
        Ok((gateway.metric("slimfaas_bodies_uploaded_total", &[])? == 1).then_some(()))
    })?;
    assert_eq!(gateway.metric("slimfaas_bodies_bytes", &[])?, 0);

    // Nobody says how long it is.
    let mut connection = begin_chunks(&gateway, &body[..3 * MIB + 1])?;
    connection.send("0\r\nX-Trailer: t\r\n\r\n")?;
    assert_eq!(connection.answer()?.status, 202);
    let delivered = &requests(&backend, 2)?[1];
    assert_eq!(delivered.header("content-length"), Some(&*(3 * MIB + 1).to_string()));
    assert_eq!(delivered.header("transfer-encoding"), None);
    assert!(delivered.body == body[..3 * MIB + 1], "another body");
    until_no_files(&folder)
}

#[test]
fn an_accepted_large_body_survives_a_kill() -> Result<()> {
    let (function, folder) = (loopback(claim_ports(1)?), Scratch::new("store")?);
    let first = gateway(function, &folder).start()?;
    let body = content(8 * MIB + 7);
    for path in ["/async-function/f/1", "/async-function/f/2"] {
        assert_eq!(client::post(first.address, path, &body)?.status, 202);
    }
    // One is on its way when the gateway is killed.
    let mut begun = Connection::open(first.address)?;
    begun.send(head(8 * MIB))?;
    begun.send(&body[..4 * MIB])?;
    eventually("it is being written", LIMIT, || Ok((files(&folder)? == 3).then_some(())))?;
    // Dropping a gateway is a kill -9.
    drop(first);
    let backend = Backend::start_at(function, |_| ok("done"))?;
    let _second = gateway(function, &folder).start()?;
    for delivered in requests(&backend, 2)? {
        assert!(delivered.body == body, "another body");
    }
    until_no_files(&folder)
}

#[test]
fn every_try_gets_the_whole_body() -> Result<()> {
    let folder = Scratch::new("store")?;
    let backend = Backend::start(|request| match request.header("slimfaas-try-number") {
        Some("1") => keep("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"),
        _ => ok("done"),
    })?;
    let gateway = gateway(backend.address, &folder).start()?;
    let body = content(2 * MIB);
    assert_eq!(client::post(gateway.address, "/async-function/f/x", &body)?.status, 202);
    let tries = requests(&backend, 2)?;
    assert!(tries.iter().all(|request| request.body == body), "another body");
    until_no_files(&folder)
}

#[test]
fn limits_hold_before_the_body_is_read() -> Result<()> {
    let (function, folder) = (loopback(claim_ports(1)?), Scratch::new("store")?);
    let gateway = gateway(function, &folder)
        .set("SlimFaas__Queue__BodyBytes", "2MiB")
        .set("SlimFaas__Queue__BytesPerFunction", "3MiB")
        .start()?;
    let too_large = client::request(gateway.address, &head(2 * MIB + 1))?;
    assert_eq!(too_large.status, 413, "{}", too_large.text());
    let exact = content(2 * MIB);
    assert_eq!(client::post(gateway.address, "/async-function/f/x", &exact)?.status, 202);
    // There is room for less than a MiB.
    let full = client::request(gateway.address, &head(MIB))?;
    assert_eq!((full.status, full.header("retry-after")), (429, Some("5")), "{}", full.text());
    let mut chunks = begin_chunks(&gateway, &exact[..1_100_000])?;
    assert_eq!(chunks.answer()?.status, 429);
    assert_eq!(client::post(gateway.address, "/async-function/f/x", &exact[..300_000])?.status, 202);
    eventually("nothing of the refused ones is left", LIMIT, || Ok((files(&folder)? == 2).then_some(())))?;

    let limited = Scratch::new("store")?;
    let small = Fixed::at(function)
        .set("SlimFaas__Store__Directory", limited.path().display())
        .set("SlimFaas__Limits__BodyBytes", "1MiB")
        .start()?;
    assert_eq!(client::request(small.address, &head(MIB + 1))?.status, 413);
    let mut chunks = begin_chunks(&small, &exact[..MIB + 1])?;
    assert_eq!(chunks.answer()?.status, 413);
    until_no_files(&limited)
}

#[test]
fn a_disk_that_is_nearly_full_keeps_what_was_accepted() -> Result<()> {
    let (function, folder) = (loopback(claim_ports(1)?), Scratch::new("store")?);
    let body = content(MIB);
    let first = gateway(function, &folder).start()?;
    assert_eq!(client::post(first.address, "/async-function/f/x", &body)?.status, 202);
    drop(first);
    let full = gateway(function, &folder).set("SlimFaas__Queue__DiskReserveBytes", "1000TiB").start()?;
    for length in [1, 2 * MIB] {
        let answer = client::request(full.address, &head(length))?;
        assert_eq!((answer.status, answer.header("retry-after")), (507, Some("30")), "{}", answer.text());
    }
    assert_eq!(full.metric("slimfaas_rejections_total", &["storage-full"])?, 2);
    let backend = Backend::start_at(function, |_| ok("done"))?;
    assert!(requests(&backend, 1)?[0].body == body, "another body");
    until_no_files(&folder)
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() -> Result<()> {
    let (backend, folder) = (Backend::start(|_| ok("done"))?, Scratch::new("store")?);
    let gateway = gateway(backend.address, &folder).start()?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send(head(2 * MIB))?;
    connection.send(content(MIB))?;
    eventually("it is being written", LIMIT, || Ok((files(&folder)? == 1).then_some(())))?;
    drop(connection);
    until_no_files(&folder)?;
    eventually("it is counted", LIMIT, || {
        let count = gateway.metric("slimfaas_bodies_refused_total", &["abandoned"])?;
        Ok((count == 1).then_some(()))
    })?;
    assert_eq!(backend.requests(), []);
    Ok(())
}

#[test]
fn what_one_of_three_took_is_delivered_without_it() -> Result<()> {
    let (function, scratch) = (loopback(claim_ports(1)?), Scratch::new("nodes")?);
    let nodes = Nodes::new(function, &scratch)?;
    let (taker, others) = (nodes.start(0)?, [nodes.start(1)?, nodes.start(2)?]);
    for gateway in others.iter().chain([&taker]) {
        wait_voters(gateway, 3)?;
    }
    let body = content(16 * MIB + 3);
    let answer = client::post(taker.address, "/async-function/f/x", &body)?;
    assert_eq!(answer.status, 202, "{}", answer.text());
    // Dropping a gateway is a kill -9.
    drop(taker);
    let backend = Backend::start_at(function, |_| ok("done"))?;
    assert!(requests(&backend, 1)?[0].body == body, "another body");
    for gateway in &others {
        eventually("the body is removed", LIMIT, || Ok((gateway.metric("slimfaas_bodies", &[])? == 0).then_some(())))?;
        let peak = gateway.peak_memory()?;
        assert!(peak < MEMORY_KIB_MAX, "{peak} KiB");
    }
    Ok(())
}
