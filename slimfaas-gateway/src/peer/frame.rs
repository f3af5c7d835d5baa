//! What a record is made of. Pure.
//!
//! ```text
//! record  = frame…
//! frame   = tag:u8 id:u32 len:u16 body[len]           (integers big-endian)
//! Begin 1 = code:u8 millis:u32 total:u32 data         first part of a request or a reply of `total` bytes
//! More  2 = data                                      the next part
//! Cancel 3, Ping 4, Pong 5, Leave 6 = nothing
//! ```
//!
//! The calling side numbers its calls; a reply has its call's number. `code` is the kind of a request or the outcome of
//! a reply; `millis` is what is left of a request's time, and 0 in a reply. `Leave` asks the calling side to begin no more
//! calls on this connection and to close it.

/// Of a record, without the 16 bytes that prove it genuine: Noise's limit is 65535.
pub(super) const RECORD_BYTES_MAX: usize = 65_535 - 16;

pub(super) const HEADER_BYTES: usize = 7;
pub(super) const BEGIN_BYTES: usize = 9;

const BEGIN: u8 = 1;
const MORE: u8 = 2;
const CANCEL: u8 = 3;
const PING: u8 = 4;
const PONG: u8 = 5;
const LEAVE: u8 = 6;

/// What the first part of a message says of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) code: u8,
    pub(super) millis: u32,
    pub(super) total: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Begin { id: u32, head: Head, data: &'a [u8] },
    More { id: u32, data: &'a [u8] },
    Cancel { id: u32 },
    Ping,
    Pong,
    Leave,
}

/// The other end does not keep to the protocol: the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("a frame is cut off")]
    CutOff,
    #[error("the frame tag {0} is unknown")]
    UnknownTag(u8),
    #[error("a frame has a body that its tag has not")]
    Body,
    #[error("call {0} begins while it runs")]
    Repeated(u32),
    #[error("a message has more bytes than announced")]
    TooLong,
    #[error("a part of a message is empty")]
    EmptyPart,
    #[error("a reply is larger than its kind allows")]
    ReplyTooLarge,
    #[error("the outcome {0} is unknown")]
    UnknownOutcome(u8),
    #[error("too many calls were refused without the refusals being read")]
    TooManyRefused,
    #[error("a frame came that only the calling side sends, or only the answering one")]
    WrongDirection,
}

impl Frame<'_> {
    /// Appends the frame; its data must fit (`u16`, with the head).
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let (tag, id, head, data) = match *self {
            Self::Begin { id, head, data } => (BEGIN, id, Some(head), data),
            Self::More { id, data } => (MORE, id, None, data),
            Self::Cancel { id } => (CANCEL, id, None, &[][..]),
            Self::Ping => (PING, 0, None, &[][..]),
            Self::Pong => (PONG, 0, None, &[][..]),
            Self::Leave => (LEAVE, 0, None, &[][..]),
        };
        let len = data.len() + if head.is_some() { BEGIN_BYTES } else { 0 };
        out.push(tag);
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&u16::try_from(len).expect("a part fits a frame").to_be_bytes());
        if let Some(Head { code, millis, total }) = head {
            out.push(code);
            out.extend_from_slice(&millis.to_be_bytes());
            out.extend_from_slice(&total.to_be_bytes());
        }
        out.extend_from_slice(data);
    }
}

/// The frames of a record; an error is the last item.
pub(super) struct Frames<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Violation>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let parsed = parse(self.0);
        self.0 = parsed.as_ref().map_or(&[], |(_, rest)| rest);
        Some(parsed.map(|(frame, _)| frame))
    }
}

