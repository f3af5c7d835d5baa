//! The function behind every proxy of a benchmark: one thread and next to no work, so that it is the cheapest part of
//! what is measured. `/…/N` answers with N bytes, whatever the method and body.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::{loopback, wire};
use crate::terminal::{failure, line};

/// What the first line of output starts with; the port follows.
pub(crate) const LISTENING: &str = "listening ";
/// The largest body that may be asked for.
const BODY_BYTES_MAX: usize = 1 << 20;
/// One read takes a whole 64 KiB body with its head.
pub(crate) const READ_BYTES: usize = 80 * 1024;
/// Events taken from the kernel at once.
pub(crate) const EVENTS: usize = 128;
/// The listener's mark among the connections' numbers.
const LISTENER: u64 = u64::MAX;

/// Serves until it is ended.
pub(crate) fn run() -> Result<()> {
    let listener = TcpListener::bind(loopback(0)).context("cannot bind a loopback port")?;
    listener.set_nonblocking(true)?;
    line(&format!("{LISTENING}{}", listener.local_addr()?.port()));
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    Backend { epoll, listener, connections: BTreeMap::new(), next: 0, answers: BTreeMap::new() }.serve()
}

struct Backend {
    epoll: OwnedFd,
    listener: TcpListener,
    connections: BTreeMap<u64, Connection>,
    /// The number of the next connection.
    next: u64,
    /// Complete responses by the length of their body.
    answers: BTreeMap<usize, Vec<u8>>,
}

impl Backend {
    fn serve(mut self) -> Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            wait(&self.epoll, &mut events, None)?;
            for event in &events {
                let number = event.data.u64();
                if number == LISTENER {
                    self.accept()?;
                } else if let Some(connection) = self.connections.get_mut(&number) {
                    let open = connection.advance(&mut buffer, &mut self.answers).unwrap_or_else(|error| {
                        failure(&format!("bench backend: {error:#}"));
                        false
                    });
                    if !open {
                        self.connections.remove(&number);
                    }
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot accept a connection"),
            };
            watch(&self.epoll, &stream, self.next)?;
            let connection = Connection { stream, head: Vec::new(), state: State::Head };
            self.connections.insert(self.next, connection);
            self.next += 1;
        }
    }
}

/// Waits for events, for `timeout` at most: then there are none.
pub(crate) fn wait(epoll: &OwnedFd, events: &mut Vec<epoll::Event>, timeout: Option<&Timespec>) -> Result<()> {
    events.clear();
    match epoll::wait(epoll, rustix::buffer::spare_capacity(events), timeout) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("cannot wait for connections"),
    }
}

/// Has every change of `stream` reported under `number`. Edges, so that nothing need be asked of the kernel again: a
/// read shorter than its buffer and a write that would block are what a new edge follows.
pub(crate) fn watch(epoll: &OwnedFd, stream: &TcpStream, number: u64) -> Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    epoll::add(epoll, stream, EventData::new_u64(number), flags).context("cannot watch a connection")
}

struct Connection {
    stream: TcpStream,
    /// What has come of a head that is not complete.
    head: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// Reading a head.
    Head,
    /// Reading a body of which `left` bytes are to come.
    Body { left: usize, answer: usize },
    /// Sending the response with a body of `answer` bytes, of which `sent` bytes are out.
    Answer { answer: usize, sent: usize },
}

impl Connection {
    /// Goes as far as the socket lets it. `false`: the other side has closed.
    fn advance(&mut self, buffer: &mut [u8], answers: &mut BTreeMap<usize, Vec<u8>>) -> Result<bool> {
        loop {
            if let State::Answer { answer, sent } = self.state {
                let bytes = answers.entry(answer).or_insert_with(|| response(answer));
                let Some(written) = nonblocking(self.stream.write(&bytes[sent..]))? else { return Ok(true) };
                if written == 0 {
                    return Ok(false);
                }
                let sent = sent + written;
                if sent == bytes.len() {
                    // What comes next comes after this answer, so with an edge of its own.
                    self.state = State::Head;
                    return Ok(true);
                }
                self.state = State::Answer { answer, sent };
                continue;
            }
            match nonblocking(self.stream.read(buffer))? {
                None => return Ok(true),
                Some(0) => return Ok(false),
                Some(read) => {
                    self.take(&buffer[..read])?;
                    if read < buffer.len() && !matches!(self.state, State::Answer { .. }) {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Takes what was read. A second request before the first one's answer is not for this server.
    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        if let State::Head = self.state {
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            let Some(end) = wire::head_end(&self.head)? else { return Ok(()) };
            let answer = answer_length(&self.head[..end])?;
            let left = wire::body_length(&self.head[..end], Some(0))?;
            bytes = &bytes[end - before..];
            self.head.clear();
            self.state = State::Body { left, answer };
        }
        if let State::Body { left, answer } = self.state {
            ensure!(bytes.len() <= left, "a request came before the answer to the one before");
            let left = left - bytes.len();
            self.state = if left == 0 { State::Answer { answer, sent: 0 } } else { State::Body { left, answer } };
        }
        Ok(())
    }
}

/// `None`: the socket has nothing more for now. 0: the other side is gone.
pub(crate) fn nonblocking(result: std::io::Result<usize>) -> Result<Option<usize>> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        // A client that is done with its work does not wait for answers: to a server that is an end like any other.
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(Some(0)),
        Err(error) => Err(error).context("a connection broke"),
    }
}

/// The number at the end of the path.
fn answer_length(head: &[u8]) -> Result<usize> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let path = std::str::from_utf8(line)?.split(' ').nth(1).context("no request line")?;
    let length = path.rsplit('/').next().unwrap_or_default();
    let length = length.parse().with_context(|| format!("{path} does not end in a number"))?;
    ensure!(length <= BODY_BYTES_MAX, "{length} bytes are too many");
    Ok(length)
}

fn response(length: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + length, b'x');
    bytes
}
