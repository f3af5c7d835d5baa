//! The administrators' token: who shows it may see and change every queue, from wherever they call.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use http::{HeaderMap, header};

/// Shorter tokens can be guessed, and open nothing; `openssl rand -base64 32` makes 44 characters.
pub const CHARACTERS_MIN: usize = 32;

const FILE_BYTES_MAX: u64 = 4096;

/// A file whose first line is the token. It is read at each use, so that a changed Secret counts at once; while there
/// is none, nobody is an administrator.
pub struct AdminToken {
    file: PathBuf,
}

impl AdminToken {
    pub fn in_file(file: PathBuf) -> Self {
        Self { file }
    }

    /// Whether the request shows the token: `Authorization: Bearer …`.
    pub(super) fn is_shown_by(&self, headers: &HeaderMap) -> bool {
        let Some(shown) = bearer(headers) else { return false };
        match self.read() {
            Ok(text) => text.lines().next().is_some_and(|line| opens(line.trim(), shown)),
            Err(error) => {
                tracing::debug!(%error, file = %self.file.display(), "there is no administrators' token");
                false
            }
        }
    }

    fn read(&self) -> std::io::Result<String> {
        let mut text = String::new();
        File::open(&self.file)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Takes the same time wherever the two differ.
fn opens(token: &str, shown: &str) -> bool {
    let difference = token.bytes().zip(shown.bytes()).fold(0, |difference, (one, other)| difference | (one ^ other));
    token.len() >= CHARACTERS_MIN && token.len() == shown.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn only_the_whole_token_opens() {
        let other = format!("{}X", &TOKEN[..31]);
        for (token, shown, expected) in [
            (TOKEN, TOKEN, true),
            (TOKEN, &other, false),
            (TOKEN, &TOKEN[..31], false),
            (TOKEN, "", false),
            (&TOKEN[..31], &TOKEN[..31], false),
            ("", "", false),
        ] {
            assert_eq!(opens(token, shown), expected, "{token:?} {shown:?}");
        }
    }

    #[test]
    fn it_is_shown_as_a_bearer_token_and_read_at_each_use() {
        let file = std::env::temp_dir().join(format!("slimfaas-admin-{}", std::process::id()));
        let token = AdminToken::in_file(file.clone());
        let shows = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().expect("a header's value"))]);
            token.is_shown_by(&headers)
        };
        assert!(!shows(&format!("Bearer {TOKEN}")), "there is no file yet");
        std::fs::write(&file, format!("{TOKEN}\n")).expect("it can be written");
        for (value, expected) in [
            (format!("Bearer {TOKEN}"), true),
            (format!("bearer  {TOKEN}"), true),
            (format!("Basic {TOKEN}"), false),
            (TOKEN.to_owned(), false),
            ("Bearer".to_owned(), false),
        ] {
            assert_eq!(shows(&value), expected, "{value}");
        }
        assert!(!token.is_shown_by(&HeaderMap::new()));
        std::fs::write(&file, "").expect("it can be written");
        assert!(!shows(&format!("Bearer {TOKEN}")) && !shows("Bearer "));
        std::fs::remove_file(&file).expect("it is there");
    }
}
