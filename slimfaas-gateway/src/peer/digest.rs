//! What a node tells the others of its functions, as bytes. Pure.
//!
//! ```text
//! digest   = version:u8=1 run:u64 sequence now scope:u8 count function…
//! function = namespace:text name:text called in_flight waiting       (an empty namespace: the same as before)
//! text     = length:u8 bytes                                         other numbers: LEB128
//! ```
//!
//! Written by hand: it is one table of five columns, and half the bytes of what a general format makes of it.
//!
//! Times are ticks of the telling node's own clock, of which `now` is the present one: the receiver learns ages, and
//! that a call told twice is the same call. No clocks are compared.

use std::sync::Arc;

use crate::clock::Tick;
use crate::model::function::FunctionId;

const VERSION: u8 = 1;

/// More functions than this go into several digests, each well below what a call may carry.
pub const FUNCTIONS_MAX: usize = 1500;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Of the process: another number is another life of the node.
    pub run: u64,
    /// Grows with each digest of a run.
    pub sequence: u64,
    pub now: Tick,
    pub scope: Scope,
    pub functions: Vec<Told>,
}

/// How a digest relates to what was told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What is not in it is as before.
    Changes,
    /// A part of everything: what is in none of the parts from the first to the last is not there any more.
    Everything { first: bool, last: bool },
}

/// One function on the telling node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub id: FunctionId,
    /// [`Tick::NEVER`]: it was not called there.
    pub called: Tick,
    pub in_flight: u32,
    pub waiting: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("the digest is of version {0}, of which this node knows nothing")]
    Version(u8),
    #[error("the digest is cut off")]
    CutOff,
    #[error("the digest is longer than what it says")]
    TooLong,
    #[error("a number of the digest is out of range")]
    Number,
    #[error("a name in the digest is not UTF-8 text, or is empty")]
    Name,
    #[error("the digest has more than 1500 functions")]
    TooMany,
}

