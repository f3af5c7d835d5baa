//! The network between nodes: packets that take time, get lost, come twice, overtake each other, and do not cross a
//! cut. A call is one packet, and its answer another.
//!
//! Not turmoil's: the store does not open sockets but calls a `Transport`; turmoil's hosts can neither be stopped for a
//! while (SIGSTOP) nor have wall clocks of their own, it duplicates nothing, and a step costs it several times as much.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use slimfaas_gateway::store::transport::{Calling, Lane, Transport, TransportError};
use tokio::sync::oneshot;

use crate::dice::Dice;

#[derive(Clone, Debug)]
pub struct Packet {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub call: u64,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub enum Content {
    Call(Bytes),
    Answer(Bytes),
    /// Nobody is at the address: what a connection that is refused tells.
    Nobody,
}

/// The peer port gives up a connection on which it hears nothing for five seconds, and with it the calls that wait there,
/// however long they might. Every simulated call that takes so long waits for a packet that was lost.
const SILENCE_MAX: Duration = Duration::from_secs(6);

/// What a node has sent and nobody carried yet.
pub type Outbox = Arc<Mutex<Vec<Packet>>>;

/// One node's end.
pub struct Port {
    pub at: SocketAddr,
    pub outbox: Outbox,
    pub calls: Arc<Mutex<Calls>>,
}

/// Calls that wait for their answer.
#[derive(Default)]
pub struct Calls {
    next: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Content>>,
}

impl Calls {
    pub fn answer(&mut self, call: u64, content: Content) {
        if let Some(waiting) = self.waiting.remove(&call) {
            let _gave_up = waiting.send(content).is_err();
        }
    }
}

impl Transport for Port {
    fn call(&self, to: SocketAddr, _lane: Lane, payload: Bytes, timeout: Duration) -> Calling<'_> {
        let (done, answered) = oneshot::channel();
        let call = {
            let mut calls = self.calls.lock().expect("one thread, which does not panic here");
            calls.next += 1;
            let call = calls.next;
            calls.waiting.insert(call, done);
            call
        };
        let packet = Packet { from: self.at, to, call, content: Content::Call(payload) };
        self.outbox.lock().expect("one thread, which does not panic here").push(packet);
        Box::pin(async move {
            let answer = tokio::time::timeout(timeout.min(SILENCE_MAX), answered).await;
            match answer {
                Ok(Ok(Content::Answer(bytes))) => Ok(bytes),
                Ok(Ok(_)) => Err(TransportError::NotSent(format!("{to}: connection refused"))),
                Ok(Err(_)) | Err(_) => {
                    self.calls.lock().expect("one thread, which does not panic here").waiting.remove(&call);
                    Err(TransportError::NotAnswered(format!("{to} is silent")))
                }
            }
        })
    }
}

/// How well packets travel at the moment.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss: f64,
    pub duplication: f64,
    /// Of most packets.
    pub delay_ms: (u64, u64),
    /// Of one in twenty.
    pub tail_ms: (u64, u64),
}

impl Weather {
    pub const FAIR: Self = Self { loss: 0.0, duplication: 0.0, delay_ms: (1, 2), tail_ms: (1, 5) };
}

/// Carries packets between addresses.
pub struct Network {
    dice: Dice,
    pub weather: Weather,
    /// By the millisecond in which they arrive, in an order that the dice decide.
    travelling: BTreeMap<(u64, u64, u64), Packet>,
    sent: u64,
    /// From and to.
    cut: BTreeSet<(SocketAddr, SocketAddr)>,
    /// A planted bug: a lost call to append to the log is answered with success.
    pub invents_answers: bool,
}

/// First byte of a call that appends, and the answer of a peer that did.
const APPEND: u8 = 1;
const APPENDED: [u8; 2] = [0, 0];

impl Network {
    pub fn new(dice: Dice) -> Self {
        let (travelling, cut) = (BTreeMap::new(), BTreeSet::new());
        Self { dice, weather: Weather::FAIR, travelling, sent: 0, cut, invents_answers: false }
    }

    pub fn cut(&mut self, from: SocketAddr, to: SocketAddr) {
        self.cut.insert((from, to));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn send(&mut self, now_ms: u64, packet: Packet) {
        let copies = 1 + u64::from(self.dice.chance(self.weather.duplication));
        for _ in 0..copies {
            let mut packet = packet.clone();
            if self.dice.chance(self.weather.loss) {
                match &packet.content {
                    Content::Call(call) if self.invents_answers && call.first() == Some(&APPEND) => {
                        let content = Content::Answer(Bytes::from_static(&APPENDED));
                        packet = Packet { from: packet.to, to: packet.from, call: packet.call, content };
                    }
                    _ => continue,
                }
            }
            let (least, most) = if self.dice.chance(0.05) { self.weather.tail_ms } else { self.weather.delay_ms };
            let due = now_ms + self.dice.within(least..=most);
            self.sent += 1;
            let order = self.dice.within(0..=u64::MAX);
            self.travelling.insert((due, order, self.sent), packet);
        }
    }

    /// What arrives by now. A cut takes what is on its way.
    pub fn arrived(&mut self, now_ms: u64) -> Vec<Packet> {
        let later = self.travelling.split_off(&(now_ms + 1, 0, 0));
        let arrived = std::mem::replace(&mut self.travelling, later).into_values();
        arrived.filter(|packet| !self.cut.contains(&(packet.from, packet.to))).collect()
    }
}
