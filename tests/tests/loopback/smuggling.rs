//! However a request is framed, the function sees exactly the requests that the gateway has judged.

use anyhow::Result;
use serde_json::json;

use super::backend::{Backend, Request, ok};
use super::client::{self, Connection, eventually};
use super::gateway::{Fixed, Gateway};

/// A function whose path `/admin` is private: what a smuggler wants to reach.
fn start() -> Result<(Gateway, Backend)> {
    let backend = Backend::start(|request| ok(request.target()))?;
    let rules = json!({ "SlimFaas/PathsStartWithVisibility": "Private:/admin" });
    let gateway = Fixed::new().function("f", format!("http://{}", backend.address), &rules).start()?;
    Ok((gateway, backend))
}

/// The request that is hidden in the body of another.
const HIDDEN: &str = "GET /admin HTTP/1.1\r\nHost: h\r\n\r\n";

/// What every forwarded request ends with.
fn forwarded(function: &Backend, first: &str, headers: &str) -> String {
    let host = format!("host: {}\r\n", function.address);
    let claims = "x-forwarded-host: h\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n";
    format!("{first} HTTP/1.1\r\n{host}{headers}{claims}\r\n")
}

/// Sends `headers` and `body`, and waits for the connection's end or its answers.
fn attack(gateway: &Gateway, headers: &str, body: &str) -> Result<String> {
    let mut connection = Connection::open(gateway.address)?;
    let head = format!("POST /function/f/up HTTP/1.1\r\nHost: h\r\n{headers}Connection: close\r\n\r\n");
    connection.send(head + body)?;
    Ok(String::from_utf8_lossy(&connection.rest()?).into_owned())
}

#[test]
fn ambiguous_framing_reaches_no_function() -> Result<()> {
    let (gateway, backend) = start()?;
    let chunked = format!("0\r\n\r\n{HIDDEN}");
    let length = HIDDEN.len();
    for (what, headers, body) in [
        ("two lengths", format!("Content-Length: 0\r\nContent-Length: {length}\r\n"), HIDDEN),
        ("a list of lengths", format!("Content-Length: 0, {length}\r\n"), HIDDEN),
        ("an unknown encoding and a length", "Transfer-Encoding: identity\r\nContent-Length: 5\r\n".into(), &*chunked),
        ("an encoding with a vertical tab", "Transfer-Encoding:\x0bchunked\r\nContent-Length: 5\r\n".into(), &chunked),
        ("a space before the colon", "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n".into(), &chunked),
        ("a folded encoding", "Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n".into(), &chunked),
        ("an encoding behind a bare CR", "X: y\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n".into(), &chunked),
        ("an encoding over another", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n".into(), &chunked),
        ("a length of a sign", format!("Content-Length: +{length}\r\n"), HIDDEN),
    ] {
        let answers = attack(&gateway, &headers, body)?;
        assert!(answers.starts_with("HTTP/1.1 400 "), "{what}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{what}: {answers}");
        assert_eq!(backend.requests(), [], "{what}");
    }
    Ok(())
}

#[test]
fn a_length_beside_an_encoding_is_refused_or_removed() -> Result<()> {
    let (gateway, backend) = start()?;
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: Chunked\r\nContent-Length: 500\r\n",
    ] {
        backend.forget();
        let answers = attack(&gateway, headers, &format!("0\r\n\r\n{HIDDEN}"))?;
        assert!(!answers.contains("/admin"), "{answers}");
        let seen = backend.requests();
        if answers.starts_with("HTTP/1.1 400 ") {
            assert_eq!(seen, []);
        } else {
            let [request] = &seen[..] else { panic!("{headers}: {seen:?}") };
            assert_eq!(request.header("content-length"), None, "{request:?}");
            assert_eq!((request.target(), &request.body[..], request.is_whole), ("/up", &b"0\r\n\r\n"[..], true));
        }
    }
    Ok(())
}

