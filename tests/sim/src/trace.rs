//! A fingerprint of everything that happened: two runs of one seed have the same, or something that the seed does not
//! decide has crept in.

use std::io::Write;

use crate::journal::Event;
use crate::network::Packet;

#[derive(Default)]
pub struct Trace {
    hasher: crc32fast::Hasher,
    count: u64,
    /// Where events are shown to people.
    shown: Option<Box<dyn Write>>,
}

/// What is left of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    pub hash: u32,
    /// Of events and packets.
    pub count: u64,
}

impl Trace {
    pub fn shown_on(out: impl Write + 'static) -> Self {
        Self { shown: Some(Box::new(out)), ..Self::default() }
    }

    pub fn event(&mut self, now_ms: u64, event: &Event) {
        let text = format!("{now_ms:>7} {event:?}\n");
        self.hasher.update(text.as_bytes());
        self.count += 1;
        if let Some(shown) = &mut self.shown {
            let _closed = shown.write_all(text.as_bytes()).is_err();
        }
    }

    pub fn packet(&mut self, now_ms: u64, packet: &Packet) {
        let (kind, content): (u8, &[u8]) = match &packet.content {
            crate::network::Content::Call(bytes) => (1, bytes),
            crate::network::Content::Answer(bytes) => (2, bytes),
            crate::network::Content::Nobody => (3, &[]),
        };
        self.hasher.update(&now_ms.to_be_bytes());
        self.hasher.update(&[kind]);
        self.hasher.update(&packet.from.port().to_be_bytes());
        self.hasher.update(&packet.to.port().to_be_bytes());
        self.hasher.update(content);
        self.count += 1;
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { hash: self.hasher.clone().finalize(), count: self.count }
    }
}
