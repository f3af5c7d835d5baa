//! Route 1: synchronous calls.

use anyhow::Result;
use slimfaas_tests::gateway::{Fixed, claim_ports, loopback};
use slimfaas_tests::http1;

use super::site::{ANY7, ANY7_ALLOWED, NOT_FOUND, Site, not_allowed};

#[test]
fn the_functions_answer_is_passed_on() -> Result<()> {
    let site = Site::start()?;
    for method in ANY7 {
        for (target, seen) in [
            ("/function/open", "/"),
            ("/function/open/", "/"),
            ("/function/open/a/b?c=d", "/a/b?c=d"),
            // Differs: the original loses a trailing slash.
            ("/function/open/a/", "/a/"),
            // Differs: also `{name}.{namespace}`, since functions of several namespaces are served.
            ("/function/open.default/a", "/a"),
        ] {
            site.backend.forget();
            if method == "HEAD" {
                let mut connection = http1::Connection::open(site.gateway.address)?;
                connection.send(format!("HEAD {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))?;
                assert_eq!(http1::status_of(&connection.head()?)?, 200, "{target}");
            } else {
                let length = seen.len();
                let expected = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\ndate: \r\n\r\n{seen}");
                assert_eq!(site.exact(method, target)?, expected, "{method} {target}");
            }
            let [got] = &site.backend.requests()[..] else { panic!("one request") };
            assert_eq!(got.line(), format!("{method} {seen} HTTP/1.1"));
        }
    }
    for status in [204, 301, 400, 404, 500, 503] {
        let answer = site.call("GET", &format!("/function/open/status/{status}"))?;
        // Differs: the original follows redirects itself; here the client gets them.
        assert_eq!((answer.status, answer.header("x-own")), (status, Some("1")));
        assert_eq!(answer.header("content-type"), None, "no problem of the gateway's own");
    }
    Ok(())
}

#[test]
fn what_is_absent_or_private_is_an_empty_404() -> Result<()> {
    let site = Site::start()?;
    for target in [
        "/function/absent",
        "/function/absent/path",
        "/function/closed/x",
        "/function/open/admin",
        // Differs: the original compares capitals of a rule with lower-cased paths, and opens this.
        "/function/open/ADMIN",
        // Differs: the original also opens everything to whoever claims an address of a pod.
        "/function/open/admin/x?X-Forwarded-For=127.0.0.1",
        "/function/Open/x",
        "/function/",
        "/function",
        "/",
        "/unknown",
    ] {
        assert_eq!(site.exact("GET", target)?, NOT_FOUND, "{target}");
    }
    assert_eq!(site.exact("TRACE", "/function/open/x")?, not_allowed(ANY7_ALLOWED));
    Ok(())
}

#[test]
fn a_function_that_cannot_be_reached_is_a_503() -> Result<()> {
    let gateway = Fixed::at(loopback(claim_ports(1)?)).start()?;
    // Differs: the original's 503 is empty; here it says why, and when to try again.
    let body = r#"{"detail":"no replica of the function accepts connections","status":503,"title":"Service Unavailable","type":"urn:slimfaas:problem:connect-failed"}"#;
    assert_eq!(
        http1::get(gateway.address, "/function/f/x")?.without_date(),
        format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\ncontent-length: {}\r\ndate: \r\n\r\n{body}",
            body.len()
        )
    );
    Ok(())
}

#[test]
fn browsers_of_every_origin_may_call() -> Result<()> {
    let site = Site::start()?;
    let answer = site.send("GET", "/function/open/x", "Origin: http://app\r\n", "")?;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")));
    let preflight =
        site.send("OPTIONS", "/function/open/x", "Origin: http://app\r\nAccess-Control-Request-Method: PUT\r\n", "")?;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, Some("*")));
    Ok(())
}
