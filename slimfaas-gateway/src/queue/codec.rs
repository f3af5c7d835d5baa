//! The binary form of everything that is stored or sent: variable-length integers and length-prefixed bytes, without
//! field names. Reading never copies: what is read shares the memory of what it was read from.

use bytes::Bytes;

use crate::model::function::FunctionId;

/// What was read is not what any version of this code wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub &'static str);

pub type Result<T> = std::result::Result<T, DecodeError>;

/// Appends to a buffer.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn flag(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    /// Seven bits a byte, the lowest first.
    pub fn number(&mut self, value: u64) {
        let mut rest = value;
        while rest >= 0x80 {
            self.0.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }

    /// Eight bytes, the highest first: identifiers that use all their bits.
    pub fn fixed(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.raw(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub fn function(&mut self, function: &FunctionId) {
        self.text(&function.namespace);
        self.text(&function.name);
    }

    pub fn list<T>(&mut self, items: impl ExactSizeIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        self.number(items.len() as u64);
        for item in items {
            write(self, item);
        }
    }

    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }
}

/// Takes values off the front of a buffer.
pub struct Reader {
    rest: Bytes,
    /// How much was taken.
    at: usize,
}

impl Reader {
    pub fn new(bytes: Bytes) -> Self {
        Self { rest: bytes, at: 0 }
    }

    pub fn of(bytes: &[u8]) -> Self {
        Self::new(Bytes::copy_from_slice(bytes))
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How far it is from the start of the buffer.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Reads what [`Writer::bytes`] wrote, with positions that count from the start of this reader's buffer.
    pub fn nested(&mut self) -> Result<Self> {
        let bytes = self.bytes()?;
        Ok(Self { at: self.at - bytes.len(), rest: bytes })
    }

    /// Fails when something is left: a longer value was written by a later version.
    pub fn end(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError("has bytes behind its end")) }
    }

    pub fn byte(&mut self) -> Result<u8> {
        let byte = *self.rest.first().ok_or(DecodeError("ends too early"))?;
        bytes::Buf::advance(&mut self.rest, 1);
        self.at += 1;
        Ok(byte)
    }

    pub fn flag(&mut self) -> Result<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError("has a flag that is neither zero nor one")),
        }
    }

    pub fn number(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError("has a number above 64 bits"))
    }

    /// A number that must fit a narrower type.
    pub fn narrow<T: TryFrom<u64>>(&mut self) -> Result<T> {
        T::try_from(self.number()?).map_err(|_too_large| DecodeError("has a number above its type's range"))
    }

    pub fn fixed(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        bytes[..].try_into().map_err(|_length| DecodeError("ends too early"))
    }

    pub fn bytes(&mut self) -> Result<Bytes> {
        let length = self.narrow()?;
        self.take(length)
    }

    pub fn text(&mut self) -> Result<String> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.to_vec()).map_err(|_invalid| DecodeError("has text that is not UTF-8"))
    }

    pub fn function(&mut self) -> Result<FunctionId> {
        Ok(FunctionId { namespace: self.text()?.into(), name: self.text()?.into() })
    }

    pub fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let length: usize = self.narrow()?;
        // An item takes a byte at least, so a wrong length cannot ask for more memory than there is to read.
        if length > self.rest.len() {
            return Err(DecodeError("ends too early"));
        }
        (0..length).map(|_| read(self)).collect()
    }

    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    fn take(&mut self, length: usize) -> Result<Bytes> {
        if length > self.rest.len() {
            return Err(DecodeError("ends too early"));
        }
        self.at += length;
        Ok(self.rest.split_to(length))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(number: u64, fixed: u64, flag: bool, bytes: Vec<u8>, list: Vec<u16>, text: String) {
            let mut writer = Writer::default();
            writer.number(number);
            writer.fixed(fixed);
            writer.flag(flag);
            writer.bytes(&bytes);
            writer.list(list.iter(), |writer, item| writer.number(u64::from(*item)));
            writer.option(flag.then_some(&text), |writer, text| writer.text(text));
            let mut reader = Reader::of(&writer.0);
            prop_assert_eq!(reader.number(), Ok(number));
            prop_assert_eq!(reader.fixed(), Ok(fixed));
            prop_assert_eq!(reader.flag(), Ok(flag));
            prop_assert_eq!(reader.bytes().unwrap(), bytes);
            prop_assert_eq!(reader.list(Reader::narrow::<u16>).unwrap(), list);
            prop_assert_eq!(reader.option(Reader::text).unwrap(), flag.then_some(text));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut reader = Reader::of(&bytes);
            while !reader.is_empty() && reader.list(Reader::bytes).is_ok() {}
        }
    }

    #[test]
    fn nested_positions_count_from_the_outermost_start() {
        let mut inner = Writer::default();
        inner.number(300);
        inner.bytes(b"abc");
        let mut outer = Writer::default();
        outer.byte(9);
        outer.bytes(&inner.0);
        let bytes = Bytes::from(outer.0);
        let mut reader = Reader::new(bytes.clone());
        reader.byte().unwrap();
        let mut nested = reader.nested().unwrap();
        assert_eq!(nested.number(), Ok(300));
        let found = nested.bytes().unwrap();
        assert_eq!(&bytes[nested.position() - found.len()..nested.position()], b"abc");
        assert_eq!(reader.position(), bytes.len());
    }

    #[test]
    fn numbers_have_64_bits() {
        let mut largest = [0xff; 10];
        largest[9] = 1;
        assert_eq!(Reader::of(&largest).number(), Ok(u64::MAX));
        largest[9] = 2;
        assert_eq!(Reader::of(&largest).number(), Err(DecodeError("has a number above 64 bits")));
        assert_eq!(Reader::of(&[0xff; 11]).number(), Err(DecodeError("has a number above 64 bits")));
    }
}
