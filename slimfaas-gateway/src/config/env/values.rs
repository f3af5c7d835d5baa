//! Texts of options to values. Errors say what is allowed.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr as _;
use std::time::Duration;

use crate::config::{CorsOrigins, PeerNode};
use crate::model::address::Address;

/// Listeners per core; each is a socket and a task.
const PORTS_MAX: usize = 64;

/// Raft is for a few nodes: each further one is another disk to wait for.
const NODES_MAX: usize = 9;

pub(super) fn whole(text: &str, range: &RangeInclusive<u64>) -> Option<u64> {
    text.parse().ok().filter(|number| range.contains(number))
}

const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

/// `65536`, `64KiB`, `64 KiB`.
pub(super) fn bytes(text: &str, range: &RangeInclusive<u64>) -> Option<u64> {
    for (unit, shift) in UNITS {
        if let Some(number) = text.strip_suffix(unit) {
            let bytes = number.trim_end().parse::<u64>().ok()?.checked_mul(1 << shift)?;
            return range.contains(&bytes).then_some(bytes);
        }
    }
    whole(text, range)
}

/// In the largest unit that divides it.
pub(super) fn show_bytes(bytes: u64) -> String {
    let unit = UNITS.iter().rev().find(|(_, shift)| bytes != 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

/// Seconds with at most three decimals, or a .NET time span; within `range` of milliseconds.
pub(super) fn duration(text: &str, range: &RangeInclusive<u64>) -> Option<Duration> {
    let millis = if text.contains(':') { time_span(text)? } else { decimal_millis(text)? };
    range.contains(&millis).then(|| Duration::from_millis(millis))
}

pub(super) fn show_seconds(millis: u64) -> String {
    if millis.is_multiple_of(1000) {
        (millis / 1000).to_string()
    } else {
        format!("{}.{:03}", millis / 1000, millis % 1000)
    }
}

fn decimal_millis(text: &str) -> Option<u64> {
    let (seconds, decimals) = text.split_once('.').unwrap_or((text, "0"));
    // .NET writes seven decimals; beyond milliseconds only zeros.
    let (kept, rest) = decimals.split_at_checked(3).unwrap_or((decimals, ""));
    if decimals.is_empty() || !all_digits(decimals) || !rest.bytes().all(|b| b == b'0') {
        return None;
    }
    let millis: u64 = format!("{kept:0<3}").parse().ok()?;
    digits(seconds)?.checked_mul(1000)?.checked_add(millis)
}

/// `hh:mm`, `hh:mm:ss`, `d.hh:mm:ss`, `hh:mm:ss.fff`.
fn time_span(text: &str) -> Option<u64> {
    let (day_hour, rest) = text.split_once(':')?;
    let (days, hours) = match day_hour.split_once('.') {
        Some((days, hours)) => (digits(days)?, digits(hours)?),
        None => (0, digits(day_hour)?),
    };
    let (minutes, seconds) = rest.split_once(':').unwrap_or((rest, "0"));
    let (minutes, millis) = (digits(minutes)?, decimal_millis(seconds)?);
    if hours > 23 || minutes > 59 || millis >= 60_000 {
        return None;
    }
    let total_minutes = days.checked_mul(1440)?.checked_add(hours * 60 + minutes)?;
    total_minutes.checked_mul(60_000)?.checked_add(millis)
}

fn digits(text: &str) -> Option<u64> {
    if all_digits(text) { text.parse().ok() } else { None }
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("allowed: true or false".to_owned()),
    }
}

pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_error| "allowed: an IP address such as :: or 0.0.0.0 or 127.0.0.1".to_owned())
}

pub(super) fn ports(text: &str) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for item in text.split(',') {
        let item = item.trim();
        let Ok(port) = u16::from_str(item) else {
            return Err(format!("allowed: ports from 0 (any free one) to 65535, separated by commas, unlike {item:?}"));
        };
        if port != 0 && ports.contains(&port) {
            return Err(format!("port {port} is there twice"));
        }
        ports.push(port);
    }
    if ports.len() > PORTS_MAX {
        return Err(format!("allowed: at most {PORTS_MAX} ports"));
    }
    Ok(ports)
}

/// `name=host:port,…`; a host is an address or a name.
pub(super) fn nodes(text: &str) -> Result<Vec<PeerNode>, String> {
    let mut nodes: Vec<PeerNode> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let unlike = || format!("allowed: name=host:port, separated by commas, unlike {item:?}");
        let (name, address) = item.split_once('=').ok_or_else(unlike)?;
        let address = host_and_port(address).filter(|_| !name.is_empty()).ok_or_else(unlike)?;
        if nodes.iter().any(|node| node.name == name || node.address == address) {
            return Err(format!("the name or the address of {item:?} is there twice"));
        }
        nodes.push(PeerNode { name: name.to_owned(), address });
    }
    if nodes.len() > NODES_MAX {
        return Err(format!("allowed: at most {NODES_MAX} nodes"));
    }
    Ok(nodes)
}

fn host_and_port(text: &str) -> Option<Address> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(Address::Socket(address)).filter(|_| address.port() != 0);
    }
    let (host, port) = text.rsplit_once(':')?;
    let is_name =
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    let port = port.parse().ok().filter(|port| *port != 0)?;
    is_name.then(|| Address::Host(host.into(), port))
}

