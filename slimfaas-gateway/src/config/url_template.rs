//! `http://{pod_ip}:{pod_port}/base`: where a function is, as a template.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::model::address::Address;

/// A checked template. Values cannot change its structure: they are put in after it has been taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlTemplate {
    host: String,
    port: Option<String>,
    path: String,
}

/// What the placeholders stand for.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    pub function_name: &'a str,
    pub namespace: &'a str,
    /// Of the Service in front of the function.
    pub service_name: Option<&'a str>,
    pub pod_name: Option<&'a str>,
    pub pod_ip: Option<IpAddr>,
    /// The ports that the pod declares, in order.
    pub pod_ports: &'a [u16],
}

/// Where a request goes: the address to connect to, and what goes before the request's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub address: Address,
    /// Starts with a slash and does not end with one; `None` is the root.
    pub base_path: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("https to functions is not supported: use http")]
    Https,
    #[error("it must start with http://")]
    Scheme,
    #[error("a user name or password in it is not supported")]
    UserInfo,
    #[error("a brace has no partner")]
    Brace,
    #[error("there is no placeholder {{{0}}}: use {PLACEHOLDERS}")]
    Placeholder(String),
    #[error("there is nothing to put in for {{{0}}} here")]
    NoValue(String),
    #[error("{0:?} is not a host name or an address (IPv6 addresses stand in brackets)")]
    Host(String),
    #[error("{0:?} is not a port from 1 to 65535")]
    Port(String),
    #[error("{0:?} is not a path (a query or a fragment cannot be part of it)")]
    Path(String),
}

pub(crate) const PLACEHOLDERS: &str =
    "{function_name}, {namespace}, {service_name}, {pod_name}, {pod_ip}, {pod_port} or {pod_port_N}";

/// For checking a template before there is anything to put into it.
const SAMPLE: Values<'_> = Values {
    function_name: "f",
    namespace: "n",
    service_name: Some("s"),
    pod_name: Some("p"),
    pod_ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    pod_ports: &[1; 64],
};

impl UrlTemplate {
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" => return Err(UrlError::Https),
            _ => return Err(UrlError::Scheme),
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let (host, port) = split_authority(authority)?;
        let template =
            Self { host: host.to_owned(), port: port.map(str::to_owned), path: path.trim_end_matches('/').to_owned() };
        template.target(&SAMPLE)?;
        Ok(template)
    }

    /// Whether each pod has its own address; otherwise one address stands for all of them.
    pub fn is_per_pod(&self) -> bool {
        [&self.host, &self.path].into_iter().chain(&self.port).any(|part| part.contains("{pod_"))
    }

    pub fn target(&self, values: &Values<'_>) -> Result<Target, UrlError> {
        let host = filled(&self.host, values)?;
        let port = match &self.port {
            None => 80,
            Some(port) => {
                let port = filled(port, values)?;
                port.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port(port))?
            }
        };
        let address = match host.parse::<IpAddr>() {
            Ok(ip) => Address::Socket(SocketAddr::new(ip, port)),
            Err(_) if is_host_name(&host) => Address::Host(host.into(), port),
            Err(_) => return Err(UrlError::Host(host)),
        };
        let path = filled(&self.path, values)?;
        if path.is_empty() {
            return Ok(Target { address, base_path: None });
        }
        let is_path = !path.contains(['?', '#']) && http::uri::PathAndQuery::try_from(path.as_str()).is_ok();
        if is_path { Ok(Target { address, base_path: Some(path.into()) }) } else { Err(UrlError::Path(path)) }
    }
}

/// Host (without brackets) and port.
fn split_authority(authority: &str) -> Result<(&str, Option<&str>), UrlError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(|| UrlError::Host(authority.to_owned()))?;
            (host, if after.is_empty() { None } else { Some(after) })
        }
        None => match authority.find(':') {
            Some(colon) => (&authority[..colon], Some(&authority[colon..])),
            None => (authority, None),
        },
    };
    match port {
        None => Ok((host, None)),
        Some(port) => match port.strip_prefix(':') {
            Some(port) if !port.contains(':') => Ok((host, Some(port))),
            _ => Err(UrlError::Host(authority.to_owned())),
        },
    }
}