fn parse(bytes: &[u8]) -> Result<(Frame<'_>, &[u8]), Violation> {
    let (tag, rest) = take::<1>(bytes)?;
    let (id, rest) = take::<4>(rest)?;
    let (len, rest) = take::<2>(rest)?;
    let (id, len) = (u32::from_be_bytes(id), usize::from(u16::from_be_bytes(len)));
    let (body, rest) = rest.split_at_checked(len).ok_or(Violation::CutOff)?;
    let frame = match tag[0] {
        BEGIN => begin(id, body)?,
        MORE => Frame::More { id, data: body },
        CANCEL | PING | PONG | LEAVE if !body.is_empty() => return Err(Violation::Body),
        CANCEL => Frame::Cancel { id },
        PING => Frame::Ping,
        PONG => Frame::Pong,
        LEAVE => Frame::Leave,
        unknown => return Err(Violation::UnknownTag(unknown)),
    };
    Ok((frame, rest))
}

fn begin(id: u32, body: &[u8]) -> Result<Frame<'_>, Violation> {
    let (code, rest) = take::<1>(body)?;
    let (millis, rest) = take::<4>(rest)?;
    let (total, data) = take::<4>(rest)?;
    let head = Head { code: code[0], millis: u32::from_be_bytes(millis), total: u32::from_be_bytes(total) };
    Ok(Frame::Begin { id, head, data })
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Violation> {
    bytes.split_first_chunk::<N>().map(|(taken, rest)| (*taken, rest)).ok_or(Violation::CutOff)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: Head = Head { code: 2, millis: 1500, total: 3 };

    #[test]
    fn the_layout_is_the_documented_one() {
        let mut record = Vec::new();
        Frame::Begin { id: 0x0102_0304, head: HEAD, data: b"abc" }.write(&mut record);
        assert_eq!(record, [1, 1, 2, 3, 4, 0, 12, 2, 0, 0, 5, 0xdc, 0, 0, 0, 3, b'a', b'b', b'c']);
        record.clear();
        Frame::Cancel { id: 1 }.write(&mut record);
        assert_eq!(record, [3, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn what_is_no_frame_is_told_apart() {
        let check = |record: &[u8], expected: Violation| {
            assert_eq!(Frames(record).collect::<Vec<_>>(), [Err(expected)], "{record:?}");
        };
        check(&[4], Violation::CutOff);
        check(&[2, 0, 0, 0, 1, 0, 2, 9], Violation::CutOff);
        check(&[1, 0, 0, 0, 1, 0, 1, 9], Violation::CutOff);
        check(&[4, 0, 0, 0, 0, 0, 1, 9], Violation::Body);
        check(&[9, 0, 0, 0, 0, 0, 0], Violation::UnknownTag(9));
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_a_violation(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let frames: Vec<_> = Frames(&bytes).collect();
            prop_assert!(frames.iter().rev().skip(1).all(Result::is_ok), "nothing follows an error");
            // What was understood is written back the same, but for the number of a ping, which means nothing.
            let mut again = Vec::new();
            frames.iter().flatten().for_each(|frame| frame.write(&mut again));
            let pings = frames.iter().flatten().any(|frame| matches!(frame, Frame::Ping | Frame::Pong | Frame::Leave));
            prop_assert!(pings || bytes.starts_with(&again));
        }

        #[test]
        fn frames_come_out_as_they_went_in(
            frames in proptest::collection::vec(
                (0_u8..6, any::<u32>(), any::<(u8, u32, u32)>(), proptest::collection::vec(any::<u8>(), 0..50)), 0..20),
        ) {
            let of = |(tag, id, (code, millis, total), data): &'_ (u8, u32, (u8, u32, u32), Vec<u8>)| -> Vec<u8> {
                let mut out = Vec::new();
                let head = Head { code: *code, millis: *millis, total: *total };
                match tag {
                    0 => Frame::Begin { id: *id, head, data },
                    1 => Frame::More { id: *id, data },
                    2 => Frame::Cancel { id: *id },
                    3 => Frame::Ping,
                    4 => Frame::Pong,
                    _ => Frame::Leave,
                }.write(&mut out);
                out
            };
            let record: Vec<u8> = frames.iter().flat_map(of).collect();
            let parsed: Vec<_> = Frames(&record).collect();
            prop_assert_eq!(parsed.len(), frames.len());
            let mut again = Vec::new();
            parsed.iter().for_each(|frame| frame.unwrap().write(&mut again));
            prop_assert_eq!(again, record);
        }
    }
}
