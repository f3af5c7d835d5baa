//! Connections that become something else: upgraded ones, and HTTP/2 with prior knowledge.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Channel, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use super::backend::{Backend, Reply, ok};
use super::client::{Connection, eventually, header, status_of};
use super::gateway::{Fixed, start_example};

const UPGRADE: &str = "GET /function/f/chat HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo/1\r\n\
    X-Own: 1\r\n\r\n";
const LIMIT: Duration = Duration::from_secs(20);

/// Agrees to every upgrade, greets, then sends back what it gets until the other side has nothing more to say.
fn start_echo() -> Result<Backend> {
    Backend::raw(|mut stream, _| {
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo/1\r\nx-own: 2\r\n\r\n";
        // With the greeting in the same packet.
        let _sent = stream.write_all(format!("{head}hello").as_bytes());
        let mut bytes = [0; 16 * 1024];
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&bytes[..read]).is_err() {
                return;
            }
        }
        let _sent = stream.write_all(b"bye");
    })
}

#[test]
fn an_upgraded_connection_passes_bytes_both_ways() -> Result<()> {
    let backend = start_echo()?;
    let gateway = Fixed::at(backend.address).start()?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send(UPGRADE)?;
    let head = connection.head()?;
    assert_eq!(status_of(&head)?, 101);
    for (name, value) in [("connection", "upgrade"), ("upgrade", "echo/1"), ("x-own", "2")] {
        assert_eq!(header(&head, name), Some(value), "{head}");
    }
    assert_eq!(connection.bytes(5)?, b"hello");
    let all: Vec<u8> = (0..=255).collect();
    for _ in 0..100 {
        connection.send(&all)?;
        assert_eq!(connection.bytes(all.len())?, all);
    }
    assert_eq!(gateway.metric("slimfaas_function_requests_in_flight", &[])?, 1, "it holds its slot");
    connection.stream().shutdown(Shutdown::Write)?;
    assert_eq!(connection.rest()?, b"bye", "half a close is passed on");
    eventually("the slot given back", LIMIT, || {
        Ok((gateway.metric("slimfaas_function_requests_in_flight", &[])? == 0).then_some(()))
    })?;
    let [seen] = &backend.requests()[..] else { panic!("{:?}", backend.requests()) };
    assert_eq!(seen.line(), "GET /chat HTTP/1.1");
    assert_eq!((seen.header("connection"), seen.header("upgrade")), (Some("upgrade"), Some("echo/1")));
    assert_eq!(seen.header("x-own"), Some("1"));
    Ok(())
}

