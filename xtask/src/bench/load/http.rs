//! HTTP/1.1 with kept connections.

use anyhow::{Result, ensure};

use super::dialect::{self, Question, Script};
use crate::bench::wire;

pub(super) fn script(question: &Question) -> Script {
    let Question { address, target, upload, status, download } = question;
    let mut request = match upload {
        0 => format!("GET {target} HTTP/1.1\r\nhost: {address}\r\n\r\n"),
        _ => format!("POST {target} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {upload}\r\n\r\n"),
    }
    .into_bytes();
    request.resize(request.len() + upload, b'u');
    let answers = Answers { status: *status, length: *download, head: Vec::new(), body_left: None };
    Script { greeting: None, request, answers: dialect::Answers::Http(answers) }
}

pub(crate) struct Answers {
    /// Of a right answer, as `length` is.
    status: u16,
    length: usize,
    /// What has come of a response's head that is not complete.
    head: Vec<u8>,
    /// Bytes of the response's body still to come; `None` while its head comes.
    body_left: Option<usize>,
}

impl Answers {
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<bool> {
        if self.body_left.is_none() {
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            let Some(end) = wire::head_end(&self.head)? else { return Ok(false) };
            let head = &self.head[..end];
            let (status, length) = (wire::status(head)?, wire::body_length(head, None)?);
            ensure!(status == self.status, "the status is {status}: {}", String::from_utf8_lossy(&self.head));
            ensure!(length == self.length, "the body has {length} bytes, not {}", self.length);
            bytes = &bytes[end - before..];
            self.head.clear();
            self.body_left = Some(length);
        }
        let left = self.body_left.unwrap_or_default();
        ensure!(bytes.len() <= left, "more bytes came than the response has");
        self.body_left = (left > bytes.len()).then(|| left - bytes.len());
        Ok(self.body_left.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `pieces` of a response whose body should have five bytes.
    #[track_caller]
    fn check_response(pieces: &[&str], expected: Result<bool, &str>) {
        let mut answers = Answers { status: 200, length: 5, head: Vec::new(), body_left: None };
        let taken = pieces.iter().try_fold(false, |_, piece| answers.take(piece.as_bytes()));
        assert_eq!(taken.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{pieces:?}");
    }

    #[test]
    fn every_response_is_verified() {
        check_response(&["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"], Ok(true));
        check_response(&["HTTP/1.1 200 OK\r\ncontent-length: 5\r", "\n\r\nhe", "llo"], Ok(true));
        check_response(&["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell"], Ok(false));
        check_response(&["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhell"], Err("the body has 4 bytes, not 5"));
        check_response(
            &["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello!"],
            Err("more bytes came than the response has"),
        );
        let refused = "HTTP/1.1 503 No\r\ncontent-length: 5\r\n\r\n";
        check_response(&[refused], Err(&format!("the status is 503: {refused}")));
    }
}
