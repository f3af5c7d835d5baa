//! The client of a benchmark: N connections, each sending its next request when the answer to the last one is whole.
//! One thread and three system calls a request, so that it is much cheaper than what it measures.
//!
//! It prints [`MEASURING`] when the warm-up is over, and one line of JSON ([`Outcome`]) at the end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use rustix::event::epoll;

use super::backend::{EVENTS, READ_BYTES, nonblocking, wait, watch};
use super::wire;
use crate::terminal::line;

/// The line that says: from now on it counts.
pub(crate) const MEASURING: &str = "measuring";
/// For one answer to start coming; a proxy that hangs must not hang the benchmark.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Latencies are kept to three digits, up to this many nanoseconds: what takes longer ends the run first.
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    path: String,
    /// Bytes of each request's body; 0 sends GET, more sends POST
    #[arg(long)]
    upload: usize,
    /// Bytes that each response's body must have
    #[arg(long)]
    download: usize,
    #[arg(long)]
    connections: u64,
    #[arg(long)]
    warmup_millis: u64,
    #[arg(long)]
    millis: u64,
}

/// What one load found. Times in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) elapsed: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Outcome {
    fn to_json(&self) -> serde_json::Value {
        let Self { requests, elapsed, p50, p99, p999, max } = self;
        serde_json::json!({
            "requests": requests, "elapsed": elapsed, "p50": p50, "p99": p99, "p999": p999, "max": max,
        })
    }

    pub(crate) fn from_json(text: &str) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_str(text).context("the load ended without a result")?;
        let field = |name: &str| value[name].as_u64().with_context(|| format!("the load's result has no {name}"));
        Ok(Self {
            requests: field("requests")?,
            elapsed: field("elapsed")?,
            p50: field("p50")?,
            p99: field("p99")?,
            p999: field("p999")?,
            max: field("max")?,
        })
    }
}

/// Loads and prints. The first wrong answer or broken connection ends it: numbers of a faulty run mean nothing.
pub(crate) fn run(options: &Options) -> Result<()> {
    let request = request(options);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut load = Load { epoll, download: options.download, histogram: latencies(), measuring: false, request };
    let mut connections = Vec::new();
    for number in 0..options.connections {
        let stream = TcpStream::connect(options.address).context("cannot connect")?;
        watch(&load.epoll, &stream, number)?;
        connections.push(Connection::new(stream));
    }
    for connection in &mut connections {
        connection.send(&load.request)?;
    }
    load.run_for(Duration::from_millis(options.warmup_millis), &mut connections)?;
    line(MEASURING);
    load.measuring = true;
    let elapsed = load.run_for(Duration::from_millis(options.millis), &mut connections)?;
    line(&load.outcome(elapsed).to_json().to_string());
    Ok(())
}

fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3).expect("the bounds are in order, and three digits are allowed")
}

fn request(options: &Options) -> Vec<u8> {
    let Options { address, path, upload, .. } = options;
    let mut bytes = match upload {
        0 => format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n"),
        _ => format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {upload}\r\n\r\n"),
    }
    .into_bytes();
    bytes.resize(bytes.len() + upload, b'u');
    bytes
}

struct Load {
    epoll: OwnedFd,
    request: Vec<u8>,
    download: usize,
    histogram: Histogram<u64>,
    /// Whether latencies are recorded.
    measuring: bool,
}

impl Load {
    /// Runs for `period` and returns how long it was in truth.
    fn run_for(&mut self, period: Duration, connections: &mut [Connection]) -> Result<Duration> {
        let start = Instant::now();
        let mut events = Vec::with_capacity(EVENTS);
        let mut buffer = vec![0; READ_BYTES];
        let mut now = start;
        while now.duration_since(start) < period {
            self.await_events(&mut events)?;
            for event in &events {
                let connection = usize::try_from(event.data.u64()).ok().and_then(|number| connections.get_mut(number));
                self.advance(connection.context("an event of no connection")?, &mut buffer)?;
            }
            now = Instant::now();
        }
        Ok(start.elapsed())
    }

    fn await_events(&self, events: &mut Vec<epoll::Event>) -> Result<()> {
        let timeout = rustix::event::Timespec { tv_sec: i64::try_from(ANSWER_TIMEOUT.as_secs())?, tv_nsec: 0 };
        wait(&self.epoll, events, Some(&timeout))?;
        ensure!(!events.is_empty(), "no answer for {} s", ANSWER_TIMEOUT.as_secs());
        Ok(())
    }

