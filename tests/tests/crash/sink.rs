//! The function: writes down every delivery, takes a while, and now and then fails a first try.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::client::header;
use super::history::{Call, Event, History, Kind};

/// Its threads end with the test's process, or with the nodes' connections.
pub(super) struct Sink {
    pub(super) address: SocketAddr,
    work: Arc<AtomicU64>,
}

impl Sink {
    pub(super) fn start(address: SocketAddr, history: &Arc<History>) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot bind {address}"))?;
        let address = listener.local_addr()?;
        let (work, history) = (Arc::new(AtomicU64::new(5)), Arc::clone(history));
        let each = Arc::clone(&work);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let (history, work) = (Arc::clone(&history), Arc::clone(&each));
                std::thread::spawn(move || {
                    // That a node's connection breaks is what the suite is about; the history has it.
                    let _broken = serve(&stream, &format!("function-{number}"), &history, &work);
                });
            }
        });
        Ok(Self { address, work })
    }

    /// How long each call takes from now on.
    pub(super) fn take(&self, time: Duration) {
        self.work.store(u64::try_from(time.as_millis()).expect("a short time"), Ordering::Relaxed);
    }
}

/// Every tenth request fails its first try, whoever delivers it.
fn status_for(id: &str, try_number: u32) -> u16 {
    if try_number == 1 && id.ends_with('7') { 500 } else { 200 }
}

fn serve(stream: &TcpStream, process: &str, history: &History, work: &AtomicU64) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(reader.read_until(b'\n', &mut head)? > 0, "the connection ended");
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let id = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let mut event = Event::new(process, Kind::Invoke, Call::Deliver, &id);
        event.element = header(&head, "slimfaas-element-id").map(str::to_owned);
        event.try_number = header(&head, "slimfaas-try-number").and_then(|number| number.parse().ok());
        let status = status_for(&id, event.try_number.unwrap_or_default());
        history.add(event.clone());
        let ended = finish(&mut reader, &head, status, work, stream);
        // Once the answer is written nobody but the node knows whether it came.
        event.kind = if ended.is_ok() { Kind::Ok } else { Kind::Info };
        event.status = ended.is_ok().then_some(status);
        history.add(event);
        ended?;
    }
}

fn finish(reader: &mut impl BufRead, head: &str, status: u16, work: &AtomicU64, mut stream: &TcpStream) -> Result<()> {
    let length = header(head, "content-length").map_or(Ok(0), str::parse)?;
    let read = std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    ensure!(read == length, "the connection ended within a body");
    std::thread::sleep(Duration::from_millis(work.load(Ordering::Relaxed)));
    stream.write_all(format!("HTTP/1.1 {status} So\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
    Ok(())
}
