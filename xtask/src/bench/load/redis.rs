//! RESP, the protocol of Redis, as much of it as appending to a stream needs.

use anyhow::{Context, Result, bail, ensure};

use super::dialect::{self, Question, Script, first_line};

/// For a replica to have it, in milliseconds; then WAIT answers that none has.
const WAIT_MILLIS: &str = "5000";

pub(super) fn script(question: &Question, replicated: bool) -> Script {
    let body = vec![b'u'; question.upload];
    let mut request = command(&[b"XADD", question.target.as_bytes(), b"*", b"body", &body]);
    if replicated {
        request.extend(command(&[b"WAIT", b"1", WAIT_MILLIS.as_bytes()]));
    }
    let answers = Answers { buffer: Vec::new(), replicated, is_added: false };
    Script { greeting: None, request, answers: dialect::Answers::Redis(answers) }
}

/// A command as it is sent.
pub(crate) fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

pub(crate) struct Answers {
    buffer: Vec<u8>,
    /// The number of replicas that have it comes after the entry's id.
    replicated: bool,
    /// The id has come.
    is_added: bool,
}

impl Answers {
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<bool> {
        self.buffer.extend_from_slice(bytes);
        while let Some((line, next)) = first_line(&self.buffer)? {
            let (kind, value) = line.split_at_checked(1).context("an empty line came")?;
            let end = match kind {
                "$" if !self.is_added => {
                    let length: usize = value.parse().with_context(|| format!("no id: {line}"))?;
                    next + length + 2
                }
                ":" if self.is_added => {
                    ensure!(value != "0", "no replica has it");
                    next
                }
                _ => bail!("the server says {line}"),
            };
            if self.buffer.len() < end {
                return Ok(false);
            }
            self.buffer.drain(..end);
            if self.is_added || !self.replicated {
                ensure!(self.buffer.is_empty(), "more came than the answer");
                self.is_added = false;
                return Ok(true);
            }
            self.is_added = true;
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_answer(replicated: bool, pieces: &[&str], expected: Result<bool, &str>) {
        let mut answers = Answers { buffer: Vec::new(), replicated, is_added: false };
        let taken = pieces.iter().try_fold(false, |_, piece| answers.take(piece.as_bytes()));
        assert_eq!(taken.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{pieces:?}");
    }

    #[test]
    fn only_a_stored_entry_counts() {
        check_answer(false, &["$3\r\n1-0\r\n"], Ok(true));
        check_answer(false, &["$3", "\r\n1-", "0\r\n"], Ok(true));
        check_answer(false, &["$3\r\n1-0"], Ok(false));
        check_answer(true, &["$3\r\n1-0\r\n"], Ok(false));
        check_answer(true, &["$3\r\n1-0\r\n", ":1\r\n"], Ok(true));
        check_answer(true, &["$3\r\n1-0\r\n:0\r\n"], Err("no replica has it"));
        check_answer(false, &["-MISCONF no\r\n"], Err("the server says -MISCONF no"));
    }

    #[test]
    fn a_command_is_counted_words() {
        assert_eq!(command(&[b"WAIT", b"1"]), b"*2\r\n$4\r\nWAIT\r\n$1\r\n1\r\n");
    }
}
