//! What the function gets and what the client gets back, byte for byte.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::backend::{Backend, keep, ok};
use super::client::{self, Connection, header, status_of};
use super::gateway::{Fixed, claim_ports, loopback};

#[test]
fn a_request_is_forwarded_with_who_sent_it() -> Result<()> {
    let backend = Backend::start(|_| ok("x"))?;
    let gateway = Fixed::at(backend.address).start()?;
    let request = "PUT /function/f/a%2Fb//c/?q=%20&r HTTP/1.1\r\nHost: api.example.com:8080\r\n\
        X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 8.8.8.8\r\nX-Forwarded-Proto: https\r\nAccept: a\r\nAccept: b\r\n\
        Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n\
        Proxy-Authorization: secret\r\nTE: trailers\r\nCookie: a=b\r\nContent-Length: 4\r\n\r\nbody";
    assert_eq!(client::request(gateway.address, request)?.status, 200);
    let [seen] = &backend.requests()[..] else { panic!("{:?}", backend.requests()) };
    assert_eq!(seen.line(), "PUT /a%2Fb//c/?q=%20&r HTTP/1.1");
    let mut lines: Vec<&str> = seen.head.trim_end().split("\r\n").skip(1).collect();
    lines.sort_unstable();
    let host = format!("host: {}", backend.address);
    assert_eq!(
        lines,
        [
            "accept: a",
            "accept: b",
            "content-length: 4",
            "cookie: a=b",
            &host,
            "te: trailers",
            "x-forwarded-for: 9.9.9.9, 8.8.8.8, 127.0.0.1",
            "x-forwarded-host: api.example.com:8080",
            "x-forwarded-proto: https",
        ]
    );
    assert_eq!(seen.body, b"body");
    Ok(())
}

#[test]
fn a_target_is_cut_byte_for_byte() -> Result<()> {
    let backend = Backend::start(|_| ok("x"))?;
    let gateway = Fixed::at(backend.address).start()?;
    for (target, expected) in [
        ("/function/f", "/"),
        ("/function/f/", "/"),
        ("/function/f?a=b", "/?a=b"),
        ("/function/f?", "/?"),
        ("/function/f/?", "/?"),
        ("/function/f//", "//"),
        ("/function/f/function/f/x", "/function/f/x"),
        ("/function/f/a;b=c/%E4%F6?d=%00&%zz", "/a;b=c/%E4%F6?d=%00&%zz"),
        ("/function/f/a?b?c/../d", "/a?b?c/../d"),
        ("/function/f.default/x", "/x"),
        ("http://elsewhere/function/f/absolute?x", "/absolute?x"),
    ] {
        backend.forget();
        assert_eq!(gateway.get(target)?.status, 200, "{target}");
        let [seen] = &backend.requests()[..] else { panic!("{target}: {:?}", backend.requests()) };
        assert_eq!(seen.target(), expected, "{target}");
    }
    Ok(())
}

#[test]
fn an_absolute_target_names_the_host() -> Result<()> {
    let backend = Backend::start(|_| ok("x"))?;
    let gateway = Fixed::at(backend.address).start()?;
    let request = "GET http://real.example/function/f/ HTTP/1.1\r\nHost: other.example\r\n\r\n";
    assert_eq!(client::request(gateway.address, request)?.status, 200);
    let [seen] = &backend.requests()[..] else { panic!("{:?}", backend.requests()) };
    assert_eq!(seen.header("x-forwarded-host"), Some("real.example"));
    assert_eq!(seen.header("host"), Some(backend.address.to_string().as_str()));
    Ok(())
}

#[test]
fn a_base_path_goes_before_the_target() -> Result<()> {
    let backend = Backend::start(|_| ok("x"))?;
    let base = format!("http://{}/base/{{function_name}}", backend.address);
    let gateway = Fixed::new().function("f", base, &json!({})).start()?;
    for (target, expected) in [("", "/base/f/"), ("/", "/base/f/"), ("/a/?b=c", "/base/f/a/?b=c")] {
        backend.forget();
        assert_eq!(gateway.get(format!("/function/f{target}"))?.status, 200);
        assert_eq!(backend.requests()[0].target(), expected);
    }
    Ok(())
}

