//! TCP connections made by hand, with any option in their SYN and any initial sequence number: what a pod with
//! CAP_NET_RAW can do. IPv4 only.

use std::io::Read;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

const SYN: u8 = 0x02;
const PUSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Opens a connection; its SYN has `isn` and, after the maximum segment size, `options`. Returns whether the other end
/// answered within the timeout; then the handshake is complete. The own kernel, which knows nothing of it, must be kept
/// from resetting it (a rule that drops what resets).
///
/// # Errors
/// Without CAP_NET_RAW, and when a packet cannot be sent.
pub fn open(from: SocketAddrV4, to: SocketAddrV4, isn: u32, options: &[u8], timeout: Duration) -> Result<bool> {
    exchange(from, to, isn, options, &[], timeout).map(|answer| answer.is_some())
}

/// Opens a connection likewise, and sends `request` in one segment; returns the first segment of data that comes back,
/// empty where nothing was sent. Nothing when the other end does not answer the SYN within the timeout, or the request.
///
/// # Errors
/// Without CAP_NET_RAW, and when a packet cannot be sent.
pub fn exchange(
    from: SocketAddrV4,
    to: SocketAddrV4,
    isn: u32,
    options: &[u8],
    request: &[u8],
    timeout: Duration,
) -> Result<Option<Vec<u8>>> {
    let mut socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).context("cannot open a raw socket")?;
    socket.bind(&SocketAddrV4::new(*from.ip(), 0).into())?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let destination = SocketAddrV4::new(*to.ip(), 0).into();
    let all_options = [&[2, 4, 5, 180][..], options].concat();
    let syn = segment(from, to, [isn, 0], SYN, &all_options, &[]);
    socket.send_to(&syn, &destination).context("cannot send the SYN")?;
    let deadline = Instant::now() + timeout;
    let own = isn.wrapping_add(1);
    let mut is_open = false;
    while Instant::now() < deadline {
        let mut packet = [0; 1500];
        let Ok(len) = socket.read(&mut packet) else { continue };
        let Some(answer) = answer(&packet[..len], from, to) else { continue };
        if !is_open && answer.opens && answer.ack == own {
            is_open = true;
            let next = [own, answer.sequence.wrapping_add(1)];
            socket.send_to(&segment(from, to, next, ACK, &[], &[]), &destination).context("cannot send the ACK")?;
            if request.is_empty() {
                return Ok(Some(Vec::new()));
            }
            let request = segment(from, to, next, PUSH | ACK, &[], request);
            socket.send_to(&request, &destination).context("cannot send the request")?;
        } else if is_open && !answer.data.is_empty() {
            return Ok(Some(answer.data.to_vec()));
        }
    }
    Ok(None)
}

/// A segment that came back.
struct Answer<'a> {
    sequence: u32,
    ack: u32,
    opens: bool,
    data: &'a [u8],
}

/// The segment in the packet, when it belongs to our connection.
fn answer(packet: &[u8], from: SocketAddrV4, to: SocketAddrV4) -> Option<Answer<'_>> {
    let header = usize::from(packet.first()? & 0x0F) * 4;
    let source = packet.get(12..16)?;
    let tcp = packet.get(header..)?;
    let ports = [to.port().to_be_bytes(), from.port().to_be_bytes()].concat();
    let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
    let opens = tcp.get(13)? & (SYN | ACK) == SYN | ACK;
    let data = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
    let ours = source == to.ip().octets() && tcp[..4] == ports;
    ours.then_some(Answer { sequence: word(4)?, ack: word(8)?, opens, data })
}

/// `numbers`: the segment's own sequence number and the one that it acknowledges.
fn segment(
    from: SocketAddrV4,
    to: SocketAddrV4,
    [sequence, ack]: [u32; 2],
    flags: u8,
    options: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(60);
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    let header_len = 20 + options.len().next_multiple_of(4);
    tcp.push(u8::try_from(header_len / 4).expect("at most 40 bytes of options") << 4);
    tcp.push(flags);
    tcp.extend([0xFF, 0xFF, 0, 0, 0, 0]);
    tcp.extend(options);
    // The end of the list.
    tcp.resize(header_len, 0);
    tcp.extend(data);
    let checksum = checksum(from, to, &tcp);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    tcp
}

/// Over the pseudo-header and the segment (RFC 9293, section 3.1).
fn checksum(from: SocketAddrV4, to: SocketAddrV4, tcp: &[u8]) -> u16 {
    let len = u16::try_from(tcp.len()).expect("a segment is short");
    let pseudo = [&from.ip().octets()[..], &to.ip().octets(), &[0, 6], &len.to_be_bytes()].concat();
    let words = pseudo.chunks(2).chain(tcp.chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !u16::try_from(sum).expect("the carries are added")
}

/// As hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// From hexadecimal digits; `-` is nothing.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let text = if text == "-" { "" } else { text };
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_goes_there_and_back() {
        assert_eq!(to_hex(&[0, 0xAB, 16]), "00ab10");
        assert_eq!(from_hex("00ab10"), Some(vec![0, 0xAB, 16]));
        assert_eq!(from_hex("-"), Some(vec![]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("zz"), None);
    }

    /// A segment with its own checksum adds up to none.
    #[test]
    fn the_checksum_closes() {
        let (from, to) = ("10.1.2.3:40000".parse().unwrap(), "10.1.2.4:80".parse().unwrap());
        let tcp = segment(from, to, [0x0102_0304, 0], SYN, &[254, 6, 0x5F, 0xA5, 1, 2], &[]);
        assert_eq!((tcp.len(), tcp[12] >> 4), (28, 7));
        assert_eq!(checksum(from, to, &tcp), 0);
    }
}
