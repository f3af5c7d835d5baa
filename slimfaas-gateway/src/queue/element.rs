//! An element: one stored asynchronous request, where it is in its life, and how its attempts ended.

use std::fmt;

use bytes::Bytes;

use super::codec::{DecodeError, Reader, Result, Writer};
use super::request::BodyFile;

/// Ends of attempts that are remembered; with more, the oldest go. The default policy makes four.
pub const ATTEMPTS_KEPT: usize = 32;

/// Longer error texts are cut.
pub const ERROR_BYTES_MAX: usize = 256;

/// Retry delays of a policy, and statuses that it lists; what is above is cut off.
pub const RETRIES_MAX: usize = 64;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Its text form is a lower-case GUID. Those of one gateway node rise with time, so that new elements lie together in
/// the database.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ElementId(pub [u8; 16]);

impl ElementId {
    /// UUID version 7: 48 bits of time, then `entropy` but for the six bits of version and variant.
    pub fn new(unix_millis: u64, entropy: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&unix_millis.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&entropy);
        bytes[6] = bytes[6] & 0x0f | 0x70;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Reads a GUID in either case.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        let mut digits = 0_usize;
        for (at, char) in text.bytes().enumerate() {
            if matches!(at, 8 | 13 | 18 | 23) {
                (char == b'-').then_some(())?;
                continue;
            }
            let digit = char::from(char).to_digit(16)?;
            let byte = bytes.get_mut(digits / 2)?;
            *byte = *byte << 4 | u8::try_from(digit).ok()?;
            digits += 1;
        }
        (digits == 32).then_some(Self(bytes))
    }

    pub fn read(reader: &mut Reader) -> Result<Self> {
        Ok(Self(reader.array()?))
    }
}

impl fmt::Display for ElementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every stored request makes its text; a formatter for each byte takes a microsecond together.
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (index, byte) in self.0.iter().enumerate() {
            at += usize::from(matches!(index, 4 | 6 | 8 | 10));
            text[at] = DIGITS[usize::from(byte >> 4)];
            text[at + 1] = DIGITS[usize::from(byte & 0xf)];
            at += 2;
        }
        f.write_str(std::str::from_utf8(&text).expect("digits and dashes are text"))
    }
}

impl fmt::Debug for ElementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A gateway node's process: the node's identity, and a number that no earlier process of it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerRun {
    pub node: u64,
    pub incarnation: u64,
}

impl PeerRun {
    pub fn write(&self, writer: &mut Writer) {
        writer.fixed(self.node);
        writer.fixed(self.incarnation);
    }

    pub fn read(reader: &mut Reader) -> Result<Self> {
        Ok(Self { node: reader.fixed()?, incarnation: reader.fixed()? })
    }
}

/// How an element is to be delivered, as its function's owner had it when the element came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// For an attempt, and for the callback after a 202, both counted from the attempt's start.
    pub timeout_ms: u64,
    /// One further try after each of these.
    pub retry_delays_ms: Vec<u64>,
    pub retry_statuses: Vec<u16>,
}

impl Policy {
    pub fn write(&self, writer: &mut Writer) {
        writer.number(self.timeout_ms);
        writer.list(self.retry_delays_ms.iter().take(RETRIES_MAX), |writer, delay| writer.number(*delay));
        writer.list(self.retry_statuses.iter().take(RETRIES_MAX), |writer, status| writer.number(u64::from(*status)));
    }

    pub fn read(reader: &mut Reader) -> Result<Self> {
        Ok(Self {
            timeout_ms: reader.number()?,
            retry_delays_ms: reader.list(Reader::number)?,
            retry_statuses: reader.list(Reader::narrow)?,
        })
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The function answered.
    Status(u16),
    /// No answer within the policy's time.
    TimedOut,
    /// The request could not be sent, or the connection broke.
    Failed(String),
    /// The peer gives it back unsent: it is ending, or the function has no replica any more.
    Returned,
    /// The peer that made it is gone.
    PeerLost,
    /// The callback after a 202 did not come in time.
    NoCallback,
    /// The callback said that the function failed.
    CallbackFailed,
    /// The callback said that the function is done.
    CalledBack,
}

impl End {
    pub fn write(&self, writer: &mut Writer) {
        match self {
            Self::Status(status) => {
                writer.byte(0);
                writer.number(u64::from(*status));
            }
            Self::TimedOut => writer.byte(1),
            Self::Failed(error) => {
                writer.byte(2);
                writer.text(shortened(error));
            }
            Self::Returned => writer.byte(3),
            Self::PeerLost => writer.byte(4),
            Self::NoCallback => writer.byte(5),
            Self::CallbackFailed => writer.byte(6),
            Self::CalledBack => writer.byte(7),
        }
    }

