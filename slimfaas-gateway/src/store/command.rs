//! What a log entry holds: the batches of proposals that were waiting when it was made.
//!
//! A batch is encoded once, by the node whose proposals it holds, and travels and is stored as those bytes. Entries of
//! a version that this code does not know stop the node: to skip one would make its state differ from its peers'.

use bytes::Bytes;

use crate::queue::codec::{DecodeError, Reader, Result, Writer};
use crate::queue::command::{Command, Reply};
use crate::queue::element::PeerRun;

/// First byte of an entry.
const FORMAT: u8 = 1;

/// Proposals of one node, applied together and answered together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub from: PeerRun,
    /// Counted from 1 by the process that proposes, and the same when it proposes the batch again because it does not
    /// know what became of it. Zero: not counted, for commands that may be applied twice.
    pub number: u64,
    /// The process knows what became of all its batches below this number.
    pub settled: u64,
    pub commands: Vec<Command>,
}

impl Batch {
    pub fn encode(&self) -> Bytes {
        let size: usize = self.commands.iter().map(Command::size_hint).sum();
        let mut writer = Writer::with_capacity(size + 48);
        self.from.write(&mut writer);
        writer.number(self.number);
        writer.number(self.settled);
        writer.list(self.commands.iter(), |writer, command| command.write(writer));
        writer.0.into()
    }

    pub fn decode(mut reader: Reader) -> Result<Self> {
        let batch = Self {
            from: PeerRun::read(&mut reader)?,
            number: reader.number()?,
            settled: reader.number()?,
            commands: reader.list(Command::read)?,
        };
        reader.end()?;
        Ok(batch)
    }
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchReply {
    /// One for each command, in order.
    Applied(Vec<Reply>),
    /// Nothing was applied: the process that proposed it does not take part (any more).
    NotUp,
    /// Nothing was applied now; its process said that it knows what became of it.
    Settled,
}

impl BatchReply {
    pub fn write(&self, writer: &mut Writer) {
        match self {
            Self::Applied(replies) => {
                writer.byte(0);
                writer.list(replies.iter(), |writer, reply| reply.write(writer));
            }
            Self::NotUp => writer.byte(1),
            Self::Settled => writer.byte(2),
        }
    }

    pub fn read(reader: &mut Reader) -> Result<Self> {
        Ok(match reader.byte()? {
            0 => Self::Applied(reader.list(Reply::read)?),
            1 => Self::NotUp,
            2 => Self::Settled,
            _ => return Err(DecodeError("has an unknown kind of reply")),
        })
    }
}

/// The content of a log entry: when the leader made it, by its own clock, and batches.
pub fn encode_entry(now_ms: u64, batches: &[Bytes]) -> Bytes {
    let size: usize = batches.iter().map(|batch| batch.len() + 8).sum();
    let mut writer = Writer::with_capacity(size + 16);
    writer.byte(FORMAT);
    writer.number(now_ms);
    writer.list(batches.iter(), |writer, batch| writer.bytes(batch));
    writer.0.into()
}

pub fn decode_entry(bytes: Bytes) -> Result<(u64, Vec<Batch>)> {
    let mut reader = Reader::new(bytes);
    if reader.byte()? != FORMAT {
        return Err(DecodeError("is of another version"));
    }
    let now_ms = reader.number()?;
    let batches = reader.list(|reader| Batch::decode(reader.nested()?))?;
    reader.end()?;
    Ok((now_ms, batches))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::element::ElementId;

    #[test]
    fn entries_are_read_as_written() {
        let from = PeerRun { node: 1, incarnation: 2 };
        let commands = vec![Command::Due, Command::Replay(ElementId([1; 16]))];
        let batch = Batch { from, number: 7, settled: 5, commands };
        let entry = encode_entry(99, &[batch.encode(), batch.encode()]);
        assert_eq!(decode_entry(entry.clone()), Ok((99, vec![batch.clone(), batch])));
        let mut later = entry.to_vec();
        later[0] = FORMAT + 1;
        assert_eq!(decode_entry(later.into()), Err(DecodeError("is of another version")));
        assert!(decode_entry(entry.slice(..entry.len() - 1)).is_err());
    }

    #[test]
    fn replies_are_read_as_written() {
        for reply in [BatchReply::Applied(vec![Reply::Done, Reply::Stale]), BatchReply::NotUp, BatchReply::Settled] {
            let mut writer = Writer::default();
            reply.write(&mut writer);
            assert_eq!(BatchReply::read(&mut Reader::of(&writer.0)), Ok(reply));
        }
    }
}
