//! What the state machine keeps in memory for each function: its slots and counters, never its elements.

use bytes::Bytes;

use super::codec::{Reader, Result, Writer};
use super::element::{Element, Phase};
use crate::model::function::FunctionId;

/// Elements of one function by phase, and what became of others. Also what people and metrics are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionQueue {
    pub id: FunctionId,
    /// Elements that may run at once; zero while the function has no ready replica.
    pub slots: u32,
    pub paused: bool,
    pub ready: u64,
    pub running: u64,
    /// Answered with 202, not yet called back.
    pub accepted: u64,
    /// Between two attempts.
    pub waiting: u64,
    pub dead: u64,
    /// Of all that are not dead.
    pub bytes: u64,
    pub dead_bytes: u64,
    pub totals: Totals,
}

/// Counted from the function's first element on. A function without elements, slots and pause is forgotten, and with it
/// these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub enqueued: u64,
    pub refused: u64,
    pub succeeded: u64,
    /// Attempts that failed, timed out, or were lost.
    pub failed_attempts: u64,
    pub died: u64,
    /// Dead letters forgotten because of a limit.
    pub dead_dropped: u64,
}

impl FunctionQueue {
    pub fn new(id: FunctionId) -> Self {
        Self {
            id,
            slots: 0,
            paused: false,
            ready: 0,
            running: 0,
            accepted: 0,
            waiting: 0,
            dead: 0,
            bytes: 0,
            dead_bytes: 0,
            totals: Totals::default(),
        }
    }

    /// Elements that are still to be delivered or to be called back: what keeps a function awake.
    pub fn pending(&self) -> u64 {
        self.ready + self.running + self.accepted + self.waiting
    }

    /// Nothing would be lost by forgetting it.
    pub fn is_blank(&self) -> bool {
        self.pending() == 0 && self.dead == 0 && self.slots == 0 && !self.paused
    }

    pub(super) fn has_free_slot(&self) -> bool {
        !self.paused && self.running < u64::from(self.slots)
    }

    pub(super) fn count(&mut self, element: &Element) {
        *self.counter(element.phase) += 1;
        *self.byte_counter(element.phase) += element.bytes;
    }

    pub(super) fn discount(&mut self, element: &Element) {
        *self.counter(element.phase) -= 1;
        *self.byte_counter(element.phase) -= element.bytes;
    }

    fn counter(&mut self, phase: Phase) -> &mut u64 {
        match phase {
            Phase::Ready => &mut self.ready,
            Phase::Running { .. } => &mut self.running,
            Phase::Accepted { .. } => &mut self.accepted,
            Phase::Waiting => &mut self.waiting,
            Phase::Dead { .. } => &mut self.dead,
        }
    }

    fn byte_counter(&mut self, phase: Phase) -> &mut u64 {
        if matches!(phase, Phase::Dead { .. }) { &mut self.dead_bytes } else { &mut self.bytes }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(128);
        writer.function(&self.id);
        writer.number(u64::from(self.slots));
        writer.flag(self.paused);
        let counters = [self.ready, self.running, self.accepted, self.waiting, self.dead, self.bytes, self.dead_bytes];
        let Totals { enqueued, refused, succeeded, failed_attempts, died, dead_dropped } = self.totals;
        for number in counters.into_iter().chain([enqueued, refused, succeeded, failed_attempts, died, dead_dropped]) {
            writer.number(number);
        }
        writer.0
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let queue = Self {
            id: reader.function()?,
            slots: reader.narrow()?,
            paused: reader.flag()?,
            ready: reader.number()?,
            running: reader.number()?,
            accepted: reader.number()?,
            waiting: reader.number()?,
            dead: reader.number()?,
            bytes: reader.number()?,
            dead_bytes: reader.number()?,
            totals: Totals {
                enqueued: reader.number()?,
                refused: reader.number()?,
                succeeded: reader.number()?,
                failed_attempts: reader.number()?,
                died: reader.number()?,
                dead_dropped: reader.number()?,
            },
        };
        reader.end()?;
        Ok(queue)
    }
}