#[test]
fn an_upgrade_ends_with_either_side() -> Result<()> {
    let backend = Backend::raw(|mut stream, head| {
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo/1\r\n\r\n";
        let _sent = stream.write_all(answer.as_bytes());
        if head.contains("/leaves") {
            return;
        }
        let _rest = std::io::copy(&mut stream, &mut std::io::sink());
    })?;
    let gateway = Fixed::at(backend.address).start()?;
    let in_flight = |count| {
        eventually(&format!("{count} in flight"), LIMIT, || {
            Ok((gateway.metric("slimfaas_function_requests_in_flight", &[])? == count).then_some(()))
        })
    };
    let mut connection = Connection::open(gateway.address)?;
    connection.send(UPGRADE.replace("/chat", "/leaves"))?;
    assert_eq!(status_of(&connection.head()?)?, 101);
    assert_eq!(connection.rest()?, b"");
    // Also while the client stays: it must not hold the slot of a function that has left.
    in_flight(0)?;
    drop(connection);
    let mut connection = Connection::open(gateway.address)?;
    connection.send(UPGRADE)?;
    assert_eq!(status_of(&connection.head()?)?, 101);
    in_flight(1)?;
    drop(connection);
    in_flight(0)
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer() -> Result<()> {
    let backend = Backend::start(|_| {
        Reply::Keep(
            b"HTTP/1.1 426 Upgrade Required\r\nsec-websocket-version: 13\r\ncontent-length: 2\r\n\r\nno".to_vec(),
        )
    })?;
    let gateway = Fixed::at(backend.address).start()?;
    let mut connection = Connection::open(gateway.address)?;
    for _ in 0..2 {
        connection.send(UPGRADE)?;
        let answer = connection.answer()?;
        assert_eq!((answer.status, answer.text().as_str()), (426, "no"));
        assert_eq!(answer.header("sec-websocket-version"), Some("13"));
    }
    Ok(())
}

#[test]
fn only_what_asks_for_an_upgrade_gets_one() -> Result<()> {
    let backend = Backend::start(|request| {
        let seen = [request.header("connection"), request.header("upgrade")];
        ok(&format!("{seen:?}"))
    })?;
    let gateway = Fixed::at(backend.address).start()?;
    for lines in [
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    ] {
        let request = format!("GET /function/f/x HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        let answer = super::client::request(gateway.address, &request)?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "[None, None]"), "{lines}");
    }
    Ok(())
}

#[test]
fn a_switch_that_nobody_asked_for_is_no_answer() -> Result<()> {
    let backend = start_echo()?;
    let gateway = Fixed::at(backend.address).start()?;
    let answer = gateway.get("/function/f/chat")?;
    assert_eq!(answer.status, 503, "{}", answer.head);
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")
}

/// An HTTP/2 connection with prior knowledge.
async fn connect<B>(address: SocketAddr) -> Result<SendRequest<B>>
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TokioIo::new(tokio::net::TcpStream::connect(address).await?);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Both protocols on the way in, with each protocol of a function.
#[test]
fn http2_is_served_with_prior_knowledge() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    for protocol in ["http1", "h2c"] {
        let annotations = json!({ "SlimFaas/AppProtocol": protocol });
        let gateway = Fixed::new().function("f", format!("http://{}", function.address), &annotations).start()?;
        let http1 = super::client::post(gateway.address, "/function/f/echo", b"from http1")?;
        assert_eq!((http1.status, http1.text().as_str()), (200, "from http1"), "{protocol}");
        runtime()?.block_on(async {
            let mut sender = connect(gateway.address).await?;
            for number in 0..20 {
                let body = format!("body {number}");
                let uri = format!("http://gateway.example/function/f/echo?{number}");
                let request = Request::post(uri).body(Full::new(Bytes::from(body.clone())))?;
                let response = sender.send_request(request).await?;
                assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2), "{protocol}");
                assert_eq!(response.into_body().collect().await?.to_bytes(), body);
            }
            let request = Request::get("http://gateway.example/function/f/headers").body(Full::default())?;
            let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
            let headers: serde_json::Value = serde_json::from_slice(&body)?;
            assert_eq!(headers["x-forwarded-host"], "gateway.example", "{protocol}");
            assert_eq!(headers["x-forwarded-for"], "127.0.0.1", "{protocol}");
            Ok::<_, anyhow::Error>(())
        })?;
    }
    Ok(())
}

#[test]
fn http2_requests_are_judged_like_any_other() -> Result<()> {
    let backend = Backend::start(|_| ok("reached"))?;
    let rules = json!({ "SlimFaas/PathsStartWithVisibility": "Private:/admin" });
    let gateway = Fixed::new().function("f", format!("http://{}", backend.address), &rules).start()?;
    runtime()?.block_on(async {
        let mut sender = connect(gateway.address).await?;
        for (path, status) in [
            ("/function/f/public", 200),
            ("/function/f/admin", 404),
            ("/function/f/%61dmin", 404),
            ("/function/f/x/../admin", 404),
            ("/function/absent/", 404),
            ("/health", 200),
        ] {
            let request = Request::get(format!("http://127.0.0.1{path}")).header("x-forwarded-for", "127.0.0.1");
            let response = sender.send_request(request.body(Full::<Bytes>::default())?).await?;
            assert_eq!(response.status(), status, "{path}");
        }
        Ok::<_, anyhow::Error>(())
    })?;
    assert_eq!(backend.requests().len(), 1);
    Ok(())
}

#[test]
fn http2_streams_in_both_directions_with_trailers() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    let annotations = json!({ "SlimFaas/AppProtocol": "h2c" });
    let gateway = Fixed::new().function("f", format!("http://{}", function.address), &annotations).start()?;
    runtime()?.block_on(async {
        let mut sender = connect(gateway.address).await?;
        let (mut pieces, body) = Channel::<Bytes, Infallible>::new(1);
        let request = Request::post("http://gateway/function/f/echo").body(body)?;
        let sending = sender.send_request(request);
        pieces.send_data(Bytes::from_static(b"first")).await?;
        let mut response = sending.await?.into_body();
        let frame = response.frame().await.context("no first piece")??;
        assert_eq!(frame.data_ref().map(|data| &data[..]), Some(&b"first"[..]));
        pieces.send_data(Bytes::from_static(b"second")).await?;
        let frame = response.frame().await.context("no second piece")??;
        assert_eq!(frame.data_ref().map(|data| &data[..]), Some(&b"second"[..]));
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        pieces.send_trailers(trailers.clone()).await?;
        drop(pieces);
        let frame = response.frame().await.context("no trailers")??;
        assert_eq!(frame.trailers_ref(), Some(&trailers));
        assert!(response.frame().await.is_none());
        Ok::<_, anyhow::Error>(())
    })
}

