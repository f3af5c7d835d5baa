//! The HTTP request of an element, as its caller sent it. The state machine never looks into it.

use bytes::Bytes;

use super::codec::{DecodeError, Reader, Result, Writer};

/// First byte of the encoded form.
const FORMAT: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRequest {
    pub method: String,
    pub path_and_query: String,
    /// In the order of arrival; names may repeat.
    pub headers: Vec<(String, Bytes)>,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Inline(Bytes),
    /// Beside the log, in a file of each node.
    File(BodyFile),
}

/// A body that is too large for the log. Its file is named after the element, so no two elements share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BodyFile {
    /// Of its content.
    pub digest: [u8; 32],
    pub bytes: u64,
}

impl BodyFile {
    pub fn write(&self, writer: &mut Writer) {
        writer.raw(&self.digest);
        writer.number(self.bytes);
    }

    pub fn read(reader: &mut Reader) -> Result<Self> {
        Ok(Self { digest: reader.array()?, bytes: reader.number()? })
    }
}

impl StoredRequest {
    pub fn encode(&self) -> Bytes {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        let body = match &self.body {
            Body::Inline(bytes) => bytes.len(),
            Body::File(_) => 48,
        };
        let mut writer = Writer::with_capacity(self.path_and_query.len() + headers + body + 32);
        writer.byte(FORMAT);
        writer.text(&self.method);
        writer.text(&self.path_and_query);
        writer.list(self.headers.iter(), |writer, (name, value)| {
            writer.text(name);
            writer.bytes(value);
        });
        match &self.body {
            Body::Inline(bytes) => {
                writer.byte(0);
                writer.bytes(bytes);
            }
            Body::File(file) => {
                writer.byte(1);
                file.write(&mut writer);
            }
        }
        writer.0.into()
    }

    /// The body of the result shares the memory of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        if reader.byte()? != FORMAT {
            return Err(DecodeError("is of another version"));
        }
        let request = Self {
            method: reader.text()?,
            path_and_query: reader.text()?,
            headers: reader.list(|reader| Ok((reader.text()?, reader.bytes()?)))?,
            body: match reader.byte()? {
                0 => Body::Inline(reader.bytes()?),
                1 => Body::File(BodyFile::read(&mut reader)?),
                _ => return Err(DecodeError("has an unknown kind of body")),
            },
        };
        reader.end()?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: Body) {
        let request = StoredRequest {
            method: "POST".to_owned(),
            path_and_query: "/a?b=c".to_owned(),
            headers: vec![
                ("x-a".to_owned(), Bytes::from_static(b"\xff")),
                ("x-a".to_owned(), Bytes::from_static(b"2")),
            ],
            body,
        };
        let encoded = request.encode();
        assert_eq!(StoredRequest::decode(encoded.clone()), Ok(request));
        assert!(StoredRequest::decode(encoded.slice(..encoded.len() - 1)).is_err());
    }

    #[test]
    fn requests_are_stored_as_they_came() {
        check(Body::Inline(Bytes::new()));
        check(Body::Inline(Bytes::from_static(b"body")));
        check(Body::File(BodyFile { digest: [7; 32], bytes: 1 << 40 }));
    }
}