#[test]
fn a_response_comes_back_as_it_is() -> Result<()> {
    let backend = Backend::start(|_| {
        keep(
            "HTTP/1.1 201 Made\r\nx-b: 1\r\nx-a: 2\r\nx-b: 3\r\nset-cookie: a\r\nset-cookie: b\r\n\
             date: Thu, 01 Jan 1970 00:00:00 GMT\r\nserver: mine\r\nconnection: x-hop\r\nx-hop: 1\r\n\
             keep-alive: timeout=1\r\ncontent-length: 4\r\n\r\nbody",
        )
    })?;
    let gateway = Fixed::at(backend.address).start()?;
    let answer = gateway.get("/function/f/")?;
    assert_eq!(answer.status, 201);
    let mut lines: Vec<&str> = answer.head.trim_end().split("\r\n").skip(1).collect();
    lines.sort_unstable();
    let expected = [
        "content-length: 4",
        "date: Thu, 01 Jan 1970 00:00:00 GMT",
        "server: mine",
        "set-cookie: a",
        "set-cookie: b",
        "x-a: 2",
        "x-b: 1",
        "x-b: 3",
    ];
    assert_eq!(lines, expected);
    assert_eq!(answer.body, b"body");
    Ok(())
}

/// Answers that have no body, whatever their headers say.
#[test]
fn answers_without_a_body_leave_the_connection_usable() -> Result<()> {
    let backend = Backend::start(|request| match request.target() {
        "/204" => keep("HTTP/1.1 204 No Content\r\nx-own: 1\r\n\r\n"),
        "/304" => keep("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 1000\r\n\r\n"),
        "/head" => keep("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\nx-own: 1\r\n\r\n"),
        other => ok(other),
    })?;
    let gateway = Fixed::at(backend.address).set("SlimFaas__TrafficThreads", 1).start()?;
    let mut connection = Connection::open(gateway.address)?;
    for (method, target, status, length) in [
        ("GET", "/204", 204, None),
        // A 304 may leave out the length that a 200 would have (RFC 9110 §8.6).
        ("GET", "/304", 304, None),
        ("HEAD", "/head", 200, Some("1000")),
        ("GET", "/after", 200, Some("6")),
    ] {
        connection.send(format!("{method} /function/f{target} HTTP/1.1\r\nHost: h\r\n\r\n"))?;
        let head = connection.head()?;
        assert_eq!((status_of(&head)?, header(&head, "content-length")), (status, length), "{head}");
    }
    assert_eq!(connection.bytes(6)?, b"/after");
    assert_eq!(backend.accepted(), 1, "the connection to the function was not kept");
    Ok(())
}

#[test]
fn connections_to_a_function_are_used_again() -> Result<()> {
    let backend = Backend::start(|request| ok(request.target()))?;
    let gateway = Fixed::at(backend.address).set("SlimFaas__TrafficThreads", 1).start()?;
    for number in 0..20 {
        // Other clients, the same function.
        let answer = client::post(gateway.address, &format!("/function/f/{number}"), b"body")?;
        assert_eq!(answer.text(), format!("/{number}"));
    }
    assert_eq!(backend.accepted(), 1);
    Ok(())
}

#[test]
fn unused_connections_to_a_function_are_closed() -> Result<()> {
    let backend = Backend::start(|request| ok(request.target()))?;
    let gateway = Fixed::at(backend.address)
        .set("SlimFaas__TrafficThreads", 1)
        .set("SlimFaas__Limits__IdleUpstreamTimeoutSeconds", 1)
        .start()?;
    assert_eq!(gateway.get("/function/f/1")?.status, 200);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(gateway.get("/function/f/2")?.status, 200);
    assert_eq!(backend.accepted(), 2);
    Ok(())
}

