//! What nodes say to each other about bodies, as bytes.

use bytes::{Bytes, BytesMut};

use crate::queue::codec::{DecodeError, Reader, Result, Writer};
use crate::queue::element::ElementId;
use crate::queue::request::BodyFile;

/// Bytes of a body that travel in one call. Small enough that an upload takes about a megabyte of memory, and large
/// enough that a call costs little beside them.
pub(super) const PART_BYTES: usize = 256 << 10;

/// Before the bytes of [`Write::Part`].
pub(super) const PART_HEAD_BYTES: usize = 1 + 16 + 8 + 8;

/// Calls of `Kind::BodyWrite`. Each may come twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// `expected`: as many bytes are known to come.
    Part { id: ElementId, offset: u64, expected: u64, data: Bytes },
    /// That was all: answered once it is on the disk.
    Finish { id: ElementId, file: BodyFile },
    /// It will not become a body.
    Discard { id: ElementId },
}

/// Answers to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// By this node.
    Done { node: u64 },
    /// The disk is nearly full.
    Full,
    /// This process does not have what came before.
    Unknown,
}

/// Calls of `Kind::BodyRead`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Up to `max` bytes.
    Part { id: ElementId, offset: u64, max: u32 },
    /// How many bodies the node lacks; it hurries to get them.
    Missing,
    /// What was read is not what it should be.
    Suspect { id: ElementId, file: BodyFile },
}

/// Answers to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Part(Bytes),
    Absent,
    Missing(u64),
}

impl Write {
    /// Room for the bytes of a part, behind its head.
    pub(super) fn part(id: ElementId, offset: u64, expected: u64) -> BytesMut {
        let mut writer = Writer::with_capacity(PART_HEAD_BYTES + PART_BYTES);
        writer.byte(1);
        writer.raw(&id.0);
        writer.fixed(offset);
        writer.fixed(expected);
        BytesMut::from(Bytes::from(writer.0))
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(64);
        match self {
            Self::Part { id, offset, expected, data } => {
                let mut part = Self::part(*id, *offset, *expected);
                part.extend_from_slice(data);
                return part.freeze();
            }
            Self::Finish { id, file } => {
                writer.byte(2);
                writer.raw(&id.0);
                file.write(&mut writer);
            }
            Self::Discard { id } => {
                writer.byte(3);
                writer.raw(&id.0);
            }
        }
        writer.0.into()
    }

    /// The data of a part shares the memory of `bytes`.
    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new(bytes.clone());
        let write = match reader.byte()? {
            1 => {
                let (id, offset, expected) = (ElementId::read(&mut reader)?, reader.fixed()?, reader.fixed()?);
                return Ok(Self::Part { id, offset, expected, data: bytes.slice(PART_HEAD_BYTES..) });
            }
            2 => Self::Finish { id: ElementId::read(&mut reader)?, file: BodyFile::read(&mut reader)? },
            3 => Self::Discard { id: ElementId::read(&mut reader)? },
            _ => return Err(DecodeError("has an unknown kind of call")),
        };
        reader.end()?;
        Ok(write)
    }
}

impl Written {
    pub(super) fn encode(self) -> Bytes {
        let mut writer = Writer::with_capacity(9);
        match self {
            Self::Done { node } => {
                writer.byte(0);
                writer.fixed(node);
            }
            Self::Full => writer.byte(1),
            Self::Unknown => writer.byte(2),
        }
        writer.0.into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let written = match reader.byte()? {
            0 => Self::Done { node: reader.fixed()? },
            1 => Self::Full,
            2 => Self::Unknown,
            _ => return Err(DecodeError("has an unknown kind of answer")),
        };
        reader.end()?;
        Ok(written)
    }
}

