//! What the example function answers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::time::{Sleep, sleep, timeout};

use crate::model::address::Address;
use crate::net;

pub(super) type Answer = Response<UnsyncBoxBody<Bytes, hyper::Error>>;

/// Of a body that is read as a whole.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Of an event.
const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// The last one that fits 64 bits.
const FIBONACCI_MAX: u64 = 93;
const CHUNKS_MAX: u64 = 1_000_000;
const DELAY_MAX: Duration = Duration::from_secs(3600);
/// For `/call`: connect, answer and body each.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Of the body that `/call` relays.
const CALL_BYTES_MAX: usize = 1024 * 1024;

const USAGE: &str = "\
GET  /hello/{name}                   a greeting
POST /fibonacci                      {\"input\": 10} gives {\"result\": 55}
GET  /stream?chunks=10&delay_ms=100  a chunk at a time
GET  /slow?ms=1000                   an answer that takes its time
POST /echo                           the body, streamed back
POST /upload                         the number of bytes in the body
GET  /download?bytes=1000000         that many zero bytes
GET  /headers                        the request's headers
GET  /status/{code}                  that status
GET  /call?url=http://host:port/path what another URL answers (with &method=POST, to that)
POST /                               takes an event and answers its type
GET  /crash                          ends the process
GET  /health                         200
";

/// `name`: how the function calls itself.
pub(super) async fn serve(request: Request<Incoming>, name: &str) -> Answer {
    let path = request.uri().path();
    if let Some(who) = path.strip_prefix("/hello/") {
        return text(StatusCode::OK, format!("Hello {} from {name}\n", decoded(who)));
    }
    if let Some(code) = path.strip_prefix("/status/") {
        return match code.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()) {
            Some(status) if status.as_u16() >= 200 => text(status, format!("{}\n", status.as_u16())),
            _ => bad("the status must be a number from 200 to 999"),
        };
    }
    match (request.method(), path) {
        (&Method::GET, "/health") => text(StatusCode::OK, "OK\n"),
        (&Method::GET, "/") => text(StatusCode::OK, USAGE),
        (&Method::POST, "/") => event(request).await,
        (&Method::POST, "/fibonacci") => fibonacci(request.into_body()).await,
        (&Method::GET, "/stream") => stream(&request),
        (&Method::GET, "/slow") => slow(&request).await,
        (&Method::POST | &Method::PUT, "/echo") => echo(request),
        (&Method::POST | &Method::PUT, "/upload") => upload(request.into_body()).await,
        (&Method::GET, "/download") => download(&request),
        (&Method::GET, "/headers") => headers(&request),
        (&Method::GET, "/call") => call(&request).await,
        (&Method::GET, "/crash") => crash(),
        _ => text(StatusCode::NOT_FOUND, "not a path of the example function; / lists them\n"),
    }
}

