//! A function of the test's own: keeps every byte that it gets and answers with exact ones.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::gateway::loopback;
use crate::http1::header;

/// A server on a port of its own. Its threads end with the test's process.
pub struct Backend {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    accepted: AtomicUsize,
    closed: AtomicUsize,
    requests: Mutex<Vec<Request>>,
}

/// What came on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Request line and headers as they came, with the empty line.
    pub head: String,
    /// As it came, with its chunk sizes.
    pub body: Vec<u8>,
    /// Connections are counted from 1.
    pub connection: usize,
    /// False: the connection ended within it.
    pub is_whole: bool,
}

impl Request {
    pub fn line(&self) -> &str {
        self.head.split("\r\n").next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// What to do once a request has come.
pub enum Reply {
    /// These bytes; the connection stays.
    Keep(Vec<u8>),
    /// These bytes; the connection is closed.
    Close(Vec<u8>),
}

/// A 200 with this body.
pub fn ok(body: &str) -> Reply {
    Reply::Keep(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

pub fn keep(bytes: &str) -> Reply {
    Reply::Keep(bytes.as_bytes().to_vec())
}

impl Backend {
    /// Answers each request, on whatever connection, by `script`.
    pub fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Result<Self> {
        Self::start_at(loopback(0), script)
    }

    pub fn start_at(address: SocketAddr, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Result<Self> {
        Self::serve(address, move |stream, number, shared| {
            // A connection that breaks is the test's own doing, and shows in what was recorded.
            let _ended = answer_all(stream, number, shared, &script);
        })
    }

    /// Gives each connection, after its first request's head, to `script`.
    pub fn raw(script: impl Fn(TcpStream, &str) + Send + Sync + 'static) -> Result<Self> {
        Self::serve(loopback(0), move |stream, number, shared| {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if !matches!((&stream).read(&mut byte), Ok(1)) {
                    return;
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            shared.record(Request { head: head.clone(), body: Vec::new(), connection: number, is_whole: true });
            script(stream, &head);
        })
    }

    fn serve(address: SocketAddr, serve: impl Fn(TcpStream, usize, &Shared) + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot bind {address}"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let (serve, all) = (Arc::new(serve), Arc::clone(&shared));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (serve, shared) = (Arc::clone(&serve), Arc::clone(&all));
                let number = shared.accepted.fetch_add(1, Ordering::SeqCst) + 1;
                std::thread::spawn(move || {
                    serve(stream, number, &shared);
                    shared.closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { address, shared })
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are closed on this side.
    pub fn closed(&self) -> usize {
        self.shared.closed.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests().clone()
    }

    pub fn forget(&self) {
        self.shared.requests().clear();
    }
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, request: Request) {
        self.requests().push(request);
    }
}

fn answer_all(
    mut stream: TcpStream,
    connection: usize,
    shared: &Shared,
    script: &dyn Fn(&Request) -> Reply,
) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = Request { head: String::new(), body: Vec::new(), connection, is_whole: false };
        let read = read_request(&mut reader, &mut request);
        request.is_whole = read.is_ok();
        if request.head.is_empty() {
            return read;
        }
        shared.record(request.clone());
        read?;
        match script(&request) {
            Reply::Keep(bytes) => stream.write_all(&bytes)?,
            Reply::Close(bytes) => {
                stream.write_all(&bytes)?;
                return Ok(());
            }
        }
    }
}

fn read_request(reader: &mut impl BufRead, request: &mut Request) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let read = reader.read_until(b'\n', &mut head);
        request.head = String::from_utf8_lossy(&head).into_owned();
        ensure!(read? > 0, "the connection ended");
    }
    if header(&request.head, "transfer-encoding").is_some() {
        return read_chunks(reader, &mut request.body);
    }
    let length = header(&request.head, "content-length").map_or(Ok(0), str::parse)?;
    reader.take(length).read_to_end(&mut request.body)?;
    ensure!(request.body.len() as u64 == length, "the connection ended within a body");
    Ok(())
}

/// Chunk by chunk, with the trailers.
fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> Result<()> {
    let line = |body: &mut Vec<u8>, reader: &mut dyn BufRead| -> Result<String> {
        let begin = body.len();
        let mut bytes = Vec::new();
        let read = reader.read_until(b'\n', &mut bytes)?;
        ensure!(read > 0, "the connection ended within a body");
        body.extend(bytes);
        Ok(String::from_utf8_lossy(&body[begin..]).trim_end().to_owned())
    };
    loop {
        let size = u64::from_str_radix(&line(body, reader)?, 16)?;
        if size == 0 {
            while !line(body, reader)?.is_empty() {}
            return Ok(());
        }
        let read = reader.take(size + 2).read_to_end(body)?;
        ensure!(read as u64 == size + 2, "the connection ended within a chunk");
    }
}
