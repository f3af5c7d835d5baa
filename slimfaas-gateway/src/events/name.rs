//! The name of an event, as publishers write it and subscribers ask for it.

use crate::model::percent;

/// Longer than any name that people or CloudEvents types have.
pub const NAME_BYTES_MAX: usize = 256;

/// Why a text is no event's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the event's name is empty")]
    Empty,
    #[error("the event's name has more than {NAME_BYTES_MAX} bytes")]
    TooLong,
    #[error("the event's name has control characters")]
    Control,
    #[error("the event's name is not percent-encoded UTF-8")]
    Encoding,
}

/// The name in a path segment as it was sent.
pub fn from_segment(raw: &str) -> Result<String, NameError> {
    let name = percent::decode(raw).ok_or(NameError::Encoding)?;
    check(&name).map(|()| name)
}

/// Names are compared byte for byte: case counts.
pub fn check(name: &str) -> Result<(), NameError> {
    match name {
        "" => Err(NameError::Empty),
        _ if name.len() > NAME_BYTES_MAX => Err(NameError::TooLong),
        _ if name.chars().any(char::is_control) => Err(NameError::Control),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_events() {
        let check = |raw: &str, expected: Result<&str, NameError>| {
            assert_eq!(from_segment(raw), expected.map(str::to_owned), "{raw}");
        };
        check("cache-reset", Ok("cache-reset"));
        check("com.example.Order", Ok("com.example.Order"));
        check("a%20b%2Fc", Ok("a b/c"));
        check("%c3%a9", Ok("é"));
        check("", Err(NameError::Empty));
        check("a%0ab", Err(NameError::Control));
        check("a%", Err(NameError::Encoding));
        check("a%zz", Err(NameError::Encoding));
        check("a%+1", Err(NameError::Encoding));
        check("%ff", Err(NameError::Encoding));
        let longest = "x".repeat(NAME_BYTES_MAX);
        check(&longest, Ok(&longest));
        check(&format!("{longest}x"), Err(NameError::TooLong));
    }
}