#[test]
fn a_connection_that_is_asked_to_close_is_closed() -> Result<()> {
    let backend = Backend::start(|request| ok(request.target()))?;
    let gateway = Fixed::at(backend.address).start()?;
    for request in [
        "GET /function/f/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /function/f/x HTTP/1.0\r\n\r\n",
        "GET /function/f/x HTTP/1.0\r\nHost: h\r\n\r\n",
    ] {
        let mut connection = Connection::open(gateway.address)?;
        connection.send(request)?;
        let answer = connection.answer()?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "/x"));
        assert_eq!(connection.rest()?, b"");
    }
    assert!(backend.requests().iter().all(|request| request.line() == "GET /x HTTP/1.1"), "{:?}", backend.requests());
    Ok(())
}

#[test]
fn an_old_client_gets_no_chunks() -> Result<()> {
    let backend = Backend::start(|_| {
        keep("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n4\r\n two\r\n0\r\n\r\n")
    })?;
    let gateway = Fixed::at(backend.address).start()?;
    let answer = client::request(gateway.address, "GET /function/f/x HTTP/1.0\r\n\r\n")?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "part two"));
    assert_eq!(answer.header("transfer-encoding"), None);
    let mut connection = Connection::open(gateway.address)?;
    connection.send("GET /function/f/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")?;
    let all = String::from_utf8(connection.rest()?)?;
    assert!(all.ends_with("\r\n\r\npart two"), "{all}");
    Ok(())
}

#[test]
fn a_body_is_asked_for_by_the_gateway() -> Result<()> {
    let backend = Backend::start(|request| ok(&request.body.len().to_string()))?;
    let gateway = Fixed::at(backend.address).set("SlimFaas__Limits__BodyBytes", 100).start()?;
    let mut connection = Connection::open(gateway.address)?;
    let head = |length| {
        format!("POST /function/f/x HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n")
    };
    connection.send(head(4))?;
    assert_eq!(connection.head()?, "HTTP/1.1 100 Continue\r\n\r\n");
    connection.send("body")?;
    let answer = connection.answer()?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "4"));
    assert_eq!(backend.requests()[0].header("expect"), None);
    // What is refused anyhow is not asked for.
    connection.send(head(101))?;
    assert_eq!(connection.answer()?.status, 413);
    let mut connection = Connection::open(gateway.address)?;
    connection.send(head(4).replace("/f/", "/absent/"))?;
    assert_eq!(connection.answer()?.status, 404);
    Ok(())
}

#[test]
fn trailers_pass_in_both_directions() -> Result<()> {
    let backend = Backend::start(|_| {
        keep("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n")
    })?;
    let gateway = Fixed::at(backend.address).start()?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send(
        "POST /function/f/x HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTrailer: x-mine\r\nTransfer-Encoding: chunked\r\n\
         Connection: close\r\n\r\n4\r\nbody\r\n0\r\nx-mine: 7\r\n\r\n",
    )?;
    let all = String::from_utf8(connection.rest()?)?;
    assert!(all.ends_with("\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n"), "{all}");
    let [seen] = &backend.requests()[..] else { panic!("{:?}", backend.requests()) };
    assert_eq!(String::from_utf8_lossy(&seen.body), "4\r\nbody\r\n0\r\nx-mine: 7\r\n\r\n");
    Ok(())
}

#[test]
fn an_answer_before_the_end_of_the_request_comes_at_once() -> Result<()> {
    use std::io::Write;
    let backend = Backend::raw(|mut stream, _| {
        let _sent = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
        // Open until the gateway has enough of it.
        let _rest = std::io::copy(&mut stream, &mut std::io::sink());
    })?;
    let gateway = Fixed::at(backend.address).start()?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send("POST /function/f/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nsome")?;
    let answer = connection.answer()?;
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    Ok(())
}