    pub fn read(reader: &mut Reader) -> Result<Self> {
        Ok(match reader.byte()? {
            0 => Self::Status(reader.narrow()?),
            1 => Self::TimedOut,
            2 => Self::Failed(reader.text()?),
            3 => Self::Returned,
            4 => Self::PeerLost,
            5 => Self::NoCallback,
            6 => Self::CallbackFailed,
            7 => Self::CalledBack,
            _ => return Err(DecodeError("has an unknown end of an attempt")),
        })
    }
}

/// The longest start of `text` that is within [`ERROR_BYTES_MAX`] and ends with a whole character.
pub fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(ERROR_BYTES_MAX)]
}

/// An attempt that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Counted from 1, anew after a replay.
    pub try_number: u32,
    pub node: u64,
    pub started_ms: u64,
    pub ended_ms: u64,
    pub end: End,
}

/// Where an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waits for a slot of its function.
    Ready,
    /// A peer is calling the function.
    Running { by: PeerRun, started_ms: u64 },
    /// The function answered 202 and will call back.
    Accepted { node: u64, started_ms: u64 },
    /// Waits for its next attempt.
    Waiting,
    /// A dead letter.
    Dead { since_ms: u64, order: u64 },
}

/// Where in the log a request is: it is stored there, and nowhere else while the entry is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Index of the log entry.
    pub entry: u64,
    /// In the entry's content.
    pub offset: u64,
    pub bytes: u64,
}

impl Place {
    /// The request in the content of its entry.
    pub fn within(&self, content: &Bytes) -> Option<Bytes> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(self.bytes).ok()?)?;
        (end <= content.len()).then(|| content.slice(start..end))
    }
}

/// Its stored state, without the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub phase: Phase,
    pub request: Place,
    /// Place among the elements of all functions, by arrival.
    pub order: u64,
    /// Its function, by the number that the state machine gave it.
    pub function: u64,
    pub enqueued_ms: u64,
    /// What it counts for against the limits.
    pub bytes: u64,
    pub body_file: Option<BodyFile>,
    pub policy: Policy,
    /// Attempts begun so far, whether they count or not: the number of an attempt is never used twice.
    pub attempts: u32,
    /// Attempts that count, since the last replay; the running one included.
    pub tries: u32,
    /// Attempts since the last replay that were lost with their peer.
    pub losses: u32,
    /// Its row among the timers.
    pub timer_ms: Option<u64>,
    /// The last [`ATTEMPTS_KEPT`].
    pub history: Vec<Attempt>,
}

impl Element {
    pub fn remember(&mut self, attempt: Attempt) {
        if self.history.len() >= ATTEMPTS_KEPT {
            self.history.remove(0);
        }
        self.history.push(attempt);
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(96 + 40 * self.history.len());
        self.phase.write(&mut writer);
        let Place { entry, offset, bytes } = self.request;
        for number in [entry, offset, bytes, self.order, self.function, self.enqueued_ms, self.bytes] {
            writer.number(number);
        }
        writer.option(self.body_file, |writer, file| file.write(writer));
        self.policy.write(&mut writer);
        for number in [self.attempts, self.tries, self.losses] {
            writer.number(u64::from(number));
        }
        writer.option(self.timer_ms, Writer::number);
        writer.list(self.history.iter(), |writer, attempt| attempt.write(writer));
        writer.0
    }

    pub fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let element = Self {
            phase: Phase::read(&mut reader)?,
            request: Place { entry: reader.number()?, offset: reader.number()?, bytes: reader.number()? },
            order: reader.number()?,
            function: reader.number()?,
            enqueued_ms: reader.number()?,
            bytes: reader.number()?,
            body_file: reader.option(BodyFile::read)?,
            policy: Policy::read(&mut reader)?,
            attempts: reader.narrow()?,
            tries: reader.narrow()?,
            losses: reader.narrow()?,
            timer_ms: reader.option(Reader::number)?,
            history: reader.list(Attempt::read)?,
        };
        reader.end()?;
        Ok(element)
    }
}

