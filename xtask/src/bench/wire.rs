//! As much of HTTP/1.1 as two programs that know each other need. Anything else is refused, never guessed.

use anyhow::{Context, Result, ensure};

/// A head longer than this is not one of ours.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The index behind the empty line that ends a head; `None` while it has not all come.
pub(crate) fn head_end(buffer: &[u8]) -> Result<Option<usize>> {
    let end = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| at + 4);
    ensure!(end.is_some() || buffer.len() < HEAD_BYTES_MAX, "a head is longer than {HEAD_BYTES_MAX} bytes");
    Ok(end)
}

/// The value of the header `name` in a complete head.
pub(crate) fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    let mut values = lines.filter_map(|line| {
        let (key, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        key.eq_ignore_ascii_case(name.as_bytes()).then(|| std::str::from_utf8(value).ok().map(str::trim)).flatten()
    });
    values.next()
}

/// The length of the body behind a complete head; `default` where none is told.
pub(crate) fn body_length(head: &[u8], default: Option<usize>) -> Result<usize> {
    ensure!(header(head, "transfer-encoding").is_none(), "the body comes chunked, though its length is known");
    match header(head, "content-length") {
        Some(length) => length.parse().with_context(|| format!("a content-length is no number: {length}")),
        None => default.context("the head tells no content-length"),
    }
}

/// The status of a complete response head.
pub(crate) fn status(head: &[u8]) -> Result<u16> {
    let code = head.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let code = code.and_then(|code| std::str::from_utf8(code).ok()).and_then(|code| code.parse().ok());
    code.with_context(|| format!("no HTTP/1.1 response: {:?}", String::from_utf8_lossy(&head[..head.len().min(80)])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 64\r\nX: content-length: 9\r\n\r\n";

    #[test]
    fn a_head_is_read() {
        assert_eq!(head_end(HEAD).unwrap(), Some(HEAD.len()));
        assert_eq!(head_end(&HEAD[..HEAD.len() - 1]).unwrap(), None);
        assert_eq!(status(HEAD).unwrap(), 200);
        assert_eq!(header(HEAD, "x"), Some("content-length: 9"));
        assert_eq!(header(HEAD, "content"), None);
        assert_eq!(body_length(HEAD, None).unwrap(), 64);
        assert_eq!(body_length(b"GET / HTTP/1.1\r\n\r\n", Some(0)).unwrap(), 0);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(head_end(&vec![b'x'; HEAD_BYTES_MAX]).is_err());
        assert!(status(b"HTTP/1.0 200 OK\r\n\r\n").is_err());
        assert!(body_length(b"HTTP/1.1 200 OK\r\n\r\n", None).is_err());
        assert!(body_length(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None).is_err());
        assert!(body_length(b"HTTP/1.1 200 OK\r\nContent-Length: 6x\r\n\r\n", None).is_err());
    }
}
