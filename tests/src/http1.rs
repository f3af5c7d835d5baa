//! An HTTP/1.1 client that sends exactly the bytes it is given and shows exactly those that it gets.

use std::fmt::Display;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// For one read or write; longer than anything that a test waits for.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at what only polling shows.
const POLL: Duration = Duration::from_millis(10);

/// One connection to the gateway.
pub struct Connection {
    reader: BufReader<TcpStream>,
}

/// One response, read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers, with their line ends and the empty line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of the first header `name` (lowercase).
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// All bytes, but for when they were sent.
    pub fn without_date(&self) -> String {
        let lines = self.head.split_inclusive("\r\n");
        let head: String = lines.map(|line| if line.starts_with("date: ") { "date: \r\n" } else { line }).collect();
        head + &self.text()
    }
}

/// The value of the first header `name` (lowercase) of a head.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Self> {
        Self::open_within(address, TIMEOUT)
    }

    /// `timeout` is also that of each read and write.
    pub fn open_within(address: SocketAddr, timeout: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, timeout).context("the gateway takes no connection")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref()).context("cannot send")
    }

    /// Status line and headers, up to the empty line.
    pub fn head(&mut self) -> Result<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let read = self.reader.read_until(b'\n', &mut head).context("no response")?;
            ensure!(read > 0, "the connection ended within a head: {:?}", String::from_utf8_lossy(&head));
        }
        String::from_utf8(head).context("a head that is no UTF-8")
    }

    pub fn answer(&mut self) -> Result<Answer> {
        let head = self.head()?;
        let status = status_of(&head)?;
        let body = if matches!(status, 100..=199 | 204 | 304) { Vec::new() } else { self.body(&head)? };
        Ok(Answer { status, head, body })
    }

    fn body(&mut self, head: &str) -> Result<Vec<u8>> {
        if header(head, "transfer-encoding").is_some() {
            let mut body = Vec::new();
            while let Some(chunk) = self.chunk()? {
                body.extend(chunk);
            }
            return Ok(body);
        }
        match header(head, "content-length") {
            Some(length) => {
                let mut body = vec![0; length.parse()?];
                self.reader.read_exact(&mut body).context("the body is too short")?;
                Ok(body)
            }
            None => self.rest(),
        }
    }

    /// The next chunk of a chunked body; `None` is its end.
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let size = self.line()?;
        let size = usize::from_str_radix(&size, 16).with_context(|| format!("no chunk size: {size:?}"))?;
        if size == 0 {
            while !self.line()?.is_empty() {}
            return Ok(None);
        }
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).context("the chunk is too short")?;
        ensure!(chunk.ends_with(b"\r\n"), "a chunk has no line end");
        chunk.truncate(size);
        Ok(Some(chunk))
    }

    /// A line without its end.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.reader.read_line(&mut line)? > 0, "the connection ended");
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Exactly this many bytes.
    pub fn bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).context("the connection ended early")?;
        Ok(bytes)
    }

    /// Reads and forgets exactly this many bytes.
    pub fn skip(&mut self, count: u64) -> Result<()> {
        let skipped = std::io::copy(&mut self.reader.by_ref().take(count), &mut std::io::sink())?;
        ensure!(skipped == count, "{skipped} bytes instead of {count}");
        Ok(())
    }

    /// Everything until the gateway closes the connection; a reset is a close.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => Ok(rest),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(rest),
            Err(error) => Err(error).context("the gateway does not close the connection"),
        }
    }
}

pub fn status_of(head: &str) -> Result<u16> {
    let status = head.strip_prefix("HTTP/1.1 ").or_else(|| head.strip_prefix("HTTP/1.0 "));
    let status = status.and_then(|rest| rest.get(..3)).and_then(|digits| digits.parse().ok());
    status.with_context(|| format!("no status line: {head:?}"))
}

/// One call on a connection of its own, without a body.
pub fn call(address: SocketAddr, method: &str, target: impl Display) -> Result<Answer> {
    request(address, &format!("{method} {target} HTTP/1.1\r\nHost: gateway\r\n\r\n"))
}

pub fn get(address: SocketAddr, target: impl Display) -> Result<Answer> {
    call(address, "GET", target)
}

/// A call with a body of known length.
pub fn post(address: SocketAddr, target: &str, body: &[u8]) -> Result<Answer> {
    let mut connection = Connection::open(address)?;
    let length = body.len();
    connection.send(format!("POST {target} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {length}\r\n\r\n"))?;
    connection.send(body)?;
    connection.answer()
}

/// These bytes on a connection of their own, and what answers them.
pub fn request(address: SocketAddr, bytes: &str) -> Result<Answer> {
    let mut connection = Connection::open(address)?;
    connection.send(bytes)?;
    connection.answer()
}

/// Waits until `look` finds something.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("within {} s: not {what}", limit.as_secs());
        }
        std::thread::sleep(POLL);
    }
}