fn filled(part: &str, values: &Values<'_>) -> Result<String, UrlError> {
    let mut out = String::with_capacity(part.len());
    let mut rest = part;
    while let Some(open) = rest.find(['{', '}']) {
        out.push_str(&rest[..open]);
        let inside = rest[open..].strip_prefix('{').ok_or(UrlError::Brace)?;
        let (name, after) = inside.split_once('}').ok_or(UrlError::Brace)?;
        let no_value = || UrlError::NoValue(name.to_owned());
        match name {
            "function_name" => out.push_str(values.function_name),
            "namespace" => out.push_str(values.namespace),
            "service_name" => out.push_str(values.service_name.ok_or_else(no_value)?),
            "pod_name" => out.push_str(values.pod_name.ok_or_else(no_value)?),
            "pod_ip" => write!(out, "{}", values.pod_ip.ok_or_else(no_value)?).expect("writing to a string succeeds"),
            _ => {
                let index = port_index(name).ok_or_else(|| UrlError::Placeholder(name.to_owned()))?;
                let port = values.pod_ports.get(index).ok_or_else(no_value)?;
                write!(out, "{port}").expect("writing to a string succeeds");
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// `pod_port` is the first port, `pod_port_N` the one after N others.
fn port_index(name: &str) -> Option<usize> {
    match name.strip_prefix("pod_port")? {
        "" => Some(0),
        number => number.strip_prefix('_')?.parse().ok(),
    }
}

fn is_host_name(host: &str) -> bool {
    matches!(host.len(), 1..=253) && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: Values<'_> = Values {
        function_name: "fib",
        namespace: "demo",
        service_name: None,
        pod_name: Some("fib-0"),
        pod_ip: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7))),
        pod_ports: &[5000, 9000],
    };

    fn target(text: &str, values: &Values<'_>) -> Result<(String, Option<String>), UrlError> {
        let target = UrlTemplate::parse(text)?.target(values)?;
        Ok((target.address.to_string(), target.base_path.map(|path| path.to_string())))
    }

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, Option<&str>), UrlError>) {
        let expected = expected.map(|(address, path)| (address.to_owned(), path.map(str::to_owned)));
        assert_eq!(target(text, &VALUES), expected, "{text}");
    }

    #[test]
    fn targets() {
        check("http://{pod_ip}:{pod_port}", Ok(("10.0.0.7:5000", None)));
        check("HTTP://{pod_ip}:{pod_port_1}/", Ok(("10.0.0.7:9000", None)));
        check("http://[{pod_ip}]:5000", Ok(("10.0.0.7:5000", None)));
        check(
            "http://{function_name}.{namespace}.svc.cluster.local:5000",
            Ok(("fib.demo.svc.cluster.local:5000", None)),
        );
        check("http://gateway/base/{function_name}//", Ok(("gateway:80", Some("/base/fib"))));
        check("http://[::1]:81/a", Ok(("[::1]:81", Some("/a"))));
        check("http://[::1]", Ok(("[::1]:80", None)));
        check("http://{pod_name}", Ok(("fib-0:80", None)));
    }

    #[test]
    fn an_ipv6_pod_needs_no_brackets_in_the_template() {
        let values = Values { pod_ip: Some("fd00::7".parse().expect("an address")), ..VALUES };
        for text in ["http://{pod_ip}:{pod_port}", "http://[{pod_ip}]:{pod_port}"] {
            assert_eq!(target(text, &values), Ok(("[fd00::7]:5000".to_owned(), None)));
        }
    }

    #[test]
    fn refusals() {
        let text = str::to_owned;
        check("https://{pod_ip}", Err(UrlError::Https));
        check("{pod_ip}:5000", Err(UrlError::Scheme));
        check("ftp://x", Err(UrlError::Scheme));
        check("http://{pod_ip:5000", Err(UrlError::Brace));
        check("http://pod_ip}:5000", Err(UrlError::Brace));
        check("http://{pod}:5000", Err(UrlError::Placeholder(text("pod"))));
        check("http://{pod_ip}:{pod_port_x}", Err(UrlError::Placeholder(text("pod_port_x"))));
        check("http://{pod_ip}:{pod_port_2}", Err(UrlError::NoValue(text("pod_port_2"))));
        check("http://{service_name}", Err(UrlError::NoValue(text("service_name"))));
        check("http://", Err(UrlError::Host(String::new())));
        check("http://user:password@host", Err(UrlError::UserInfo));
        check("http://a/b", Ok(("a:80", Some("/b"))));
        check("http://ho st", Err(UrlError::Host(text("ho st"))));
        check("http://::1:5000", Err(UrlError::Host(text("::1:5000"))));
        check("http://[::1", Err(UrlError::Host(text("[::1"))));
        check("http://[::1]5", Err(UrlError::Host(text("[::1]5"))));
        check("http://host:0", Err(UrlError::Port(text("0"))));
        check("http://host:65536", Err(UrlError::Port(text("65536"))));
        check("http://host/a?b", Err(UrlError::Path(text("/a?b"))));
        check("http://host/a b", Err(UrlError::Path(text("/a b"))));
        assert_eq!(
            UrlError::Placeholder(text("pod")).to_string(),
            "there is no placeholder {pod}: use {function_name}, {namespace}, {service_name}, {pod_name}, {pod_ip}, \
             {pod_port} or {pod_port_N}"
        );
    }

    #[test]
    fn values_cannot_change_the_structure() {
        let values = Values { function_name: "evil/x:1", ..VALUES };
        assert_eq!(target("http://{function_name}:80", &values), Err(UrlError::Host("evil/x:1".to_owned())));
    }

    #[test]
    fn per_pod_templates() {
        for (text, expected) in [
            ("http://{pod_ip}:{pod_port}", true),
            ("http://x/{pod_name}", true),
            ("http://{function_name}:5000", false),
        ] {
            assert_eq!(UrlTemplate::parse(text).expect("valid").is_per_pod(), expected, "{text}");
        }
    }
}