pub(super) fn origins(text: &str) -> Result<CorsOrigins, String> {
    let mut origins = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        if item == "*" {
            return Ok(CorsOrigins::Any);
        }
        // Browsers send scheme and host in lower case and no path.
        let origin = item.trim_end_matches('/').to_ascii_lowercase();
        let host = origin.split_once("://").map_or("", |(_scheme, host)| host);
        let is_origin = origin.starts_with("http://") || origin.starts_with("https://");
        if !is_origin || host.is_empty() || host.contains(['/', '?', '#', '@', '*']) || !origin.is_ascii() {
            return Err(format!("allowed: * or origins such as https://app.example.com, unlike {item:?}"));
        }
        origins.push(origin);
    }
    if origins.is_empty() {
        return Err("allowed: * or origins such as https://app.example.com".to_owned());
    }
    Ok(CorsOrigins::Listed(origins))
}

/// A Kubernetes namespace name (an RFC 1123 label).
pub(super) fn namespace(text: &str) -> Result<String, String> {
    let is_label = matches!(text.len(), 1..=63)
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_label {
        Ok(text.to_owned())
    } else {
        Err("allowed: lower-case letters, digits and inner '-', at most 63 of them".to_owned())
    }
}

/// `auto` is what the process may use: processor affinity and the cgroup's CPU quota both count.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    }
    whole(text, &(1..=1024))
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| "allowed: auto, or a whole number from 1 to 1024".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let range = 0..=u64::MAX;
        for (text, millis) in [
            ("0", Some(0)),
            ("30", Some(30_000)),
            ("0.5", Some(500)),
            ("1.25", Some(1250)),
            ("1.2340000", Some(1234)),
            ("1.2345", None),
            ("00:05:00", Some(300_000)),
            ("00:05", Some(300_000)),
            ("1.02:03:04.5", Some(93_784_500)),
            ("24:00:00", None),
            ("00:60:00", None),
            ("00:00:60", None),
            ("5m", None),
            ("-1", None),
            ("+1", None),
            ("", None),
            (".", None),
            ("1.", None),
            (":", None),
            ("1e3", None),
            ("99999999999999999999", None),
            ("18446744073709551615", None),
            ("99999999999999999.00:00:00", None),
            ("é.ééé", None),
            ("1.é1234", None),
        ] {
            assert_eq!(duration(text, &range), millis.map(Duration::from_millis), "{text}");
        }
        assert_eq!(duration("2", &(0..=1999)), None);
        assert_eq!(show_seconds(1500), "1.500");
        assert_eq!(show_seconds(3000), "3");
    }

    #[test]
    fn sizes() {
        let range = 1..=u64::MAX;
        for (text, expected) in [
            ("1", Some(1)),
            ("64KiB", Some(65_536)),
            ("16 GiB", Some(17_179_869_184)),
            ("2MiB", Some(2_097_152)),
            ("0", None),
            ("64K", None),
            ("KiB", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(bytes(text, &range), expected, "{text}");
        }
        for (number, text) in [(0, "0"), (1, "1"), (65_536, "64KiB"), (1_536, "1536"), (1 << 34, "16GiB")] {
            assert_eq!(show_bytes(number), text);
        }
    }

    #[test]
    fn lists_of_ports() {
        assert_eq!(ports("5000"), Ok(vec![5000]));
        assert_eq!(ports("5000, 6000,7000"), Ok(vec![5000, 6000, 7000]));
        assert_eq!(ports("0,0"), Ok(vec![0, 0]));
        assert_eq!(ports("5000,5000"), Err("port 5000 is there twice".to_owned()));
        for text in ["", "5000,", "65536", "-1", "http"] {
            assert!(ports(text).is_err(), "{text}");
        }
        let many = |count: usize| (1..=count).map(|port| port.to_string()).collect::<Vec<_>>().join(",");
        assert!(ports(&many(PORTS_MAX)).is_ok());
        assert!(ports(&many(PORTS_MAX + 1)).is_err());
    }

    #[test]
    fn lists_of_origins() {
        assert_eq!(origins("*"), Ok(CorsOrigins::Any));
        assert_eq!(
            origins("https://App.example.com/, http://localhost:3000"),
            Ok(CorsOrigins::Listed(vec!["https://app.example.com".into(), "http://localhost:3000".into()]))
        );
        for text in ["app.example.com", "https://", "https://*.example.com", "https://a/b", "ftp://a", ","] {
            assert!(origins(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_of_nodes() {
        let node = |name: &str, address| PeerNode { name: name.to_owned(), address };
        let socket = |text: &str| Address::Socket(text.parse().expect("an address"));
        assert_eq!(
            nodes("a=127.0.0.1:1, b=[::1]:2,c=gateway-c.local:3"),
            Ok(vec![
                node("a", socket("127.0.0.1:1")),
                node("b", socket("[::1]:2")),
                node("c", Address::Host("gateway-c.local".into(), 3)),
            ])
        );
        for text in ["a", "=b:1", "a=b", "a=:1", "a=b:0", "a=b:x", "a=::1:1:2", "a=b:1,a=c:1", "a=b:1,c=b:1"] {
            assert!(nodes(text).is_err(), "{text}");
        }
        let many = |count: usize| (1..=count).map(|n| format!("n{n}=h:{n}")).collect::<Vec<_>>().join(",");
        assert!(nodes(&many(NODES_MAX)).is_ok());
        assert!(nodes(&many(NODES_MAX + 1)).is_err());
    }

    #[test]
    fn names_of_namespaces() {
        for (text, expected) in [("default", true), ("a-1", true), ("-a", false), ("A", false), ("a.b", false)] {
            assert_eq!(namespace(text).is_ok(), expected, "{text}");
        }
        assert!(namespace(&"a".repeat(63)).is_ok());
        assert!(namespace(&"a".repeat(64)).is_err());
    }
}
