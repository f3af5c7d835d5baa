//! Bodies pass piece by piece, in both directions, whatever their size.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::client::{Connection, header, status_of};
use super::gateway::{Fixed, Gateway, start_example};

/// Over 2^31, so that a length that is kept in too few bits shows.
const BIG: u64 = 2 * 1024 * 1024 * 1024;
const MEMORY_KIB_MAX: u64 = 64 * 1024;

fn before(function: SocketAddr) -> Result<Gateway> {
    Fixed::at(function).start()
}

#[test]
fn chunks_arrive_as_they_are_sent() -> Result<()> {
    const DELAY: Duration = Duration::from_millis(300);
    let (function, _scratch) = start_example("f")?;
    let gateway = before(function.address)?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send("GET /function/f/stream?chunks=5&delay_ms=300 HTTP/1.1\r\nHost: h\r\n\r\n")?;
    let head = connection.head()?;
    assert_eq!((status_of(&head)?, header(&head, "transfer-encoding")), (200, Some("chunked")));
    let mut arrived = Vec::new();
    while let Some(chunk) = connection.chunk()? {
        assert_eq!(String::from_utf8(chunk)?, format!("chunk {}\n", arrived.len()));
        arrived.push(Instant::now());
    }
    assert_eq!(arrived.len(), 5);
    // One that was held back would arrive together with the next.
    for pair in arrived.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(gap > DELAY / 2, "two chunks came {gap:?} apart");
    }
    Ok(())
}

#[test]
fn a_request_body_streams_before_it_ends() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    let gateway = before(function.address)?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send("POST /function/f/echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for round in 0..3 {
        // The next piece is sent only once the last one has come back.
        let piece = format!("piece {round}");
        connection.send(format!("{:x}\r\n{piece}\r\n", piece.len()))?;
        if round == 0 {
            assert_eq!(status_of(&connection.head()?)?, 200);
        }
        assert_eq!(connection.chunk()?, Some(piece.into_bytes()));
    }
    connection.send("0\r\n\r\n")?;
    assert_eq!(connection.chunk()?, None);
    Ok(())
}

#[test]
fn two_gibibytes_come_down_in_little_memory() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    let gateway = before(function.address)?;
    let mut connection = Connection::open(gateway.address)?;
    connection
        .send(format!("GET /function/f/download?bytes={BIG} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))?;
    let head = connection.head()?;
    assert_eq!((status_of(&head)?, header(&head, "content-length")), (200, Some(BIG.to_string().as_str())));
    connection.skip(BIG)?;
    assert_eq!(connection.rest()?, b"", "more than the whole body");
    let peak = gateway.peak_memory()?;
    assert!(peak < MEMORY_KIB_MAX, "{peak} KiB");
    Ok(())
}

#[test]
fn two_gibibytes_go_up_in_little_memory() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    let gateway = before(function.address)?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send(format!("POST /function/f/upload HTTP/1.1\r\nHost: h\r\nContent-Length: {BIG}\r\n\r\n"))?;
    let piece = vec![0; 1024 * 1024];
    for _ in 0..BIG / piece.len() as u64 {
        connection.stream().write_all(&piece)?;
    }
    let answer = connection.answer()?;
    assert_eq!((answer.status, answer.text()), (200, format!("{{\"bytes\":{BIG}}}")));
    let peak = gateway.peak_memory()?;
    assert!(peak < MEMORY_KIB_MAX, "{peak} KiB");
    Ok(())
}

#[test]
fn a_slow_reader_does_not_fill_the_memory() -> Result<()> {
    const BYTES: u64 = 512 * 1024 * 1024;
    let (function, _scratch) = start_example("f")?;
    let gateway = before(function.address)?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send(format!("GET /function/f/download?bytes={BYTES} HTTP/1.1\r\nHost: h\r\n\r\n"))?;
    assert_eq!(status_of(&connection.head()?)?, 200);
    std::thread::sleep(Duration::from_secs(2));
    let peak = gateway.peak_memory()?;
    assert!(peak < MEMORY_KIB_MAX, "{peak} KiB while nobody reads");
    connection.skip(BYTES)
}
