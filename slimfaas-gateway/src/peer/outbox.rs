//! In which order waiting messages go into records. Pure.
//!
//! What fits one part goes first and whole; longer messages share what is left, a part each in turn, so that a big
//! transfer delays a small call by a record at most, and small calls do not stop a big transfer.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::peer::frame::{BEGIN_BYTES, Frame, HEADER_BYTES, Head, RECORD_BYTES_MAX};

/// The part of a long message that goes at a time: four share a record, and the headers are a thousandth of it.
pub(super) const PART_BYTES: usize = 16_000;

/// What short messages may take of a record while a long one waits.
const SHORT_SHARE: usize = RECORD_BYTES_MAX - PART_BYTES - HEADER_BYTES - BEGIN_BYTES;

#[derive(Debug)]
struct Message {
    id: u32,
    head: Head,
    payload: Bytes,
    /// `None`: nothing of it has gone yet.
    sent: Option<usize>,
}

/// Messages that wait to be sent. Its owner bounds how many and how large.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    control: VecDeque<Frame<'static>>,
    short: VecDeque<Message>,
    long: VecDeque<Message>,
}

/// How much of a withdrawn message had gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withdrawn {
    /// Nothing: the other end never hears of it.
    Unsent,
    /// A part.
    Begun,
    /// It was not waiting: all of it has gone, or it never was there.
    Absent,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.short.is_empty() && self.long.is_empty()
    }

    /// `code` and `millis` of the head; its total is the payload's length, which must fit 32 bits.
    pub(super) fn push(&mut self, id: u32, code: u8, millis: u32, payload: Bytes) {
        let total = u32::try_from(payload.len()).expect("payloads are limited to a few MiB");
        let message = Message { id, head: Head { code, millis, total }, payload, sent: None };
        let is_short = message.payload.len() <= PART_BYTES;
        let queue = if is_short { &mut self.short } else { &mut self.long };
        queue.push_back(message);
    }

    /// A frame without a payload; it goes before everything else. One of a kind is enough.
    pub(super) fn push_control(&mut self, frame: Frame<'static>) {
        if !self.control.contains(&frame) {
            self.control.push_back(frame);
        }
    }

    /// For a new connection: only messages of which nothing has gone stay.
    pub(super) fn restart(&mut self) {
        self.control.clear();
        self.long.retain(|message| message.sent.is_none());
    }

    /// Whether nothing of the message has gone.
    pub(super) fn is_unsent(&self, id: u32) -> bool {
        self.short.iter().chain(&self.long).any(|message| message.id == id && message.sent.is_none())
    }

    /// Sends no more of a message.
    pub(super) fn withdraw(&mut self, id: u32) -> Withdrawn {
        for queue in [&mut self.short, &mut self.long] {
            let at = queue.iter().position(|message| message.id == id);
            if let Some(message) = at.and_then(|at| queue.remove(at)) {
                return if message.sent.is_some() { Withdrawn::Begun } else { Withdrawn::Unsent };
            }
        }
        Withdrawn::Absent
    }

    /// Whether a part of some message has gone, and a part has not.
    pub(super) fn is_amid(&self) -> bool {
        self.long.iter().any(|message| message.sent.is_some())
    }

    /// As [`Self::fill`], without beginning a message.
    pub(super) fn fill_begun(&mut self, record: &mut Vec<u8>, ended: impl FnMut(u32)) {
        let unbegun: VecDeque<Message>;
        (unbegun, self.long) = std::mem::take(&mut self.long).into_iter().partition(|message| message.sent.is_none());
        let short = std::mem::take(&mut self.short);
        self.fill(record, ended);
        self.short = short;
        self.long.extend(unbegun);
    }

    /// Appends frames to an empty record and calls `ended` with each message of which the last part is in it.
    pub(super) fn fill(&mut self, record: &mut Vec<u8>, mut ended: impl FnMut(u32)) {
        while record.len() + HEADER_BYTES <= RECORD_BYTES_MAX
            && let Some(frame) = self.control.pop_front()
        {
            frame.write(record);
        }
        let limit = if self.long.is_empty() { RECORD_BYTES_MAX } else { SHORT_SHARE };
        let fits = |record: &Vec<u8>, message: &Message| {
            record.len() + HEADER_BYTES + BEGIN_BYTES + message.payload.len() <= limit
        };
        while let Some(message) = self.short.pop_front_if(|message| fits(record, message)) {
            Frame::Begin { id: message.id, head: message.head, data: &message.payload }.write(record);
            ended(message.id);
        }
        while record.len() + HEADER_BYTES + BEGIN_BYTES < RECORD_BYTES_MAX
            && let Some(mut message) = self.long.pop_front()
        {
            if message.send_part(record) {
                ended(message.id);
            } else {
                self.long.push_back(message);
            }
        }
    }
}