    /// Goes as far as the socket lets it.
    fn advance(&mut self, connection: &mut Connection, buffer: &mut [u8]) -> Result<()> {
        connection.send(&self.request)?;
        loop {
            match nonblocking(connection.stream.read(buffer))? {
                None => return Ok(()),
                Some(0) => bail!("the server closed a connection"),
                Some(read) => {
                    if connection.take(&buffer[..read], self.download)? {
                        self.record(connection);
                        connection.send(&self.request)?;
                    }
                    if read < buffer.len() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Notes an answer that is whole, and starts the clock of the next request.
    fn record(&mut self, connection: &mut Connection) {
        let now = Instant::now();
        if self.measuring {
            let nanos = now.duration_since(connection.started).as_nanos();
            self.histogram.saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
        connection.started = now;
        connection.sent = 0;
    }

    fn outcome(&self, elapsed: Duration) -> Outcome {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        Outcome {
            requests: self.histogram.len(),
            elapsed: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: self.histogram.max(),
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// When the request under way was begun.
    started: Instant,
    /// Bytes of it that are out.
    sent: usize,
    /// What has come of a response's head that is not complete.
    head: Vec<u8>,
    /// Bytes of the response's body still to come; `None` while its head comes.
    body_left: Option<usize>,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { stream, started: Instant::now(), sent: 0, head: Vec::new(), body_left: None }
    }

    /// Sends what is left of the request.
    fn send(&mut self, request: &[u8]) -> Result<()> {
        while self.sent < request.len() {
            match nonblocking(self.stream.write(&request[self.sent..]))? {
                Some(0) => bail!("the server closed a connection"),
                Some(written) => self.sent += written,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Takes what was read. `true`: the response is whole, and right.
    fn take(&mut self, mut bytes: &[u8], expected: usize) -> Result<bool> {
        if self.body_left.is_none() {
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            let Some(end) = wire::head_end(&self.head)? else { return Ok(false) };
            let head = &self.head[..end];
            let (status, length) = (wire::status(head)?, wire::body_length(head, None)?);
            ensure!(status == 200, "the status is {status}: {}", String::from_utf8_lossy(&self.head));
            ensure!(length == expected, "the body has {length} bytes, not {expected}");
            bytes = &bytes[end - before..];
            self.head.clear();
            self.body_left = Some(length);
        }
        let left = self.body_left.unwrap_or_default();
        ensure!(bytes.len() <= left, "more bytes came than the response has");
        self.body_left = (left > bytes.len()).then(|| left - bytes.len());
        Ok(self.body_left.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_kept_to_three_digits() {
        let mut histogram = latencies();
        for nanos in [50_000, 80_000, 20_000_000] {
            histogram.saturating_record(nanos);
        }
        let within = |value: u64, expected: u64| value.abs_diff(expected) * 1000 <= expected;
        assert!(within(histogram.value_at_quantile(0.5), 80_000), "{}", histogram.value_at_quantile(0.5));
        assert!(within(histogram.max(), 20_000_000), "{}", histogram.max());
    }

    #[test]
    fn an_outcome_survives_the_pipe() {
        let outcome = Outcome { requests: 1, elapsed: 2, p50: 3, p99: 4, p999: 5, max: 6 };
        assert_eq!(Outcome::from_json(&outcome.to_json().to_string()).unwrap(), outcome);
        assert!(Outcome::from_json("{}").is_err());
    }

    /// Feeds `pieces` of a response, whose body should have five bytes, to a connection of which nothing else is used.
    #[track_caller]
    fn check_response(pieces: &[&str], expected: Result<bool, &str>) {
        let listener = std::net::TcpListener::bind(super::super::loopback(0)).unwrap();
        let mut connection = Connection::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let taken = pieces.iter().try_fold(false, |_, piece| connection.take(piece.as_bytes(), 5));
        assert_eq!(taken.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{pieces:?}");
    }

    #[test]
    fn every_response_is_verified() {
        check_response(&["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"], Ok(true));
        check_response(&["HTTP/1.1 200 OK\r\ncontent-length: 5\r", "\n\r\nhe", "llo"], Ok(true));
        check_response(&["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell"], Ok(false));
        check_response(&["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhell"], Err("the body has 4 bytes, not 5"));
        check_response(
            &["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello!"],
            Err("more bytes came than the response has"),
        );
        let refused = "HTTP/1.1 503 No\r\ncontent-length: 5\r\n\r\n";
        check_response(&[refused], Err(&format!("the status is 503: {refused}")));
    }
}