/// HTTP/2's first frame: what the gateway allows (RFC 9113 §6.5).
#[test]
fn http2_streams_are_limited_per_connection() -> Result<()> {
    const SETTINGS: u8 = 4;
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    let backend = Backend::start(|_| ok("x"))?;
    let gateway = Fixed::at(backend.address).set("SlimFaas__Limits__H2Streams", 7).start()?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    let frame = connection.bytes(9)?;
    assert_eq!(frame[3], SETTINGS);
    let settings = connection.bytes(usize::from(u16::from_be_bytes([frame[1], frame[2]])))?;
    let settings = settings.chunks(6).map(|setting| {
        let name = u16::from_be_bytes([setting[0], setting[1]]);
        (name, u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]))
    });
    assert_eq!(settings.filter(|(name, _)| *name == MAX_CONCURRENT_STREAMS).collect::<Vec<_>>(), [(3, 7)]);
    Ok(())
}

#[test]
fn http2_connections_may_rest_between_requests() -> Result<()> {
    let backend = Backend::start(|_| ok("x"))?;
    let gateway = Fixed::at(backend.address).set("SlimFaas__Limits__HeadersTimeoutSeconds", 1).start()?;
    runtime()?.block_on(async {
        let mut sender = connect(gateway.address).await?;
        for _ in 0..2 {
            let request = Request::get("http://h/function/f/x").body(Full::<Bytes>::default())?;
            assert_eq!(sender.send_request(request).await?.status(), StatusCode::OK);
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        Ok(())
    })
}

#[test]
fn an_http2_stream_that_its_client_resets_is_gone() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    for protocol in ["http1", "h2c"] {
        let annotations = json!({ "SlimFaas/AppProtocol": protocol });
        let gateway = Fixed::new().function("f", format!("http://{}", function.address), &annotations).start()?;
        runtime()?
            .block_on(async {
                let mut sender = connect(gateway.address).await?;
                for target in ["/function/f/slow?ms=60000", "/function/f/stream?chunks=1000&delay_ms=100"] {
                    let request = Request::get(format!("http://h{target}")).body(Full::<Bytes>::default())?;
                    // Dropping the response, or the wait for it, resets the stream.
                    let waited = tokio::time::timeout(Duration::from_secs(1), sender.send_request(request)).await;
                    drop(waited);
                }
                // The connection is as good as ever.
                let request = Request::get("http://h/function/f/hello/you").body(Full::<Bytes>::default())?;
                assert_eq!(sender.send_request(request).await?.status(), StatusCode::OK, "{protocol}");
                Ok::<_, anyhow::Error>(())
            })
            .with_context(|| format!("{protocol}: {}", gateway.log()))?;
        eventually("both streams gone", LIMIT, || {
            let gone = gateway.metric("slimfaas_clients_gone_total", &[])?;
            let in_flight = gateway.metric("slimfaas_function_requests_in_flight", &[])?;
            Ok(((gone, in_flight) == (2, 0)).then_some(()))
        })
        .with_context(|| format!("{protocol}: {}", gateway.log()))?;
    }
    Ok(())
}

/// As with a function that speaks HTTP/1.1: the client's faults are the client's.
#[test]
fn faults_of_a_body_are_the_clients_with_an_http2_function_too() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    let annotations = json!({ "SlimFaas/AppProtocol": "h2c" });
    let gateway = Fixed::new()
        .function("f", format!("http://{}", function.address), &annotations)
        .set("SlimFaas__Limits__BodyBytes", 1000)
        .set("SlimFaas__Limits__BodyRateGraceSeconds", 1)
        .start()?;
    let head = "POST /function/f/upload HTTP/1.1\r\nHost: h\r\n";
    let big = format!("Transfer-Encoding: chunked\r\n\r\n7d0\r\n{}\r\n0\r\n\r\n", "a".repeat(2000));
    let mut seen = Vec::new();
    for body in [&big, "Content-Length: 900\r\n\r\npart", "Transfer-Encoding: chunked\r\n\r\nxyz\r\n"] {
        seen.push(super::client::request(gateway.address, &format!("{head}{body}"))?.status);
    }
    assert_eq!(seen, [413, 408, 400]);
    Ok(())
}