#[test]
fn interim_answers_of_a_function_do_not_confuse() -> Result<()> {
    let backend = Backend::start(|_| {
        keep(
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
             HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfinal",
        )
    })?;
    let gateway = Fixed::at(backend.address).start()?;
    for _ in 0..2 {
        let answer = gateway.get("/function/f/x")?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "final"));
    }
    Ok(())
}

#[test]
fn every_port_serves_the_same() -> Result<()> {
    let backend = Backend::start(|request| ok(request.target()))?;
    let second = loopback(claim_ports(1)?);
    let third = loopback(claim_ports(1)?);
    let gateway = Fixed::at(backend.address).start_on(&[second, third])?;
    for address in [gateway.address, second, third] {
        assert_eq!(client::get(address, "/function/f/x")?.text(), "/x");
        assert_eq!(client::get(address, "/ready")?.text(), "READY");
    }
    Ok(())
}

#[test]
fn pages_of_other_origins_may_call() -> Result<()> {
    let own = "HTTP/1.1 200 OK\r\naccess-control-allow-origin: https://own.example\r\ncontent-length: 0\r\n\r\n";
    let backend = Backend::start(move |request| if request.target() == "/own" { keep(own) } else { ok("x") })?;
    let any = Fixed::at(backend.address).start()?;
    let listed =
        Fixed::at(backend.address).set("SLIMFAAS_CORS_ALLOW_ORIGIN", "https://a.example, https://b.example").start()?;
    let ask = |address, method: &str, target: &str, origin: &str, more: &str| {
        client::request(address, &format!("{method} {target} HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n{more}\r\n"))
    };
    let preflight = "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: x-a, x-b\r\n";
    let allowed = |answer: &client::Answer| {
        ["origin", "methods", "headers"]
            .map(|name| answer.header(&format!("access-control-allow-{name}")).map(str::to_owned).unwrap_or_default())
    };

    let answer = ask(any.address, "OPTIONS", "/function/f/x", "https://z.example", preflight)?;
    assert_eq!((answer.status, allowed(&answer)), (204, ["*", "PUT", "x-a, x-b"].map(str::to_owned)));
    let answer = ask(any.address, "GET", "/function/f/x", "https://z.example", "")?;
    assert_eq!((answer.status, allowed(&answer)), (200, ["*", "", ""].map(str::to_owned)));
    let answer = ask(any.address, "GET", "/function/absent/x", "https://z.example", "")?;
    assert_eq!((answer.status, allowed(&answer)), (404, ["*", "", ""].map(str::to_owned)));
    let answer = ask(any.address, "GET", "/function/f/own", "https://z.example", "")?;
    assert_eq!(allowed(&answer)[0], "https://own.example");
    assert_eq!(any.get("/function/f/x")?.header("access-control-allow-origin"), None, "nobody has asked");

    let answer = ask(listed.address, "OPTIONS", "/function/f/x", "https://b.example", preflight)?;
    assert_eq!((answer.status, answer.header("vary")), (204, Some("origin")));
    assert_eq!(allowed(&answer), ["https://b.example", "PUT", "x-a, x-b"].map(str::to_owned));
    for origin in ["https://c.example", "https://b.example.c", "null", "http://b.example"] {
        let answer = ask(listed.address, "OPTIONS", "/function/f/x", origin, preflight)?;
        assert_eq!((answer.status, allowed(&answer)), (204, ["", "", ""].map(str::to_owned)), "{origin}");
        let answer = ask(listed.address, "GET", "/function/f/x", origin, "")?;
        assert_eq!((answer.status, answer.header("vary")), (200, Some("origin")), "{origin}");
        assert_eq!(allowed(&answer)[0], "", "{origin}");
    }
    // Without the method it is a call like any other.
    backend.forget();
    assert_eq!(ask(any.address, "OPTIONS", "/function/f/x", "https://z.example", "")?.status, 200);
    assert_eq!(backend.requests()[0].line(), "OPTIONS /x HTTP/1.1");
    Ok(())
}
