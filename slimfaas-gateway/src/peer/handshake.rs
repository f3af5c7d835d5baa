//! How two nodes agree on a connection.
//!
//! ```text
//! caller   → len:u16 noise(newest:u16 oldest:u16 name…)
//! answerer → len:u16 noise(version:u16 newest:u16 oldest:u16)      version 0: none in common
//! caller   → a record, which proves that the first message was not an old one
//! ```
//!
//! A stranger gets nothing, not even a length. The version is that of frames and of what the kinds carry: within the
//! handshake it can be refused with a reason, to those who hold the key.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::net::TcpStream;
use crate::peer::key::{Key, Keys};
use crate::peer::noise::{Handshake, Session};

/// A pod's name at most.
pub(super) const NAME_BYTES_MAX: usize = 253;

const FIRST_BYTES_MAX: usize = 48 + 4 + NAME_BYTES_MAX;
const SECOND_BYTES: usize = 48 + 6;

/// Versions that a node speaks. More than one only while nodes are being updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Versions {
    pub(super) newest: u16,
    pub(super) oldest: u16,
}

pub(super) const VERSIONS: Versions = Versions { newest: 1, oldest: 1 };

impl Versions {
    /// The newest in common.
    fn agree(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.newest.to_be_bytes());
        out.extend_from_slice(&self.oldest.to_be_bytes());
    }

    fn read(bytes: [u8; 4]) -> Self {
        let [n0, n1, o0, o1] = bytes;
        Self { newest: u16::from_be_bytes([n0, n1]), oldest: u16::from_be_bytes([o0, o1]) }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.newest == self.oldest {
            true => write!(f, "version {}", self.newest),
            false => write!(f, "versions {} to {}", self.oldest, self.newest),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it took too long")]
    TimedOut,
    #[error("this node has no key for its peers; check SlimFaas__Peer__KeyFile")]
    NoKey,
    #[error("the peer does not accept this node's key; check that both have the same key file")]
    KeyRefused,
    #[error("the caller has no accepted key, or is no gateway node")]
    Stranger,
    #[error("what the peer answers is not genuine; check that nothing else listens there")]
    NotGenuine,
    #[error("the peer speaks {theirs} and this node {ours} of the peer protocol; update the older one")]
    Version { ours: Versions, theirs: Versions },
}

/// What both ends have agreed on.
pub(super) struct Agreed {
    pub(super) session: Session,
    pub(super) key: Key,
    /// As the caller calls itself; empty on its own side.
    pub(super) caller: Arc<str>,
}

/// The calling side, up to the answer.
pub(super) async fn call(
    stream: &mut TcpStream,
    key: &Key,
    name: &str,
    ours: Versions,
) -> Result<Agreed, HandshakeError> {
    let mut hello = Vec::with_capacity(4 + name.len());
    ours.write(&mut hello);
    hello.extend_from_slice(name.as_bytes());
    let (mut handshake, first) = Handshake::call(key, &hello);
    send(stream, &first).await?;
    let second = receive(stream, SECOND_BYTES).await.map_err(|failed| match failed {
        // How the other end says that it cannot read the first message: not at all.
        HandshakeError::Io(error) if is_close(&error) => HandshakeError::KeyRefused,
        other => other,
    })?;
    let answer = handshake.read(&second).map_err(|_forged| HandshakeError::NotGenuine)?;
    let answer: [u8; 6] = answer.try_into().map_err(|_cut| HandshakeError::NotGenuine)?;
    let [v0, v1, theirs @ ..] = answer;
    let (version, theirs) = (u16::from_be_bytes([v0, v1]), Versions::read(theirs));
    if version == 0 || ours.agree(theirs) != Some(version) {
        return Err(HandshakeError::Version { ours, theirs });
    }
    Ok(Agreed { session: handshake.finish(), key: key.clone(), caller: "".into() })
}

/// The answering side. The caller is a stranger until its first record.
pub(super) async fn answer(stream: &mut TcpStream, keys: &Keys, ours: Versions) -> Result<Agreed, HandshakeError> {
    let first = receive(stream, FIRST_BYTES_MAX).await?;
    let read =
        |key: &Key| Handshake::answer(key, &first).ok().map(|(handshake, hello)| (key.clone(), handshake, hello));
    let (key, mut handshake, hello) = keys.all().iter().find_map(read).ok_or(HandshakeError::Stranger)?;
    let (theirs, name) = hello.split_first_chunk().ok_or(HandshakeError::Stranger)?;
    let theirs = Versions::read(*theirs);
    let caller = std::str::from_utf8(name).map_err(|_not_text| HandshakeError::Stranger)?.into();
    let version = ours.agree(theirs);
    let mut welcome = version.unwrap_or(0).to_be_bytes().to_vec();
    ours.write(&mut welcome);
    let second = handshake.write(&welcome);
    send(stream, &second).await?;
    match version {
        Some(_) => Ok(Agreed { session: handshake.finish(), key, caller }),
        None => Err(HandshakeError::Version { ours, theirs }),
    }
}

fn is_close(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

async fn send(stream: &mut TcpStream, message: &[u8]) -> Result<(), HandshakeError> {
    let mut framed = u16::try_from(message.len()).expect("it is short").to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    Ok(stream.write_all(&framed).await?)
}

async fn receive(stream: &mut TcpStream, bytes_max: usize) -> Result<Vec<u8>, HandshakeError> {
    let len = usize::from(stream.read_u16().await?);
    if len > bytes_max {
        return Err(HandshakeError::Stranger);
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_in_common_counts() {
        let of = |(oldest, newest)| Versions { newest, oldest };
        for (one, other, expected) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 2), (1, 1), Some(1)),
            ((1, 3), (2, 5), Some(3)),
            ((1, 1), (2, 2), None),
            ((1, 2), (3, 4), None),
        ] {
            assert_eq!(of(one).agree(of(other)), expected, "{one:?} {other:?}");
            assert_eq!(of(other).agree(of(one)), expected, "{other:?} {one:?}");
        }
        assert_eq!((of((1, 1)).to_string(), of((1, 2)).to_string()), ("version 1".into(), "versions 1 to 2".into()));
    }
}
