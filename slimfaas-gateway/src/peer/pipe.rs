//! Records over a socket: length, then ciphertext.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::net::{self, ReadHalf, TcpStream, WriteHalf};
use crate::peer::frame::Violation;
use crate::peer::limits::{RECORDS_AT_ONCE, UNREAD_BYTES, UNSENT_BYTES, WRITE_TIME};
use crate::peer::noise::{NotGenuine, PLAIN_BYTES_MAX, RECORD_BYTES_MAX, Session, TAG_BYTES};
use crate::peer::stats::PeerStats;

const LENGTH_BYTES: usize = 2;

/// Two of the largest records: one being looked at, and what came with it.
const BUFFER_BYTES: usize = 2 * (RECORD_BYTES_MAX + LENGTH_BYTES);

/// A record that takes tens of microseconds.
const LARGE_BYTES: usize = RECORD_BYTES_MAX / 4;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the other end has closed it")]
    Closed,
    #[error("a record is not genuine")]
    Forged(#[from] NotGenuine),
    #[error("the other end breaks the protocol: {0}")]
    Violation(#[from] Violation),
    #[error("nothing has come for too long")]
    Silent,
    #[error("the other end does not take what is sent")]
    Stalled,
}

/// Both directions of an encrypted connection.
pub(super) fn split(stream: TcpStream, session: Session, stats: &Arc<PeerStats>) -> (Reader, Writer) {
    // A hint: without it small calls may wait longer behind large ones.
    net::limit_queues(&stream, UNSENT_BYTES, UNREAD_BYTES).ok();
    let (read, write) = stream.into_split();
    let session = Arc::new(session);
    let reader = Reader {
        half: read,
        session: Arc::clone(&session),
        number: 0,
        buffer: vec![0; BUFFER_BYTES].into(),
        start: 0,
        end: 0,
        plain: Vec::new(),
        is_large: false,
        stats: Arc::clone(stats),
    };
    let writer = Writer {
        half: write,
        session,
        number: 0,
        plain: Vec::with_capacity(PLAIN_BYTES_MAX),
        out: Vec::new(),
        stats: Arc::clone(stats),
    };
    (reader, writer)
}

pub(super) struct Reader {
    half: ReadHalf,
    session: Arc<Session>,
    number: u64,
    buffer: Box<[u8]>,
    /// What of the buffer has been read and not yet looked at.
    start: usize,
    end: usize,
    plain: Vec<u8>,
    /// The last record was.
    is_large: bool,
    stats: Arc<PeerStats>,
}

impl Reader {
    /// The next record, decrypted. May be dropped and called again.
    pub(super) async fn record(&mut self) -> Result<&[u8], Broken> {
        if std::mem::take(&mut self.is_large) {
            // During a transfer there is always more to read, and others use this thread too.
            tokio::task::yield_now().await;
        }
        let len = loop {
            match self.buffered()? {
                Some(len) => break len,
                None => self.fill().await?,
            }
        };
        let record = &self.buffer[self.start + LENGTH_BYTES..self.start + LENGTH_BYTES + len];
        self.session.open(self.number, record, &mut self.plain)?;
        self.number += 1;
        self.start += LENGTH_BYTES + len;
        self.is_large = len > LARGE_BYTES;
        Ok(&self.plain)
    }

    /// The length of the first record in the buffer, if it is whole.
    fn buffered(&self) -> Result<Option<usize>, NotGenuine> {
        let Some((length, rest)) = self.buffer[self.start..self.end].split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes(*length));
        // Nobody sends an empty record.
        if len <= TAG_BYTES {
            return Err(NotGenuine);
        }
        Ok((rest.len() >= len).then_some(len))
    }

    async fn fill(&mut self) -> Result<(), Broken> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let read = self.half.read(&mut self.buffer[self.end..]).await?;
        if read == 0 {
            return Err(Broken::Closed);
        }
        self.end += read;
        self.stats.bytes_received.fetch_add(read as u64, Ordering::Relaxed);
        Ok(())
    }
}

pub(super) struct Writer {
    half: WriteHalf,
    session: Arc<Session>,
    number: u64,
    plain: Vec<u8>,
    out: Vec<u8>,
    stats: Arc<PeerStats>,
}

impl Writer {
    /// Writes as many records as `fill` makes out of an empty one, up to a few, in one go. False: it made none.
    pub(super) async fn flush(&mut self, mut fill: impl FnMut(&mut Vec<u8>)) -> Result<bool, Broken> {
        self.out.clear();
        for _ in 0..RECORDS_AT_ONCE {
            self.plain.clear();
            fill(&mut self.plain);
            if self.plain.is_empty() {
                break;
            }
            let len = u16::try_from(self.plain.len() + TAG_BYTES).expect("a record has Noise's size");
            self.out.extend_from_slice(&len.to_be_bytes());
            self.session.seal(self.number, &self.plain, &mut self.out);
            self.number += 1;
        }
        if self.out.is_empty() {
            return Ok(false);
        }
        let written = tokio::time::timeout(WRITE_TIME, self.half.write_all(&self.out)).await;
        written.map_err(|_elapsed| Broken::Stalled)??;
        self.stats.bytes_sent.fetch_add(self.out.len() as u64, Ordering::Relaxed);
        if self.out.len() > LARGE_BYTES {
            // As in reading.
            tokio::task::yield_now().await;
        }
        Ok(true)
    }
}
