//! What a client of the benchmark says and how it reads the answers, of which each is verified.

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
    /// Whether requests may be sent before the answers to former ones.
    pub(crate) fn may_share(self) -> bool {
        self == Self::Nats
    }

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
    /// Takes what was read. Returns how many answers it made whole; all of them are right.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            Self::Http(answers) => answers.take(bytes).map(usize::from),
            Self::Nats(answers) => answers.take(bytes),
            Self::Redis(answers) => answers.take(bytes).map(usize::from),
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

/// Greets on a connection that still blocks. Returns what came behind the answer's last line.
pub(crate) fn greet(stream: &mut TcpStream, greeting: &[u8], last_line: &str) -> Result<Vec<u8>> {
    stream.write_all(greeting)?;
    let mut answer = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).context("no answer to the greeting")?;
        ensure!(read > 0, "the server closed a connection: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..read]);
        if let Some(at) = answer.windows(last_line.len()).position(|bytes| bytes == last_line.as_bytes()) {
            return Ok(answer.split_off(at + last_line.len()));
        }
        ensure!(answer.len() < GREETING_BYTES_MAX, "the answer to the greeting does not end");
    }
}

/// The first line of `buffer`, without its end, and where the next one begins.
pub(super) fn first_line(buffer: &[u8]) -> Result<Option<(&str, usize)>> {
    let Some(end) = buffer.windows(2).position(|bytes| bytes == b"\r\n") else { return Ok(None) };
    Ok(Some((std::str::from_utf8(&buffer[..end]).context("a line is no text")?, end + 2)))
}