#[test]
fn a_body_stays_a_body() -> Result<()> {
    let (gateway, backend) = start()?;
    let length = HIDDEN.len();
    let answers = attack(&gateway, &format!("Content-Length: {length}\r\n"), HIDDEN)?;
    assert!(answers.starts_with("HTTP/1.1 200 ") && answers.ends_with("/up"), "{answers}");
    let answers = attack(&gateway, "Transfer-Encoding: chunked\r\n", &format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n"))?;
    assert!(answers.starts_with("HTTP/1.1 200 ") && answers.ends_with("/up"), "{answers}");
    let [plain, chunked] = &backend.requests()[..] else { panic!("{:?}", backend.requests()) };
    assert_eq!(plain.head, forwarded(&backend, "POST /up", &format!("content-length: {length}\r\n")));
    assert_eq!(plain.body, HIDDEN.as_bytes());
    assert_eq!(chunked.header("content-length"), None);
    assert_eq!(chunked.header("transfer-encoding"), Some("chunked"));
    assert_eq!(chunked.body, format!("{length:X}\r\n{HIDDEN}\r\n0\r\n\r\n").into_bytes());
    Ok(())
}

#[test]
fn what_follows_a_request_is_judged_by_itself() -> Result<()> {
    let (gateway, backend) = start()?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send(
        "POST /function/f/a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc\
         GET /function/f/admin HTTP/1.1\r\nHost: h\r\n\r\n\
         GET /function/f/b HTTP/1.1\r\nHost: h\r\n\r\n\
         HEAD /function/f/c HTTP/1.1\r\nHost: h\r\n\r\n\
         GET /function/f/d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    )?;
    let (first, hidden, second) = (connection.answer()?, connection.answer()?, connection.answer()?);
    assert_eq!((first.status, first.text().as_str()), (200, "/a"));
    assert_eq!((hidden.status, hidden.text().as_str()), (404, ""));
    assert_eq!((second.status, second.text().as_str()), (200, "/b"));
    let head = connection.head()?;
    assert_eq!(client::header(&head, "content-length"), Some("2"), "{head}");
    let last = connection.answer()?;
    assert_eq!((last.status, last.text().as_str()), (200, "/d"));
    assert_eq!(connection.rest()?, b"");
    let targets: Vec<String> = backend.requests().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(targets, ["/a", "/b", "/c", "/d"]);
    Ok(())
}

#[test]
fn a_refused_body_is_not_taken_for_the_next_request() -> Result<()> {
    let (gateway, backend) = start()?;
    let hidden = "GET /function/f/hidden HTTP/1.1\r\nHost: h\r\n\r\n";
    for target in ["/function/absent/", "/function/f/admin", "/nothing", "/status-functions"] {
        let mut connection = Connection::open(gateway.address)?;
        let length = hidden.len();
        connection.send(format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{hidden}"))?;
        connection.send("GET /function/f/next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
        let answers = String::from_utf8_lossy(&connection.rest()?).into_owned();
        assert!(!answers.contains("/hidden"), "{target}: {answers}");
        assert!(matches!(answers.matches("HTTP/1.1 ").count(), 1 | 2), "{target}: {answers}");
    }
    assert!(backend.requests().iter().all(|request| request.target() == "/next"), "{:?}", backend.requests());
    Ok(())
}

#[test]
fn a_body_that_breaks_off_is_no_request_to_the_next_caller() -> Result<()> {
    let (gateway, backend) = start()?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send("POST /function/f/broken HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\npart")?;
    let limit = std::time::Duration::from_secs(20);
    eventually("the first bytes at the function", limit, || Ok((backend.accepted() == 1).then_some(())))?;
    drop(connection);
    let broken = |request: &Request| request.target() == "/broken";
    eventually("the end of the broken request", limit, || Ok(backend.requests().iter().any(broken).then_some(())))?;
    for _ in 0..5 {
        let answer = client::get(gateway.address, "/function/f/next")?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "/next"));
    }
    let seen = backend.requests();
    assert!(seen.iter().all(|request| request.is_whole != broken(request)), "{seen:?}");
    let of_broken = seen.iter().find(|request| broken(request)).map(|request| request.connection);
    assert!(seen.iter().filter(|r| !broken(r)).all(|r| Some(r.connection) != of_broken), "{seen:?}");
    Ok(())
}

/// A function that answers more than it was asked for.
#[test]
fn an_answer_too_many_reaches_nobody() -> Result<()> {
    let backend = Backend::start(|request| {
        let answer = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let extra = if request.target() == "/first" { answer("stolen") } else { String::new() };
        super::backend::keep(&(answer(request.target()) + &extra))
    })?;
    let gateway = Fixed::at(backend.address).set("SlimFaas__TrafficThreads", 1).start()?;
    for target in ["/first", "/second", "/third", "/first", "/fourth"] {
        let answer = gateway.get(format!("/function/f{target}"))?;
        assert_eq!((answer.status, answer.text().as_str()), (200, target));
    }
    Ok(())
}
