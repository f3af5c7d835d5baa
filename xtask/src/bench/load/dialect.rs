//! What a client of the benchmark says and how it reads the answers: one request at a time on each connection, and
//! every answer verified.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::{http, nats, redis};

/// A greeting longer than this is not one of ours.
const GREETING_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dialect {
    Http,
    /// `PUB` with a reply subject, and JetStream's acknowledgement on it
    Nats,
    /// `XADD`
    Redis,
    /// `XADD`, then `WAIT` for one replica
    RedisReplicated,
}

/// What is asked again and again.
pub(crate) struct Question {
    pub(crate) address: SocketAddr,
    /// The path, subject or key.
    pub(crate) target: String,
    /// Bytes that each request carries.
    pub(crate) upload: usize,
    /// Status and bytes of each right answer, where the dialect has such.
    pub(crate) status: u16,
    pub(crate) download: usize,
}

/// One connection's words.
pub(crate) struct Script {
    /// Said once, and the last line of the answer to it.
    pub(crate) greeting: Option<(Vec<u8>, &'static str)>,
    pub(crate) request: Vec<u8>,
    pub(crate) answers: Answers,
}

impl Dialect {
    /// The words of the connection with this number.
    pub(crate) fn script(self, question: &Question, number: u64) -> Script {
        match self {
            Self::Http => http::script(question),
            Self::Nats => nats::script(question, &format!("{}.{number}", std::process::id())),
            Self::Redis => redis::script(question, false),
            Self::RedisReplicated => redis::script(question, true),
        }
    }
}

/// Reads one answer after the other.
pub(crate) enum Answers {
    Http(http::Answers),
    Nats(nats::Answers),
    Redis(redis::Answers),
}

impl Answers {
    /// Takes what was read. `true`: the answer is whole, and right.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<bool> {
        match self {
            Self::Http(answers) => answers.take(bytes),
            Self::Nats(answers) => answers.take(bytes),
            Self::Redis(answers) => answers.take(bytes),
        }
    }

    /// What has to be said before the next request.
    pub(crate) fn owed(&mut self) -> &'static [u8] {
        match self {
            Self::Nats(answers) => answers.owed(),
            Self::Http(_) | Self::Redis(_) => &[],
        }
    }
}

/// Greets on a connection that still blocks.
pub(crate) fn greet(stream: &mut TcpStream, greeting: &[u8], last_line: &str) -> Result<()> {
    stream.write_all(greeting)?;
    let mut answer = Vec::new();
    while !answer.ends_with(last_line.as_bytes()) {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).context("no answer to the greeting")?;
        ensure!(read > 0, "the server closed a connection: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..read]);
        ensure!(answer.len() < GREETING_BYTES_MAX, "the answer to the greeting does not end");
    }
    Ok(())
}

/// The first line of `buffer`, without its end, and where the next one begins.
pub(super) fn first_line(buffer: &[u8]) -> Result<Option<(&str, usize)>> {
    let Some(end) = buffer.windows(2).position(|bytes| bytes == b"\r\n") else { return Ok(None) };
    Ok(Some((std::str::from_utf8(&buffer[..end]).context("a line is no text")?, end + 2)))
}
