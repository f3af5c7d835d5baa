//! From a caller's first byte to the function's being called, one call at a time: mostly what storing takes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bench::gateways::{Gateways, function};
use crate::bench::{loopback, wire};
use crate::process::check_interrupted;
use crate::terminal::failure;

/// For the answer, and for the function to be called after it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two calls: nothing of one is left when the next one comes.
const PAUSE: Duration = Duration::from_millis(5);
const BODY_BYTES: usize = super::BODY_BYTES;
/// The function's calls at once.
const SLOTS: u32 = 10;

/// Milliseconds since the first byte was sent, of each call.
pub(super) struct Times {
    pub(super) accepted: Vec<f64>,
    pub(super) called: Vec<f64>,
}

/// Calls a function `calls` times through `nodes` nodes, in turns.
pub(super) fn measure(gateway: &Path, folder: &Path, nodes: u16, calls: usize) -> Result<Times> {
    let folder = folder.join(format!("end-to-end-{nodes}"));
    std::fs::create_dir(&folder)?;
    let (port, called) = start_function()?;
    let gateways = Gateways::start(gateway, &folder, nodes, &[function("called", port, SLOTS)])?;
    let mut callers = Vec::new();
    for port in &gateways.ports {
        let stream = TcpStream::connect(loopback(*port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        callers.push(stream);
    }
    let head =
        format!("POST /async-function/called/0 HTTP/1.1\r\nhost: localhost\r\ncontent-length: {BODY_BYTES}\r\n\r\n");
    let request = [head.as_bytes(), &[b'u'; BODY_BYTES]].concat();
    let mut times = Times { accepted: Vec::new(), called: Vec::new() };
    // Once around opens the connections to the function and lets the nodes settle.
    let warmup = callers.len() * 10;
    for number in 0..warmup + calls {
        check_interrupted()?;
        let index = number % callers.len();
        let start = Instant::now();
        callers[index].write_all(&request)?;
        let status = read_answer(&mut callers[index])?;
        let accepted = start.elapsed();
        ensure!(status == 202, "a call was answered with {status}");
        let call = called.recv_timeout(TIMEOUT).context("the function is not called")?;
        if number >= warmup {
            times.accepted.push(accepted.as_secs_f64() * 1e3);
            times.called.push(call.duration_since(start).as_secs_f64() * 1e3);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(times)
}

/// The status of the next answer, which has no body.
fn read_answer(stream: &mut TcpStream) -> Result<u16> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the gateway closed the connection");
        head.extend_from_slice(&buffer[..read]);
        if wire::head_end(&head)?.is_some() {
            return wire::status(&head);
        }
    }
}

/// A function in this process, which tells when each call has come. It lives as long as this process does.
fn start_function() -> Result<(u16, Receiver<Instant>)> {
    let listener = TcpListener::bind(loopback(0)).context("cannot bind a loopback port")?;
    let port = listener.local_addr()?.port();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let calls = sender.clone();
            std::thread::spawn(move || {
                if let Err(error) = serve(stream, &calls) {
                    failure(&format!("the called function: {error:#}"));
                }
            });
        }
    });
    Ok((port, receiver))
}

/// Answers calls until the other side closes or nobody wants to know of them.
fn serve(mut stream: TcpStream, calls: &Sender<Instant>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut request = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let read = match stream.read(&mut buffer) {
            // A gateway that ends does not say good-bye.
            Ok(0) | Err(_) => return Ok(()),
            Ok(read) => read,
        };
        request.extend_from_slice(&buffer[..read]);
        let Some(end) = wire::head_end(&request)? else { continue };
        let whole = end + wire::body_length(&request[..end], Some(0))?;
        if request.len() < whole {
            continue;
        }
        ensure!(request.len() == whole, "a request came before the answer to the one before");
        if calls.send(Instant::now()).is_err() {
            return Ok(());
        }
        request.clear();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}
