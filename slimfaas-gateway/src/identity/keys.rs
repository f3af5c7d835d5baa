//! The secrets of identity, as they are in files: the salt of the numbers, and the keys of the tags.

use slimfaas_ebpf::contract::{Key, TagKeys};

/// 16 bytes; `openssl rand -hex 16` makes as many.
const DIGITS: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not 32 hexadecimal digits; `openssl rand -hex 16` makes some")]
pub struct KeyFormError;

/// A key from its text: 32 hexadecimal digits, and blanks around them.
pub fn parse(text: &str) -> Result<Key, KeyFormError> {
    let digits = text.trim().as_bytes();
    if digits.len() != DIGITS {
        return Err(KeyFormError);
    }
    let mut secret = [0; DIGITS / 2];
    for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or(KeyFormError);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).expect("two hexadecimal digits are a byte");
    }
    Ok(Key::from_secret(secret))
}

/// The keys of the tags, of those that there are.
pub fn tag_keys(current: Option<Key>, next: Option<Key>, previous: Option<Key>) -> TagKeys {
    let bit = |key: Option<Key>, bit: u32| if key.is_some() { bit } else { 0 };
    TagKeys {
        current: current.unwrap_or_default(),
        next: next.unwrap_or_default(),
        previous: previous.unwrap_or_default(),
        present: bit(current, TagKeys::HAS_CURRENT)
            | bit(next, TagKeys::HAS_NEXT)
            | bit(previous, TagKeys::HAS_PREVIOUS),
        generation: 0,
    }
}

#[cfg(test)]
mod tests {
    use slimfaas_ebpf::contract::KeySlot;

    use super::*;

    #[test]
    fn keys_are_hexadecimal() {
        let bytes: [u8; 16] = std::array::from_fn(|i| u8::try_from(i * 17).expect("at most 255"));
        let key = Key::from_secret(bytes);
        let check = |text: &str, expected: Result<Key, KeyFormError>| assert_eq!(parse(text), expected, "{text:?}");
        check("00112233445566778899aabbccddeeff", Ok(key));
        check(" 00112233445566778899AABBCCDDEEFF\n", Ok(key));
        check("", Err(KeyFormError));
        check("00112233445566778899aabbccddeef", Err(KeyFormError));
        check("00112233445566778899aabbccddeeff0", Err(KeyFormError));
        check("00112233445566778899aabbccddeefg", Err(KeyFormError));
        check("+0112233445566778899aabbccddeeff", Err(KeyFormError));
        check("é112233445566778899aabbccddeeff", Err(KeyFormError));
    }

    #[test]
    fn only_the_keys_that_there_are_count() {
        let (one, two) = (Key { k0: 1, k1: 2 }, Key { k0: 3, k1: 4 });
        let keys = tag_keys(Some(one), None, Some(two));
        assert_eq!(keys.key(KeySlot::Current), Some(one));
        assert_eq!(keys.key(KeySlot::Next), None);
        assert_eq!(keys.key(KeySlot::Previous), Some(two));
        assert_eq!(tag_keys(None, None, None), TagKeys::default());
    }
}