impl Read {
    pub(super) fn encode(self) -> Bytes {
        let mut writer = Writer::with_capacity(64);
        match self {
            Self::Part { id, offset, max } => {
                writer.byte(1);
                writer.raw(&id.0);
                writer.number(offset);
                writer.number(max.into());
            }
            Self::Missing => writer.byte(2),
            Self::Suspect { id, file } => {
                writer.byte(3);
                writer.raw(&id.0);
                file.write(&mut writer);
            }
        }
        writer.0.into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let read = match reader.byte()? {
            1 => Self::Part { id: ElementId::read(&mut reader)?, offset: reader.number()?, max: reader.narrow()? },
            2 => Self::Missing,
            3 => Self::Suspect { id: ElementId::read(&mut reader)?, file: BodyFile::read(&mut reader)? },
            _ => return Err(DecodeError("has an unknown kind of call")),
        };
        reader.end()?;
        Ok(read)
    }
}

impl Found {
    pub(super) fn encode(&self) -> Bytes {
        match self {
            Self::Part(data) => [&[0], &data[..]].concat().into(),
            Self::Absent => Bytes::from_static(&[1]),
            Self::Missing(count) => {
                let mut writer = Writer::with_capacity(9);
                writer.byte(2);
                writer.fixed(*count);
                writer.0.into()
            }
        }
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new(bytes.clone());
        match reader.byte()? {
            0 => Ok(Self::Part(bytes.slice(1..))),
            1 => Ok(Self::Absent),
            2 => Ok(Self::Missing(reader.fixed()?)),
            _ => Err(DecodeError("has an unknown kind of answer")),
        }
    }
}

/// Whether an encoded call is [`Write::Finish`].
pub(super) fn is_finish(call: &[u8]) -> bool {
    call.first() == Some(&2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ElementId = ElementId([9; 16]);
    const FILE: BodyFile = BodyFile { digest: [7; 32], bytes: 1 << 40 };

    #[test]
    fn calls_are_read_as_written() {
        let data = Bytes::from_static(b"data");
        for write in [
            Write::Part { id: ID, offset: 1 << 40, expected: 0, data: data.clone() },
            Write::Part { id: ID, offset: 0, expected: u64::MAX, data: Bytes::new() },
            Write::Finish { id: ID, file: FILE },
            Write::Discard { id: ID },
        ] {
            assert_eq!(Write::decode(write.encode()), Ok(write));
        }
        for written in [Written::Done { node: u64::MAX }, Written::Full, Written::Unknown] {
            assert_eq!(Written::decode(written.encode()), Ok(written));
        }
        for read in
            [Read::Part { id: ID, offset: 1 << 40, max: 5 }, Read::Missing, Read::Suspect { id: ID, file: FILE }]
        {
            assert_eq!(Read::decode(read.encode()), Ok(read));
        }
        for found in [Found::Part(data), Found::Part(Bytes::new()), Found::Absent, Found::Missing(3)] {
            assert_eq!(Found::decode(found.encode()), Ok(found));
        }
    }

    #[test]
    fn what_is_cut_short_is_no_call() {
        let part = Write::Part { id: ID, offset: 0, expected: 0, data: Bytes::new() }.encode();
        assert_eq!(part.len(), PART_HEAD_BYTES);
        assert!(Write::decode(part.slice(..PART_HEAD_BYTES - 1)).is_err());
        let finish = Write::Finish { id: ID, file: FILE }.encode();
        assert!(Write::decode(finish.slice(..finish.len() - 1)).is_err());
        for bytes in [&[][..], &[9]] {
            let bytes = Bytes::copy_from_slice(bytes);
            assert!(Write::decode(bytes.clone()).is_err() && Written::decode(bytes.clone()).is_err());
            assert!(Read::decode(bytes.clone()).is_err() && Found::decode(bytes).is_err());
        }
    }

    #[test]
    fn a_part_fits_a_call() {
        let limits = crate::peer::Kind::BodyWrite.limits();
        assert!(PART_HEAD_BYTES + PART_BYTES <= limits.request);
    }
}
