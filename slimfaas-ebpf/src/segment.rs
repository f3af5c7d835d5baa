//! Where the TCP header is in a packet. Whoever could hide it behind something that this does not walk would get past
//! the guard, so what cannot be walked is said to be so, and the guard drops it.

const TCP: u8 = 6;
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
/// Hop-by-hop options, routing, fragment, authentication, and destination options in two places, are what IPv6 has in
/// front of TCP, each once (RFC 8200, section 4.1).
const IPV6_EXTENSIONS_MAX: usize = 6;

/// What the guard needs of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub sequence: u32,
    pub flags: u8,
    /// Where the options start, from the start of the packet.
    pub options_at: u32,
    /// Bytes of options, at most 40.
    pub options_len: u32,
}

/// Reads the TCP header of an IP packet through `byte` and `word`, which give what is at an offset from the start of
/// the packet, words in the host's order; `None` past its end.
///
/// `None`: it is not TCP, or it cannot be told where the header is.
#[inline(always)]
pub fn read_segment(byte: impl Fn(u32) -> Option<u8>, word: impl Fn(u32) -> Option<u32>) -> Option<Segment> {
    let at = match byte(0)? >> 4 {
        4 => tcp_after_ipv4(&byte)?,
        6 => tcp_after_ipv6(&byte)?,
        _ => return None,
    };
    let sequence = word(at + 4)?;
    let header_len = u32::from(byte(at + 12)? >> 4) * 4;
    if header_len < 20 {
        return None;
    }
    Some(Segment { sequence, flags: byte(at + 13)?, options_at: at + 20, options_len: header_len - 20 })
}

#[inline(always)]
fn tcp_after_ipv4(byte: &impl Fn(u32) -> Option<u8>) -> Option<u32> {
    let header_len = u32::from(byte(0)? & 0x0F) * 4;
    if header_len < IPV4_HEADER || byte(9)? != TCP {
        return None;
    }
    Some(header_len)
}

#[inline(always)]
fn tcp_after_ipv6(byte: &impl Fn(u32) -> Option<u8>) -> Option<u32> {
    let mut kind = byte(6)?;
    let mut at = IPV6_HEADER;
    for _ in 0..IPV6_EXTENSIONS_MAX {
        if kind == TCP {
            return Some(at);
        }
        let units = u32::from(byte(at + 1)?);
        let len = match kind {
            // Hop-by-hop options, routing, destination options: in units of 8, less the first.
            0 | 43 | 60 => (units + 1) * 8,
            // The one fragment that a packet may be.
            44 => 8,
            // Authentication: in units of 4, less the first two.
            51 => (units + 2) * 4,
            _ => return None,
        };
        kind = byte(at)?;
        at += len;
    }
    if kind == TCP { Some(at) } else { None }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn read(packet: &[u8]) -> Option<Segment> {
        let byte = |at: u32| packet.get(at as usize).copied();
        let word = |at: u32| {
            let bytes = packet.get(at as usize..at as usize + 4)?;
            Some(u32::from_be_bytes(bytes.try_into().expect("four bytes")))
        };
        read_segment(byte, word)
    }

    fn ipv4(header_words: u8, protocol: u8) -> Vec<u8> {
        let mut header = vec![0; usize::from(header_words) * 4];
        header[0] = 0x40 | header_words;
        header[9] = protocol;
        header
    }

    fn ipv6(next: u8) -> Vec<u8> {
        let mut header = vec![0; 40];
        header[0] = 0x60;
        header[6] = next;
        header
    }

    fn tcp(options: u8, flags: u8) -> Vec<u8> {
        let mut header = vec![0; 20 + usize::from(options)];
        header[4..8].copy_from_slice(&[1, 2, 3, 4]);
        header[12] = (5 + options / 4) << 4;
        header[13] = flags;
        header
    }

    #[track_caller]
    fn check(parts: &[&[u8]], expected: Option<(u32, u32)>) {
        let expected = expected.map(|(options_at, options_len)| Segment {
            sequence: 0x0102_0304,
            flags: 2,
            options_at,
            options_len,
        });
        assert_eq!(read(&parts.concat()), expected);
    }

    #[test]
    fn the_header_is_found() {
        check(&[&ipv4(5, 6), &tcp(0, 2)], Some((40, 0)));
        check(&[&ipv4(5, 6), &tcp(40, 2)], Some((40, 40)));
        check(&[&ipv4(15, 6), &tcp(20, 2)], Some((80, 20)));
        check(&[&ipv6(6), &tcp(16, 2)], Some((60, 16)));
    }

    #[test]
    fn extension_headers_hide_nothing() {
        let hop = |next| [next, 0, 0, 0, 0, 0, 0, 0];
        let long = |next| [&[next, 1][..], &[0; 14]].concat();
        let authentication = |next| [&[next, 4][..], &[0; 22]].concat();
        check(&[&ipv6(0), &hop(6), &tcp(16, 2)], Some((68, 16)));
        check(
            &[
                &ipv6(0),
                &hop(60),
                &long(43),
                &hop(44),
                &[51, 9, 0, 0, 0, 0, 0, 0],
                &authentication(60),
                &hop(6),
                &tcp(16, 2),
            ],
            Some((40 + 8 + 16 + 8 + 8 + 24 + 8 + 20, 16)),
        );
        // One more than there can be.
        let many: Vec<u8> = [60, 60, 60, 60, 60, 60, 6].iter().flat_map(|next| hop(*next)).collect();
        check(&[&ipv6(60), &many, &tcp(16, 2)], None);
    }

    #[test]
    fn what_is_not_tcp_or_cut_short_is_nothing() {
        check(&[&ipv4(5, 17), &tcp(0, 2)], None);
        check(&[&ipv4(4, 6), &tcp(0, 2)], None);
        check(&[&ipv6(17), &tcp(0, 2)], None);
        check(&[&ipv6(59)], None);
        check(&[&[0x50; 60]], None);
        check(&[&[]], None);
        check(&[&ipv4(5, 6), &tcp(0, 2)[..13]], None);
        let mut short = tcp(0, 2);
        short[12] = 4 << 4;
        check(&[&ipv4(5, 6), &short], None);
    }

    proptest! {
        #[test]
        fn any_packet_can_be_read(packet in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Some(segment) = read(&packet) {
                prop_assert!(segment.options_len <= 40);
                prop_assert!(segment.options_at >= 40);
            }
        }
    }
}