fn body(bytes: impl Into<Bytes>) -> UnsyncBoxBody<Bytes, hyper::Error> {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn text(status: StatusCode, content: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(body(content));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn json(content: &serde_json::Value) -> Answer {
    let mut answer = Response::new(body(content.to_string()));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn bad(message: &str) -> Answer {
    text(StatusCode::BAD_REQUEST, format!("{message}\n"))
}

/// A parameter of the query, decoded.
fn parameter(request: &Request<Incoming>, name: &str) -> Option<String> {
    let pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| decoded(value)).next()
}

fn number(request: &Request<Incoming>, name: &str, default: u64) -> u64 {
    parameter(request, name).and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Percent-decoding; what is not valid stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn fibonacci(input: Incoming) -> Answer {
    let Ok(input) = Limited::new(input, INPUT_BYTES_MAX).collect().await else {
        return bad("the body is too long or ended early");
    };
    let input: Option<serde_json::Value> = serde_json::from_slice(&input.to_bytes()).ok();
    match input.and_then(|input| input.get("input")?.as_u64()) {
        Some(n @ 0..=FIBONACCI_MAX) => json(&json!({ "result": fibonacci_of(n) })),
        _ => bad("the body must be {\"input\": n} with a whole number from 0 to 93"),
    }
}

fn fibonacci_of(n: u64) -> u64 {
    let mut pair = (0_u64, 1_u64);
    for _ in 0..n {
        pair = (pair.1, pair.0.wrapping_add(pair.1));
    }
    pair.0
}

fn stream(request: &Request<Incoming>) -> Answer {
    let delay = Duration::from_millis(number(request, "delay_ms", 100)).min(DELAY_MAX);
    let chunks = Chunks { next: 0, end: number(request, "chunks", 10).min(CHUNKS_MAX), delay, sleep: None };
    let mut answer = Response::new(chunks.boxed_unsync());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// A numbered line after each delay.
struct Chunks {
    next: u64,
    end: u64,
    delay: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.next >= self.end {
            return Poll::Ready(None);
        }
        if self.next > 0 {
            let delay = self.delay;
            let waited = self.sleep.get_or_insert_with(|| Box::pin(sleep(delay)));
            ready!(waited.as_mut().poll(cx));
            self.sleep = None;
        }
        let line = format!("chunk {}\n", self.next);
        self.next += 1;
        Poll::Ready(Some(Ok(Frame::data(line.into()))))
    }
}

async fn slow(request: &Request<Incoming>) -> Answer {
    let wait = Duration::from_millis(number(request, "ms", 1000)).min(DELAY_MAX);
    sleep(wait).await;
    text(StatusCode::OK, format!("waited {} ms\n", wait.as_millis()))
}

fn echo(request: Request<Incoming>) -> Answer {
    let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
    let mut answer = Response::new(request.into_body().boxed_unsync());
    if let Some(content_type) = content_type {
        answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    answer
}

async fn upload(mut input: Incoming) -> Answer {
    let mut bytes = 0_u64;
    while let Some(frame) = input.frame().await {
        match frame {
            Ok(frame) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(_cut) => return bad("the body ended early"),
        }
    }
    json(&json!({ "bytes": bytes }))
}

/// Whatever is published: as a CloudEvent in either mode, or as a plain request.
async fn event(request: Request<Incoming>) -> Answer {
    let in_head = request.headers().get("ce-type").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let Ok(content) = Limited::new(request.into_body(), EVENT_BYTES_MAX).collect().await else {
        return bad("the event is too long or ended early");
    };
    let content: serde_json::Value = serde_json::from_slice(&content.to_bytes()).unwrap_or_default();
    let in_body = content["type"].as_str().map(str::to_owned);
    text(StatusCode::OK, format!("{}\n", in_head.or(in_body).as_deref().unwrap_or("an event without a type")))
}

fn download(request: &Request<Incoming>) -> Answer {
    let mut answer = Response::new(Zeros { left: number(request, "bytes", 1_000_000) }.boxed_unsync());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer
}

struct Zeros {
    left: u64,
}

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl Body for Zeros {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(ZEROS.len());
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROS[..length])))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Repeated headers as a list, in their order.
fn headers(request: &Request<Incoming>) -> Answer {
    let mut all = serde_json::Map::new();
    for name in request.headers().keys() {
        let values = request.headers().get_all(name).iter();
        let values: Vec<String> = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        let value = if let [only] = &values[..] { json!(only) } else { json!(values) };
        all.insert(name.to_string(), value);
    }
    json(&serde_json::Value::Object(all))
}

/// Calls another URL and relays its status and body: shows what this function may call that an outsider may not.
async fn call(request: &Request<Incoming>) -> Answer {
    let Some(url) = parameter(request, "url") else { return bad("say which: /call?url=http://host:port/path") };
    let Some((address, uri)) = target(&url) else { return bad("only absolute http URLs can be called") };
    let method = parameter(request, "method").unwrap_or_else(|| "GET".to_owned());
    let Ok(method) = method.parse::<Method>() else { return bad("the method is none") };
    match timeout(CALL_TIMEOUT, ask(method, &address, &uri)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => text(StatusCode::BAD_GATEWAY, format!("{url}: {error}\n")),
        Err(_elapsed) => text(StatusCode::GATEWAY_TIMEOUT, format!("{url}: no answer in time\n")),
    }
}

fn target(url: &str) -> Option<(Address, http::Uri)> {
    let uri: http::Uri = url.parse().ok().filter(|uri: &http::Uri| uri.scheme_str() == Some("http"))?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    Some((Address::Host(host.into(), uri.port_u16().unwrap_or(80)), uri))
}

async fn ask(
    method: Method,
    address: &Address,
    uri: &http::Uri,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let stream = net::connect(address, CALL_TIMEOUT).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::builder().method(method).uri(path).header(header::HOST, host).body(body(Bytes::new()))?;
    let answer = async {
        let (parts, content) = sender.send_request(request).await?.into_parts();
        let content = Limited::new(content, CALL_BYTES_MAX).collect().await?.to_bytes();
        let mut answer = text(parts.status, content);
        if let Some(kind) = parts.headers.get(header::CONTENT_TYPE) {
            answer.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
        }
        Ok(answer)
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        // The answer first: the connection may end right after it.
        biased;
        answer = &mut answer => answer,
        ended = connection => {
            ended?;
            answer.await
        }
    }
}

/// Ends the process as a bug would: no answer, exit code 1.
fn crash() -> ! {
    std::process::exit(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_fibonacci() {
        let check = |n, expected| assert_eq!(fibonacci_of(n), expected);
        check(0, 0);
        check(1, 1);
        check(10, 55);
        check(FIBONACCI_MAX, 12_200_160_415_121_876_738);
    }

    #[test]
    fn percent_signs_are_decoded() {
        let check = |text, expected: &str| assert_eq!(decoded(text), expected);
        check("a%20b%2f", "a b/");
        check("%", "%");
        check("%zz%4", "%zz%4");
        check("%c3%a9", "é");
    }
}
