//! The first bytes of a connection: whether they can begin HTTP at all.

/// Most bytes that are looked at. More than an invalid preface of HTTP/2 needs.
pub(super) const LOOKED_AT: usize = 256;

/// A whole first line of three words whose last is no version of HTTP: an invalid preface of HTTP/2 (RFC 9113 §3.4),
/// or another protocol. Whoever sent it would not understand an answer in HTTP/1.1, so it gets none.
pub(super) fn is_not_http(first: &[u8]) -> bool {
    let Some(end) = first.iter().position(|byte| *byte == b'\n') else { return false };
    let line = first[..end].strip_suffix(b"\r").unwrap_or(&first[..end]);
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    matches!(words[..], [_, _, version] if !version.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"HTTP")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_line_without_a_version_is_not_http() {
        for (first, expected) in [
            ("INVALID CONNECTION PREFACE\r\n\r\n", true),
            ("SSH 2.0 OpenSSH\n", true),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nhost: h\r\n\r\n", false),
            ("GET / HTTP/9\r\n", false),
            ("GET / http/1.1\r\n", false),
            ("GET /\r\n", false),
            ("GET /a b HTTP/1.1\r\n", false),
            ("INVALID CONNECTION PREF", false),
            ("", false),
        ] {
            assert_eq!(is_not_http(first.as_bytes()), expected, "{first:?}");
        }
    }
}