impl Phase {
    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Ready => writer.byte(0),
            Self::Running { by, started_ms } => {
                writer.byte(1);
                by.write(writer);
                writer.number(*started_ms);
            }
            Self::Accepted { node, started_ms } => {
                writer.byte(2);
                writer.fixed(*node);
                writer.number(*started_ms);
            }
            Self::Waiting => writer.byte(3),
            Self::Dead { since_ms, order } => {
                writer.byte(4);
                writer.number(*since_ms);
                writer.number(*order);
            }
        }
    }

    fn read(reader: &mut Reader) -> Result<Self> {
        Ok(match reader.byte()? {
            0 => Self::Ready,
            1 => Self::Running { by: PeerRun::read(reader)?, started_ms: reader.number()? },
            2 => Self::Accepted { node: reader.fixed()?, started_ms: reader.number()? },
            3 => Self::Waiting,
            4 => Self::Dead { since_ms: reader.number()?, order: reader.number()? },
            _ => return Err(DecodeError("has an unknown phase")),
        })
    }
}

impl Attempt {
    fn write(&self, writer: &mut Writer) {
        writer.number(u64::from(self.try_number));
        writer.fixed(self.node);
        writer.number(self.started_ms);
        writer.number(self.ended_ms);
        self.end.write(writer);
    }

    fn read(reader: &mut Reader) -> Result<Self> {
        Ok(Self {
            try_number: reader.narrow()?,
            node: reader.fixed()?,
            started_ms: reader.number()?,
            ended_ms: reader.number()?,
            end: End::read(reader)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_guids_that_rise_with_time() {
        let id = ElementId::new(0x0123_4567_89ab, [0xff; 10]);
        assert_eq!(id.to_string(), "01234567-89ab-7fff-bfff-ffffffffffff");
        assert_eq!(ElementId::parse(&id.to_string().to_uppercase()), Some(id));
        assert!(ElementId::new(0x0123_4567_89ac, [0; 10]) > id);
        for text in ["", "01234567-89ab-7fff-bfff-fffffffffff", "01234567-89ab-7fff-bfff-ffffffffffff0", "é"] {
            assert_eq!(ElementId::parse(text), None, "{text}");
        }
        assert_eq!(ElementId::parse("01234567089ab-7fff-bfff-ffffffffffff"), None);
    }

    #[test]
    fn elements_are_read_as_written() {
        let by = PeerRun { node: u64::MAX, incarnation: 1 };
        let phases = [
            Phase::Ready,
            Phase::Running { by, started_ms: 5 },
            Phase::Accepted { node: 3, started_ms: 5 },
            Phase::Waiting,
            Phase::Dead { since_ms: 9, order: 2 },
        ];
        for phase in phases {
            let mut element = example(phase);
            for status in 0..=u16::try_from(ATTEMPTS_KEPT).unwrap() {
                let end = End::Status(status);
                element.remember(Attempt { try_number: 1, node: 7, started_ms: 1, ended_ms: 2, end });
            }
            assert_eq!(element.history.len(), ATTEMPTS_KEPT);
            assert_eq!(element.history[0].end, End::Status(1));
            assert_eq!(Element::decode(element.encode().into()), Ok(element));
        }
    }

    #[test]
    fn long_errors_are_cut_between_characters() {
        let mut writer = Writer::default();
        End::Failed(format!("x{}", "é".repeat(200))).write(&mut writer);
        let read = End::read(&mut Reader::of(&writer.0)).unwrap();
        assert_eq!(read, End::Failed(format!("x{}", "é".repeat(127))));
    }

    fn example(phase: Phase) -> Element {
        Element {
            phase,
            request: Place { entry: 10, offset: 300, bytes: 1024 },
            order: 1,
            function: 2,
            enqueued_ms: 3,
            bytes: 4,
            body_file: Some(BodyFile { digest: [1; 32], bytes: 5 }),
            policy: Policy { timeout_ms: 6, retry_delays_ms: vec![7], retry_statuses: vec![500] },
            attempts: 8,
            tries: 2,
            losses: 1,
            timer_ms: Some(9),
            history: Vec::new(),
        }
    }
}
