//! Publishes one CloudEvent to a gateway, as `slimfaas publish` does.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;

use crate::model::address::Address;
use crate::net;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Of a gateway's answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// An event with its attributes.
#[derive(Clone, Debug)]
pub struct CloudEvent {
    /// `type`, `source`, `id` and further ones, without their prefix.
    pub attributes: Vec<(String, String)>,
    pub content_type: Option<String>,
    pub data: Bytes,
}

/// What a gateway answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("{0} is no gateway's address: write http://host:port")]
    Url(Uri),
    #[error("{0:?} cannot be an attribute: its name has lower-case letters and digits only")]
    Attribute(String),
    #[error("the content type {0:?} cannot be sent")]
    ContentType(String),
    #[error("cannot reach the gateway at {address}: {source} (does it run there?)")]
    Connect { address: Address, source: std::io::Error },
    #[error("the gateway broke off: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("the gateway's answer cannot be read: {0}")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the gateway did not answer within {0:?}")]
    Timeout(Duration),
}

/// Sends to `/events` below `gateway`, and waits for what became of each delivery.
pub async fn publish(gateway: &Uri, event: CloudEvent, timeout: Duration) -> Result<Answer, PublishError> {
    let (address, authority) = target(gateway)?;
    let mut request = Request::new(Full::new(event.data));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("/events");
    let headers = request.headers_mut();
    headers.insert(header::HOST, authority);
    headers.insert(super::prefer::PREFER, HeaderValue::from_static("return=representation"));
    headers.insert("ce-specversion", HeaderValue::from_static("1.0"));
    if let Some(content_type) = event.content_type {
        let value = HeaderValue::try_from(&content_type).ok().ok_or(PublishError::ContentType(content_type))?;
        headers.insert(header::CONTENT_TYPE, value);
    }
    for (name, value) in event.attributes {
        let refused = || PublishError::Attribute(name.clone());
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let header = http::HeaderName::try_from(format!("ce-{name}")).ok().filter(|_| is_name).ok_or_else(refused)?;
        headers.insert(header, HeaderValue::try_from(encoded(&value)).ok().ok_or_else(refused)?);
    }
    let exchange = exchange(&address, request);
    tokio::time::timeout(timeout, exchange).await.map_err(|_elapsed| PublishError::Timeout(timeout))?
}

fn target(gateway: &Uri) -> Result<(Address, HeaderValue), PublishError> {
    let refused = || PublishError::Url(gateway.clone());
    let is_plain = gateway.path_and_query().is_none_or(|path| path == "/");
    let host = gateway.host().filter(|_| gateway.scheme_str() == Some("http") && is_plain).ok_or_else(refused)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let authority = gateway.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    Ok((Address::Host(host.into(), gateway.port_u16().unwrap_or(80)), authority.ok_or_else(refused)?))
}

/// As attributes stand in headers: printable ASCII, and everything else (and `"` and `%`) percent-encoded.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => out.push_str(&format!("%{byte:02X}")),
            b'!'..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

async fn exchange(address: &Address, request: Request<Full<Bytes>>) -> Result<Answer, PublishError> {
    let connected = net::connect(address, CONNECT_TIMEOUT).await;
    let stream = connected.map_err(|source| PublishError::Connect { address: address.clone(), source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(PublishError::Answer)?;
        Ok(Answer { status: head.status, body: body.to_bytes() })
    };
    net::drive(answer, connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_headers() {
        for (text, expected) in
            [("a b", "a%20b"), ("100% \"é\"", "100%25%20%22%C3%A9%22"), ("com.example/x", "com.example/x")]
        {
            assert_eq!(encoded(text), expected);
            assert_eq!(crate::model::percent::decode(&encoded(text)).as_deref(), Some(text));
        }
    }

    #[test]
    fn gateways_are_plain_http() {
        let check = |url: &'static str, expected: Option<&str>| {
            let found = target(&Uri::from_static(url)).ok().map(|(address, _)| address.to_string());
            assert_eq!(found.as_deref(), expected, "{url}");
        };
        check("http://localhost:30021", Some("localhost:30021"));
        check("http://slimfaas/", Some("slimfaas:80"));
        check("http://[::1]:5000", Some("::1:5000"));
        check("https://slimfaas", None);
        check("http://slimfaas/events", None);
        check("/events", None);
    }
}
