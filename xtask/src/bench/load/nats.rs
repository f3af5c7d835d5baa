//! NATS' text protocol, as much of it as publishing to JetStream needs.

use anyhow::{Context, Result, bail, ensure};

use super::dialect::{self, Question, Script, first_line};

/// What ends the answer to [`greeting`].
pub(crate) const GREETED: &str = "PONG\r\n";

/// Says who we are and listens on `inbox`.
pub(crate) fn greeting(inbox: &str) -> Vec<u8> {
    let about = r#"{"verbose":false,"pedantic":false,"tls_required":false,"lang":"rust","version":"0","protocol":1}"#;
    format!("CONNECT {about}\r\nSUB {inbox} 1\r\nPING\r\n").into_bytes()
}

/// A message that wants its answer on `inbox`.
pub(crate) fn publish(subject: &str, inbox: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("PUB {subject} {inbox} {}\r\n", payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

pub(super) fn script(question: &Question, name: &str) -> Script {
    let inbox = format!("_INBOX.{name}");
    Script {
        greeting: Some((greeting(&inbox), GREETED)),
        request: publish(&question.target, &inbox, &vec![b'u'; question.upload]),
        answers: dialect::Answers::Nats(Answers::default()),
    }
}

#[derive(Default)]
pub(crate) struct Answers {
    buffer: Vec<u8>,
    /// The number of the last message that was acknowledged.
    stored: u64,
    /// The server has asked whether we are there.
    pinged: bool,
}

impl Answers {
    /// Takes what was read; every message must acknowledge what was published. On one connection they come in the order
    /// of the requests, which their numbers prove.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut bytes = bytes;
        let mut count = 0;
        while let Some(message) = self.message(std::mem::take(&mut bytes))? {
            let acknowledged: serde_json::Value = serde_json::from_slice(&message).unwrap_or_default();
            let stored = acknowledged["seq"].as_u64().filter(|_| acknowledged["error"].is_null());
            let stored = stored.with_context(|| format!("not stored: {}", String::from_utf8_lossy(&message)))?;
            ensure!(stored > self.stored, "{stored} is acknowledged after {}", self.stored);
            self.stored = stored;
            count += 1;
        }
        Ok(count)
    }

    /// The next message's payload, once it is whole.
    pub(crate) fn message(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
        self.buffer.extend_from_slice(bytes);
        while let Some((line, next)) = first_line(&self.buffer)? {
            let word = line.split(' ').next().unwrap_or_default();
            match word {
                "MSG" => {
                    let length = line.rsplit(' ').next().unwrap_or_default();
                    let length: usize = length.parse().with_context(|| format!("no length: {line}"))?;
                    let end = next + length;
                    if self.buffer.len() < end + 2 {
                        return Ok(None);
                    }
                    let message = self.buffer[next..end].to_vec();
                    self.buffer.drain(..end + 2);
                    return Ok(Some(message));
                }
                "PING" => self.pinged = true,
                // The servers tell of each other.
                "INFO" | "PONG" | "+OK" => {}
                _ => bail!("the server says {line}"),
            }
            self.buffer.drain(..next);
        }
        Ok(None)
    }

    pub(crate) fn owed(&mut self) -> &'static [u8] {
        if std::mem::take(&mut self.pinged) { b"PONG\r\n" } else { &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_answer(pieces: &[&str], expected: Result<usize, &str>, owed: &str) {
        let mut answers = Answers::default();
        let taken = pieces.iter().try_fold(0, |_, piece| answers.take(piece.as_bytes()));
        assert_eq!(taken.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{pieces:?}");
        assert_eq!(answers.owed(), owed.as_bytes());
    }

    #[test]
    fn only_an_acknowledgement_counts() {
        check_answer(&["MSG _INBOX.1 1 23\r\n{\"stream\":\"q\",\"seq\":17}\r\n"], Ok(1), "");
        check_answer(&["MSG _INBOX.1 1 23\r", "\n{\"stream\":\"q\",\"se", "q\":17}\r\n"], Ok(1), "");
        check_answer(&["MSG _INBOX.1 1 23\r\n{\"stream\":\"q\",\"seq\":17}"], Ok(0), "");
        check_answer(&["PING\r\nINFO {}\r\nMSG _INBOX.1 1 9\r\n{\"seq\":1}\r\n"], Ok(1), "PONG\r\n");
        check_answer(&["MSG _INBOX.1 1 18\r\n{\"error\":{},\"seq\":0"], Ok(0), "");
        check_answer(&["MSG _INBOX.1 1 11\r\n{\"error\":0}\r\n"], Err("not stored: {\"error\":0}"), "");
        let two = "MSG i 1 9\r\n{\"seq\":1}\r\nMSG i 1 9\r\n{\"seq\":2}\r\n";
        check_answer(&[two], Ok(2), "");
        check_answer(&[two, "MSG i 1 9\r\n{\"seq\":1}\r\n"], Err("1 is acknowledged after 2"), "");
        check_answer(&["-ERR 'No'\r\n"], Err("the server says -ERR 'No'"), "");
    }
}
