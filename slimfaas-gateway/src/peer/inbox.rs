//! Puts the parts of messages together. Pure.
//!
//! It admits nothing by itself: who calls [`Inbox::begin`] has looked whether the message may be that large.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::peer::frame::{Head, Violation};

/// A message of which every part has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) id: u32,
    pub(super) head: Head,
    pub(super) payload: Bytes,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    partial: BTreeMap<u32, (Head, BytesMut)>,
}

impl Inbox {
    /// The first part of an admitted message.
    pub(super) fn begin(&mut self, id: u32, head: Head, data: &[u8]) -> Result<Option<Whole>, Violation> {
        let total = head.total as usize;
        if data.len() > total {
            return Err(Violation::TooLong);
        }
        if data.len() == total {
            return Ok(Some(Whole { id, head, payload: Bytes::copy_from_slice(data) }));
        }
        if data.is_empty() {
            return Err(Violation::EmptyPart);
        }
        // All at once: what is not written to costs no memory, and growing would copy.
        let mut payload = BytesMut::with_capacity(total);
        payload.extend_from_slice(data);
        if self.partial.insert(id, (head, payload)).is_some() {
            return Err(Violation::Repeated(id));
        }
        Ok(None)
    }

    /// A further part; of a message that was not admitted, or withdrawn, it is dropped.
    pub(super) fn more(&mut self, id: u32, data: &[u8]) -> Result<Option<Whole>, Violation> {
        if data.is_empty() {
            return Err(Violation::EmptyPart);
        }
        let Some((head, payload)) = self.partial.get_mut(&id) else { return Ok(None) };
        let total = head.total as usize;
        if payload.len() + data.len() > total {
            return Err(Violation::TooLong);
        }
        payload.extend_from_slice(data);
        if payload.len() < total {
            return Ok(None);
        }
        let ended = self.partial.remove(&id);
        Ok(ended.map(|(head, payload)| Whole { id, head, payload: payload.freeze() }))
    }

    /// Forgets a message that is not whole; true if there was one.
    pub(super) fn withdraw(&mut self, id: u32) -> bool {
        self.partial.remove(&id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(total: u32) -> Head {
        Head { code: 1, millis: 0, total }
    }

    #[test]
    fn parts_make_a_message() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.begin(1, head(4), b"ab"), Ok(None));
        let other = Whole { id: 2, head: head(0), payload: Bytes::new() };
        assert_eq!(inbox.begin(2, head(0), b""), Ok(Some(other)));
        assert_eq!(inbox.more(1, b"c"), Ok(None));
        let whole = Whole { id: 1, head: head(4), payload: Bytes::from_static(b"abcd") };
        assert_eq!(inbox.more(1, b"d"), Ok(Some(whole)));
        assert!(!inbox.withdraw(1));
    }

    #[test]
    fn no_message_grows_beyond_what_it_announced() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.begin(1, head(1), b"ab"), Err(Violation::TooLong));
        assert_eq!(inbox.begin(1, head(3), b"ab"), Ok(None));
        assert_eq!(inbox.more(1, b"cd"), Err(Violation::TooLong));
        assert_eq!(inbox.more(1, b""), Err(Violation::EmptyPart));
        assert_eq!(inbox.begin(1, head(3), b"ab"), Err(Violation::Repeated(1)));
        assert_eq!(inbox.begin(2, head(3), b""), Err(Violation::EmptyPart));
    }

    #[test]
    fn parts_of_a_withdrawn_message_are_dropped() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.begin(1, head(3), b"ab"), Ok(None));
        assert!(inbox.withdraw(1));
        assert!(!inbox.withdraw(1));
        assert_eq!(inbox.more(1, b"cde"), Ok(None));
    }
}
