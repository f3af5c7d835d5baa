//! A steady load on the gateway's Service, as keep-alive clients make it.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use slimfaas_tests::http1::{Answer, Connection};

/// Clients, each with one connection.
const CLIENTS: u32 = 20;

/// A load that goes on until it is stopped.
pub(super) struct Load {
    address: SocketAddr,
    path: &'static str,
    per_second: u32,
    over: AtomicBool,
    failures: Mutex<Vec<String>>,
}

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) requests: u64,
    pub(super) slowest: Duration,
    pub(super) failures: Vec<String>,
}

impl Load {
    pub(super) fn new(address: SocketAddr, path: &'static str, per_second: u32) -> Self {
        Self { address, path, per_second, over: AtomicBool::new(false), failures: Mutex::default() }
    }

    /// Starts the clients.
    pub(super) fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
    ) -> Vec<ScopedJoinHandle<'scope, (u64, Duration)>> {
        (0..CLIENTS).map(|number| scope.spawn(move || self.client(number))).collect()
    }

    pub(super) fn stop(&self, clients: Vec<ScopedJoinHandle<'_, (u64, Duration)>>) -> Result<Outcome> {
        self.over.store(true, Ordering::SeqCst);
        let mut outcome = Outcome::default();
        for client in clients {
            let Ok((requests, slowest)) = client.join() else { bail!("a client panicked") };
            outcome.requests += requests;
            outcome.slowest = outcome.slowest.max(slowest);
        }
        outcome.failures = std::mem::take(&mut self.failures.lock().expect("no client panicked"));
        Ok(outcome)
    }

    fn client(&self, number: u32) -> (u64, Duration) {
        let period = Duration::from_secs(1) * CLIENTS / self.per_second;
        let began = Instant::now();
        let mut next = began + period * number / CLIENTS;
        let (mut requests, mut slowest) = (0, Duration::ZERO);
        let mut kept = None;
        while !self.over.load(Ordering::SeqCst) {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            // What a slow answer delayed is not made up for: this is a client, not a benchmark.
            next = (next + period).max(Instant::now());
            let sent = Instant::now();
            let answer = self.request(&mut kept, requests);
            requests += 1;
            slowest = slowest.max(sent.elapsed());
            let failure = match answer {
                Ok(answer) if answer.status == 200 => continue,
                Ok(answer) => format!("{} {}", answer.status, answer.text()),
                Err(error) => format!("{error:#}"),
            };
            let failure = format!("{:.2} s, after {:?}: {failure}", began.elapsed().as_secs_f64(), sent.elapsed());
            self.failures.lock().expect("no client panicked").push(failure);
            kept = None;
        }
        (requests, slowest)
    }

    fn request(&self, kept: &mut Option<Connection>, number: u64) -> Result<Answer> {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(self.address)?,
        };
        let path = self.path;
        if number.is_multiple_of(4) {
            connection.send(format!("POST {path}/echo HTTP/1.1\r\nhost: e2e\r\ncontent-length: 5\r\n\r\nhello"))?;
        } else {
            connection.send(format!("GET {path}/slow?ms=20 HTTP/1.1\r\nhost: e2e\r\n\r\n"))?;
        }
        let answer = connection.answer()?;
        if answer.header("connection") != Some("close") {
            *kept = Some(connection);
        }
        Ok(answer)
    }
}
