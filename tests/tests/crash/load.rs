//! Clients that send asynchronous calls without end, each one after the other, and write down what they hear.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

use super::client::{Answer, Connection};
use super::cluster::NODES;
use super::history::{Call, Event, History, Kind};

/// Longer than an election; a stopped node answers nobody.
const TIMEOUT: Duration = Duration::from_secs(4);
/// A client stays at a node for as many calls, so that all of them come back to one that was away.
const TURN: u64 = 50;
/// Between two calls: the machine also runs three nodes, and the function keeps up.
const PAUSE: Duration = Duration::from_millis(8);
/// After a failure, as polite clients do.
const BACKOFF: Duration = Duration::from_millis(20);

pub(super) const CLIENTS: usize = 6;

pub(super) struct Load {
    nodes: Arc<RwLock<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Sends bodies of so many bytes to all `nodes`.
    pub(super) fn start(nodes: &[SocketAddr], history: &Arc<History>, body_bytes: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let nodes = Arc::new(RwLock::new(nodes.to_vec()));
        let start = |number| {
            let (nodes, stop, history) = (Arc::clone(&nodes), Arc::clone(&stop), Arc::clone(history));
            std::thread::spawn(move || {
                let mut sender = Client { number, nodes, node: number, connection: None, history };
                for count in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if count % TURN == TURN - 1 {
                        sender.move_on();
                    }
                    sender.send(count, body_bytes);
                }
            })
        };
        let clients = (0..CLIENTS).map(start).collect();
        Self { nodes, stop, clients }
    }

    /// A node is elsewhere now.
    pub(super) fn moved(&self, node: usize, to: SocketAddr) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner)[node] = to;
    }

    /// Waits for what is under way.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client does not panic");
        }
    }
}

struct Client {
    number: usize,
    nodes: Arc<RwLock<Vec<SocketAddr>>>,
    node: usize,
    connection: Option<Connection>,
    history: Arc<History>,
}

impl Client {
    fn move_on(&mut self) {
        self.node += 1;
        self.connection = None;
    }

    fn send(&mut self, count: u64, body_bytes: usize) {
        let (process, id) = (format!("client-{}", self.number), format!("{}-{count}", self.number));
        let node = self.node % NODES;
        self.history.add(Event::new(&process, Kind::Invoke, Call::Enqueue, &id).note(format!("node-{node}")));
        let mut event = Event::new(&process, Kind::Fail, Call::Enqueue, &id).note(format!("node-{node}"));
        let answer = self.open().map(|mut connection| {
            let answer = post(&mut connection, &id, body_bytes);
            self.connection = answer.is_ok().then_some(connection);
            answer
        });
        match answer {
            Err(error) => event = event.note(format!("node-{node}: not sent: {error:#}")),
            Ok(Err(error)) => {
                event.kind = Kind::Info;
                event = event.note(format!("node-{node}: {error:#}"));
            }
            Ok(Ok(answer)) => {
                event.kind = kind_of(answer.status);
                event.status = Some(answer.status);
                event.element = answer.header("slimfaas-element-id").map(str::to_owned);
            }
        }
        let is_good = event.kind == Kind::Ok;
        self.history.add(event);
        if is_good {
            std::thread::sleep(PAUSE);
        } else {
            self.move_on();
            std::thread::sleep(BACKOFF);
        }
    }

    fn open(&mut self) -> Result<Connection> {
        let address = self.nodes.read().unwrap_or_else(PoisonError::into_inner)[self.node % NODES];
        self.connection.take().map_or_else(|| Connection::open_within(address, TIMEOUT), Ok)
    }
}

/// 503 says that nobody took it in time, or that nobody answered whether it was taken: it may come yet.
fn kind_of(status: u16) -> Kind {
    match status {
        202 => Kind::Ok,
        503 | 504 => Kind::Info,
        _ => Kind::Fail,
    }
}

fn post(connection: &mut Connection, id: &str, body_bytes: usize) -> Result<Answer> {
    // The request's name again and again, so that a file that holds it can be searched for it.
    let body: String = format!("{id};").chars().cycle().take(body_bytes).collect();
    connection.send(format!(
        "POST /async-function/f/{id} HTTP/1.1\r\nHost: f\r\nContent-Length: {body_bytes}\r\n\r\n{body}"
    ))?;
    connection.answer()
}