impl Digest {
    /// Names of more than 255 bytes, which Kubernetes does not allow, are left out.
    pub fn encode(&self) -> Vec<u8> {
        let told: Vec<&Told> = self.functions.iter().filter(|told| is_writable(&told.id)).collect();
        let mut out = Vec::with_capacity(32 + 40 * told.len());
        out.push(VERSION);
        out.extend_from_slice(&self.run.to_be_bytes());
        write_number(self.sequence, &mut out);
        write_number(self.now.0, &mut out);
        out.push(match self.scope {
            Scope::Changes => 0,
            Scope::Everything { first, last } => 1 | u8::from(first) << 1 | u8::from(last) << 2,
        });
        write_number(told.len() as u64, &mut out);
        let mut before = "";
        for Told { id, called, in_flight, waiting } in told {
            write_text(if *id.namespace == *before { "" } else { &id.namespace }, &mut out);
            before = &id.namespace;
            write_text(&id.name, &mut out);
            write_number(called.0, &mut out);
            write_number((*in_flight).into(), &mut out);
            write_number((*waiting).into(), &mut out);
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DigestError> {
        let mut reader = Reader(bytes);
        match reader.byte()? {
            VERSION => {}
            other => return Err(DigestError::Version(other)),
        }
        let run = u64::from_be_bytes(reader.array()?);
        let (sequence, now) = (reader.number()?, Tick(reader.number()?));
        let scope = match reader.byte()? {
            0 => Scope::Changes,
            bits if bits & 1 == 1 && bits < 8 => Scope::Everything { first: bits & 2 != 0, last: bits & 4 != 0 },
            _ => return Err(DigestError::Number),
        };
        let count = usize::try_from(reader.number()?).map_err(|_huge| DigestError::TooMany)?;
        if count > FUNCTIONS_MAX {
            return Err(DigestError::TooMany);
        }
        let mut functions: Vec<Told> = Vec::new();
        for _ in 0..count {
            let before = functions.last().map(|told| &told.id.namespace);
            let told = reader.function(before)?;
            functions.push(told);
        }
        if reader.0.is_empty() { Ok(Self { run, sequence, now, scope, functions }) } else { Err(DigestError::TooLong) }
    }
}

fn is_writable(id: &FunctionId) -> bool {
    [&id.namespace, &id.name].iter().all(|text| (1..=255).contains(&text.len()))
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(u8::try_from(text.len()).expect("the length was looked at"));
    out.extend_from_slice(text.as_bytes());
}

fn write_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DigestError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DigestError::CutOff)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, DigestError> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, DigestError> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(DigestError::Number);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(DigestError::Number)
    }

    fn small(&mut self) -> Result<u32, DigestError> {
        u32::try_from(self.number()?).map_err(|_large| DigestError::Number)
    }

    fn text(&mut self) -> Result<&'a str, DigestError> {
        let len = usize::from(self.byte()?);
        let (text, rest) = self.0.split_at_checked(len).ok_or(DigestError::CutOff)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_bytes| DigestError::Name)
    }

    fn function(&mut self, before: Option<&Arc<str>>) -> Result<Told, DigestError> {
        let namespace = match self.text()? {
            "" => Arc::clone(before.ok_or(DigestError::Name)?),
            text => text.into(),
        };
        let name: Arc<str> = match self.text()? {
            "" => return Err(DigestError::Name),
            text => text.into(),
        };
        let id = FunctionId { namespace, name };
        Ok(Told { id, called: Tick(self.number()?), in_flight: self.small()?, waiting: self.small()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(namespace: &str, name: &str, called: u64, in_flight: u32, waiting: u32) -> Told {
        Told { id: FunctionId::new(namespace, name), called: Tick(called), in_flight, waiting }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let functions = vec![told("a", "f", 300, 1, 0), told("a", "g", 0, 0, 2)];
        let scope = Scope::Everything { first: true, last: false };
        let digest = Digest { run: 7, sequence: 1, now: Tick(301), scope, functions };
        let bytes = [
            &[1, 0, 0, 0, 0, 0, 0, 0, 7, 1, 0xad, 2, 3, 2][..],
            &[1, b'a', 1, b'f', 0xac, 2, 1, 0],
            &[0, 1, b'g', 0, 0, 2],
        ]
        .concat();
        assert_eq!(digest.encode(), bytes);
        assert_eq!(Digest::decode(&bytes), Ok(digest));
    }

    #[test]
    fn what_is_no_digest_is_told_apart() {
        let empty = Digest { run: 0, sequence: 0, now: Tick(0), scope: Scope::Changes, functions: Vec::new() }.encode();
        let check = |bytes: &[u8], expected| assert_eq!(Digest::decode(bytes), Err(expected), "{bytes:?}");
        let with = |tail: &[u8]| [&empty[..empty.len() - 1], tail].concat();
        check(&[], DigestError::CutOff);
        check(&[2], DigestError::Version(2));
        check(&empty[..5], DigestError::CutOff);
        check(&[&empty[..], &[0]].concat(), DigestError::TooLong);
        check(&with(&[0xdd, 0x0b]), DigestError::TooMany);
        check(&with(&[0xff; 10]), DigestError::Number);
        check(&with(&[1, 0, 1, b'f', 0, 0, 0]), DigestError::Name);
        check(&with(&[1, 1, 0xff, 1, b'f', 0, 0, 0]), DigestError::Name);
        check(&with(&[1, 1, b'a', 0, 0, 0, 0]), DigestError::Name);
        check(&with(&[1, 1, b'a', 1, b'f', 0, 0xff, 0xff, 0xff, 0xff, 0x1f, 0]), DigestError::Number);
    }

    #[test]
    fn the_largest_digest_fits_a_call() {
        let name = "n".repeat(255);
        let all = |index| told(&name[..254 - index % 2], &name, u64::MAX, u32::MAX, u32::MAX);
        let functions: Vec<Told> = (0..FUNCTIONS_MAX).map(all).collect();
        let scope = Scope::Everything { first: true, last: true };
        let digest = Digest { run: u64::MAX, sequence: u64::MAX, now: Tick(u64::MAX), scope, functions };
        let bytes = digest.encode();
        assert!(bytes.len() <= 1 << 20, "{}", bytes.len());
        assert_eq!(Digest::decode(&bytes), Ok(digest));
    }

    proptest! {
        #[test]
        fn a_digest_comes_out_as_it_went_in(
            (run, sequence, now) in any::<(u64, u64, u64)>(),
            scope in prop_oneof![
                Just(Scope::Changes),
                any::<(bool, bool)>().prop_map(|(first, last)| Scope::Everything { first, last }),
            ],
            functions in proptest::collection::vec(("[a-c]{1,2}", "[a-zé-]{1,20}", any::<(u64, u32, u32)>()), 0..30),
        ) {
            let told = |(namespace, name, (called, in_flight, waiting)): &(String, String, (u64, u32, u32))| {
                told(namespace, name, *called, *in_flight, *waiting)
            };
            let functions = functions.iter().map(told).collect();
            let digest = Digest { run, sequence, now: Tick(now), scope, functions };
            prop_assert_eq!(Digest::decode(&digest.encode()), Ok(digest));
        }

        #[test]
        fn any_bytes_are_a_digest_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(first) = bytes.first_mut() {
                *first = 1;
            }
            if let Ok(digest) = Digest::decode(&bytes) {
                prop_assert_eq!(Digest::decode(&digest.encode()), Ok(digest));
            }
        }
    }
}
