//! The client of a benchmark: N connections, each sending a next request when the answer to a former one is whole.
//! One thread and three system calls a request, so that it is much cheaper than what it measures.
//!
//! It prints [`MEASURING`] when the warm-up is over, and one line of JSON ([`Outcome`]) at the end.

pub(crate) mod dialect;
mod http;
pub(crate) mod nats;
pub(crate) mod redis;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use rustix::event::epoll;

use super::backend::{EVENTS, READ_BYTES, nonblocking, wait, watch};
use crate::terminal::line;
use dialect::{Answers, Dialect, Question, Script};

/// The line that says: from now on it counts.
pub(crate) const MEASURING: &str = "measuring";
/// For one answer to start coming; a proxy that hangs must not hang the benchmark.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Latencies are kept to three digits, up to this many nanoseconds: what takes longer ends the run first.
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;

#[derive(Args)]
pub(crate) struct Options {
    /// Connections are spread over these
    #[arg(long, required = true, value_delimiter = ',')]
    address: Vec<SocketAddr>,
    #[arg(long, value_enum, default_value = "http")]
    dialect: Dialect,
    /// The path, subject or key
    #[arg(long)]
    path: String,
    /// Bytes of each request's body; 0 sends GET, more sends POST
    #[arg(long)]
    upload: usize,
    /// The status that each response must have
    #[arg(long, default_value_t = 200)]
    status: u16,
    /// Bytes that each response's body must have
    #[arg(long)]
    download: usize,
    #[arg(long)]
    connections: u64,
    /// Requests under way at once on each connection
    #[arg(long, default_value_t = 1)]
    window: usize,
    #[arg(long)]
    warmup_millis: u64,
    /// How long is measured
    #[arg(long)]
    millis: u64,
    /// Ends when so many requests were measured
    #[arg(long)]
    requests: Option<u64>,
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
    let shares = options.window > 1;
    ensure!(
        !shares || options.dialect.may_share(),
        "a connection carries one request at a time in {:?}",
        options.dialect
    );
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut load = Load { epoll, histogram: latencies(), measuring: false, enough: u64::MAX };
    let mut connections = Vec::new();
    for (number, address) in (0..options.connections).zip(options.address.iter().cycle()) {
        let connection = Connection::open(options, *address, number)?;
        watch(&load.epoll, &connection.stream, number)?;
        connections.push(connection);
    }
    for connection in &mut connections {
        (0..options.window).for_each(|_| connection.begin(Instant::now()));
        connection.send()?;
    }
    load.run_for(Duration::from_millis(options.warmup_millis), &mut connections)?;
    line(MEASURING);
    load.measuring = true;
    load.enough = options.requests.unwrap_or(u64::MAX);
    let elapsed = load.run_for(Duration::from_millis(options.millis), &mut connections)?;
    line(&load.outcome(elapsed).to_json().to_string());
    Ok(())
}

fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3).expect("the bounds are in order, and three digits are allowed")
}

struct Load {
    epoll: OwnedFd,
    histogram: Histogram<u64>,
    /// Whether latencies are recorded.
    measuring: bool,
    /// Recorded latencies at which it ends.
    enough: u64,
}

impl Load {
    /// Runs for `period`, or until it is enough, and returns how long it was in truth.
    fn run_for(&mut self, period: Duration, connections: &mut [Connection]) -> Result<Duration> {
        let start = Instant::now();
        let mut events = Vec::with_capacity(EVENTS);
        let mut buffer = vec![0; READ_BYTES];
        let mut now = start;
        while now.duration_since(start) < period && self.histogram.len() < self.enough {
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
        connection.send()?;
        loop {
            match nonblocking(connection.stream.read(buffer))? {
                None => return Ok(()),
                Some(0) => bail!("the server closed a connection"),
                Some(read) => {
                    for _ in 0..connection.answers.take(&buffer[..read])? {
                        self.record(connection)?;
                    }
                    connection.send()?;
                    if read < buffer.len() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Notes an answer that is whole, and begins the next request.
    fn record(&mut self, connection: &mut Connection) -> Result<()> {
        let now = Instant::now();
        let started = connection.started.pop_front().context("an answer came to no request")?;
        if self.measuring && self.histogram.len() < self.enough {
            let nanos = now.duration_since(started).as_nanos();
            self.histogram.saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
        connection.begin(now);
        Ok(())
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
    request: Vec<u8>,
    answers: Answers,
    /// When each request without an answer was begun.
    started: VecDeque<Instant>,
    /// Of these, how many are not out yet.
    unsent: usize,
    /// Bytes of the first unsent one that are out.
    sent: usize,
}

impl Connection {
    fn open(options: &Options, address: SocketAddr, number: u64) -> Result<Self> {
        let Options { dialect, path, upload, status, download, .. } = options;
        let question =
            Question { address, target: path.clone(), upload: *upload, status: *status, download: *download };
        let Script { greeting, request, mut answers } = dialect.script(&question, number);
        let mut stream = TcpStream::connect(address).context("cannot connect")?;
        if let Some((words, last_line)) = greeting {
            let more = dialect::greet(&mut stream, &words, last_line)?;
            ensure!(answers.take(&more)? == 0, "an answer came before the question");
        }
        Ok(Self { stream, request, answers, started: VecDeque::new(), unsent: 0, sent: 0 })
    }

    /// Has one more request sent.
    fn begin(&mut self, now: Instant) {
        self.started.push_back(now);
        self.unsent += 1;
    }

    /// Sends what is left of the requests.
    fn send(&mut self) -> Result<()> {
        while self.unsent > 0 {
            if self.sent == 0 {
                let owed = self.answers.owed();
                // A few bytes, and more of them would be owed only after these.
                let written = if owed.is_empty() { 0 } else { self.stream.write(owed)? };
                ensure!(written == owed.len(), "the socket does not take {} bytes", owed.len());
            }
            match nonblocking(self.stream.write(&self.request[self.sent..]))? {
                Some(0) => bail!("the server closed a connection"),
                Some(written) => self.sent += written,
                None => return Ok(()),
            }
            if self.sent == self.request.len() {
                (self.sent, self.unsent) = (0, self.unsent - 1);
            }
        }
        Ok(())
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
}
