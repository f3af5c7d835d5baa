//! The gateway processes that deliver: who takes the next element, and what happens to the elements of one that is gone.

use bytes::Bytes;

use super::{Queue, Step, place};
use crate::queue::codec::{self, Reader, Writer};
use crate::queue::command::{Effect, Reply};
use crate::queue::element::{End, PeerRun};
use crate::queue::tables::{Result, Table, Tables};

/// The live process of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    incarnation: u64,
    /// It is ending, and gets no more elements.
    is_draining: bool,
    /// Elements that it delivers now.
    running: u64,
}

impl Peer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.fixed(self.incarnation);
        writer.flag(self.is_draining);
        writer.number(self.running);
        writer.0
    }

    pub(super) fn decode(bytes: Bytes) -> codec::Result<Self> {
        let mut reader = Reader::new(bytes);
        let peer = Self { incarnation: reader.fixed()?, is_draining: reader.flag()?, running: reader.number()? };
        reader.end()?;
        Ok(peer)
    }
}

impl Queue {
    /// Whether the process takes part: registered, and not declared gone since.
    pub fn is_up(&self, run: PeerRun) -> bool {
        self.peers.get(&run.node).is_some_and(|peer| peer.incarnation == run.incarnation)
    }

    /// The processes that take part.
    pub fn peers(&self) -> impl Iterator<Item = PeerRun> {
        self.peers.iter().map(|(node, peer)| PeerRun { node: *node, incarnation: peer.incarnation })
    }

    /// The peer with the fewest elements; among equals, the one after the last that got one.
    pub(super) fn peer_for_next(&self) -> Option<PeerRun> {
        let after_last = |node: u64| node <= self.last_assigned;
        let able = self.peers.iter().filter(|(_, peer)| !peer.is_draining);
        let (node, peer) = able.min_by_key(|(node, peer)| (peer.running, after_last(**node), **node))?;
        Some(PeerRun { node: *node, incarnation: peer.incarnation })
    }

    pub(super) fn peer_took(&mut self, run: PeerRun) {
        self.last_assigned = run.node;
        self.count_running(run, 1);
    }

    pub(super) fn peer_released(&mut self, run: PeerRun) {
        self.count_running(run, -1);
    }

    fn count_running(&mut self, run: PeerRun, change: i64) {
        if let Some(peer) = self.peers.get_mut(&run.node).filter(|peer| peer.incarnation == run.incarnation) {
            peer.running = peer.running.saturating_add_signed(change);
            self.changed_peers.insert(run.node);
        }
    }

    pub(super) fn peer_up(&mut self, step: &mut Step<'_, impl Tables>, run: PeerRun) -> Result<Reply> {
        if !self.is_up(run) {
            self.release(step, run.node)?;
            let peer = Peer { incarnation: run.incarnation, is_draining: false, running: 0 };
            self.peers.insert(run.node, peer);
            self.changed_peers.insert(run.node);
            self.dispatch_all(step)?;
        }
        Ok(Reply::Done)
    }

    pub(super) fn peer_draining(&mut self, run: PeerRun) -> Reply {
        match self.peers.get_mut(&run.node) {
            Some(peer) if peer.incarnation == run.incarnation => {
                peer.is_draining = true;
                self.changed_peers.insert(run.node);
                Reply::Done
            }
            _ => Reply::Stale,
        }
    }

    pub(super) fn peer_down(&mut self, step: &mut Step<'_, impl Tables>, run: PeerRun) -> Result<Reply> {
        if !self.is_up(run) {
            return Ok(Reply::Stale);
        }
        step.effects.push(Effect::PeerGone(run));
        self.release(step, run.node)?;
        Ok(Reply::Done)
    }

    /// Removes a node's process; what it held is delivered by others, or waits for one.
    fn release(&mut self, step: &mut Step<'_, impl Tables>, node: u64) -> Result<()> {
        if self.peers.remove(&node).is_none() {
            return Ok(());
        }
        self.changed_peers.insert(node);
        while let Some((id, element)) = place::first_below(step.tables, Table::Held, node)? {
            self.end_attempt(step, id, element, End::PeerLost)?;
        }
        Ok(())
    }

    fn dispatch_all(&mut self, step: &mut Step<'_, impl Tables>) -> Result<()> {
        let waiting = self.functions.iter().filter(|(_, queue)| queue.ready > 0);
        let waiting: Vec<u64> = waiting.map(|(number, _)| *number).collect();
        waiting.into_iter().try_for_each(|function| self.dispatch(step, function))
    }
}