impl Message {
    /// Writes the next part; true after the last one.
    fn send_part(&mut self, record: &mut Vec<u8>) -> bool {
        let room = RECORD_BYTES_MAX - record.len() - HEADER_BYTES - BEGIN_BYTES;
        let from = self.sent.unwrap_or(0);
        let to = self.payload.len().min(from + room.min(PART_BYTES));
        let data = &self.payload[from..to];
        match self.sent {
            None => Frame::Begin { id: self.id, head: self.head, data }.write(record),
            Some(_) => Frame::More { id: self.id, data }.write(record),
        }
        self.sent = Some(to);
        to == self.payload.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peer::frame::Frames;
    use crate::peer::inbox::Inbox;

    fn record(outbox: &mut Outbox) -> (Vec<(u32, usize)>, Vec<u32>) {
        let (mut record, mut ended) = (Vec::new(), Vec::new());
        outbox.fill(&mut record, |id| ended.push(id));
        assert!(record.len() <= RECORD_BYTES_MAX);
        let parts = Frames(&record).map(|frame| match frame.unwrap() {
            Frame::Begin { id, data, .. } | Frame::More { id, data } => (id, data.len()),
            Frame::Cancel { id } => (id, 0),
            Frame::Ping | Frame::Pong | Frame::Leave => (0, 0),
        });
        (parts.collect(), ended)
    }

    #[test]
    fn small_calls_go_before_a_transfer_and_beside_it() {
        let mut outbox = Outbox::default();
        outbox.push(1, 0, 0, Bytes::from(vec![1; 100_000]));
        outbox.push(2, 0, 0, Bytes::from(vec![2; 100_000]));
        outbox.push(3, 0, 0, Bytes::from_static(b"small"));
        outbox.push_control(Frame::Ping);
        let (parts, ended) = record(&mut outbox);
        assert_eq!(ended, [3]);
        assert_eq!(parts[..6], [(0, 0), (3, 5), (1, PART_BYTES), (2, PART_BYTES), (1, PART_BYTES), (2, PART_BYTES)]);
        // However many small ones there are, the transfers go on.
        for id in 10..100 {
            outbox.push(id, 0, 0, Bytes::from(vec![0; PART_BYTES]));
        }
        let (parts, _) = record(&mut outbox);
        assert!(parts.iter().any(|(id, _)| *id == 1 || *id == 2), "{parts:?}");
        assert!(parts.iter().any(|(id, _)| *id >= 10), "{parts:?}");
    }

    #[test]
    fn the_longest_short_message_fits_beside_a_long_one() {
        let mut outbox = Outbox::default();
        outbox.push(1, 0, 0, Bytes::from(vec![1; PART_BYTES + 1]));
        outbox.push(2, 0, 0, Bytes::from(vec![2; PART_BYTES]));
        assert_eq!(record(&mut outbox), (vec![(2, PART_BYTES), (1, PART_BYTES), (1, 1)], vec![2, 1]));
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_has_begun_can_be_ended_alone() {
        let mut outbox = Outbox::default();
        outbox.push(1, 0, 0, Bytes::from(vec![1; 100_000]));
        record(&mut outbox);
        outbox.push(2, 0, 0, Bytes::from(vec![2; 100_000]));
        outbox.push(3, 0, 0, Bytes::from_static(b"small"));
        assert!(outbox.is_amid());
        let (mut record, mut ended) = (Vec::new(), Vec::new());
        outbox.fill_begun(&mut record, |id| ended.push(id));
        assert_eq!(ended, [1]);
        assert!(!outbox.is_amid() && outbox.is_unsent(2) && outbox.is_unsent(3));
        record.clear();
        outbox.fill_begun(&mut record, |id| ended.push(id));
        assert!(record.is_empty());
    }

    #[test]
    fn a_withdrawn_message_is_told_by_what_had_gone() {
        let mut outbox = Outbox::default();
        outbox.push(1, 0, 0, Bytes::from(vec![1; 200_000]));
        outbox.push(2, 0, 0, Bytes::from_static(b"gone"));
        record(&mut outbox);
        outbox.push(3, 0, 0, Bytes::new());
        assert_eq!(outbox.withdraw(1), Withdrawn::Begun);
        assert_eq!(outbox.withdraw(2), Withdrawn::Absent);
        assert_eq!(outbox.withdraw(3), Withdrawn::Unsent);
        assert!(outbox.is_empty());
    }

    proptest! {
        #[test]
        fn every_message_arrives_whole(sizes in proptest::collection::vec(
            prop_oneof![0..64_usize, 15_990..16_010_usize, 60_000..140_000_usize], 1..20)) {
            let mut outbox = Outbox::default();
            for (id, size) in (0_u32..).zip(&sizes) {
                outbox.push(id, 5, 9, Bytes::from(vec![id as u8; *size]));
            }
            let (mut inbox, mut arrived) = (Inbox::default(), Vec::new());
            let mut records = 0;
            while !outbox.is_empty() {
                let mut record = Vec::new();
                outbox.fill(&mut record, |_| {});
                prop_assert!(!record.is_empty() && record.len() <= RECORD_BYTES_MAX);
                for frame in Frames(&record) {
                    let whole = match frame.unwrap() {
                        Frame::Begin { id, head, data } => inbox.begin(id, head, data),
                        Frame::More { id, data } => inbox.more(id, data),
                        other => panic!("{other:?}"),
                    };
                    arrived.extend(whole.unwrap());
                }
                records += 1;
            }
            let bytes: usize = sizes.iter().sum();
            prop_assert!(records <= 2 + bytes / 40_000, "{records} records for {bytes} bytes");
            arrived.sort_by_key(|whole| whole.id);
            prop_assert_eq!(arrived.len(), sizes.len());
            for (whole, size) in arrived.iter().zip(&sizes) {
                prop_assert_eq!(&whole.payload, &vec![whole.id as u8; *size]);
                prop_assert_eq!((whole.head.code, whole.head.millis), (5, 9));
            }
        }
    }
}
