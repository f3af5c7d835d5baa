//! What is private cannot be reached from outside, however the request is dressed up.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::backend::{Backend, ok};
use super::client::{self, Connection};
use super::gateway::{Fixed, Gateway};

/// A public function with a private path, and a private function.
fn start() -> Result<(Gateway, Backend)> {
    let backend = Backend::start(|request| ok(request.target()))?;
    let url = format!("http://{}", backend.address);
    let rules = json!({ "SlimFaas/PathsStartWithVisibility": "Private:/admin" });
    let gateway = Fixed::new()
        .function("f", &url, &rules)
        .function("secret", &url, &json!({ "SlimFaas/DefaultVisibility": "Private" }))
        .start()?;
    Ok((gateway, backend))
}

#[test]
fn absent_and_private_look_the_same() -> Result<()> {
    let (gateway, backend) = start()?;
    for (method, tail) in [("GET", ""), ("GET", "/"), ("POST", "/x?y=z"), ("DELETE", "/a/b"), ("OPTIONS", "/")] {
        let absent = client::call(gateway.address, method, format!("/function/absent{tail}"))?;
        let private = client::call(gateway.address, method, format!("/function/secret{tail}"))?;
        assert_eq!(absent.status, 404);
        assert_eq!(absent.without_date(), private.without_date(), "{method} {tail}");
        assert_eq!(absent.without_date(), "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\ndate: \r\n\r\n");
    }
    let hidden = gateway.get("/function/f/admin")?;
    assert_eq!(hidden.without_date(), gateway.get("/function/absent")?.without_date());
    assert_eq!(backend.requests(), []);
    Ok(())
}

/// Every one of these is `/admin` to some server.
const DISGUISES: &[&str] = &[
    "/admin",
    "/admin/",
    "/admin/x",
    "/admin?x=/public",
    "//admin",
    "///admin//",
    "/./admin",
    "/x/../admin",
    "/x/./../admin",
    "/../admin",
    "/public/../admin",
    "/%61dmin",
    "/%61%64%6d%69%6e",
    "/%2561dmin",
    "/%2fadmin",
    "/%2Fadmin",
    "/admin%2fx",
    "/x%2f..%2fadmin",
    "/x/%2e%2e/admin",
    "/x/%2E%2E/admin",
    "/x/..%2fadmin",
    "/x/%252e%252e/admin",
    "/.%2fadmin",
    "/%2e/admin",
    "/%5cadmin",
    "/x%5c..%5cadmin",
    "/ADMIN",
    "/Admin/x",
    "/aDmIn",
    "/%41dmin",
    "/admin;v=1",
    "/admin;/x",
    "/;v=1/admin",
    "/x/..;/admin",
    "/x/..;v=1/admin",
    "/admin%3bv=1",
    "/admin%00",
    "/%00/admin",
    "/admin%",
    "/%zz/../admin",
    "/%c0%ae%c0%ae/admin",
    "/admin#x",
];

#[test]
fn a_disguised_path_stays_private() -> Result<()> {
    let (gateway, backend) = start()?;
    for path in DISGUISES {
        let status = gateway.get(format!("/function/f{path}"))?.status;
        // A fragment is not part of a target (RFC 9112 §3.2); everything else is a path like any other.
        assert_eq!(status, 404, "{path}");
        assert_eq!(backend.requests(), [], "{path} reached the function");
    }
    // A backslash is no part of a target either, and hyper takes it: the same answer.
    for path in ["/\\admin", "/x\\..\\admin", "\\admin"] {
        let status = gateway.get(format!("/function/f{path}"))?.status;
        assert!(matches!(status, 400 | 404), "{path}: {status}");
        assert_eq!(backend.requests(), [], "{path} reached the function");
    }
    Ok(())
}

#[test]
fn neighbours_of_a_private_path_are_public() -> Result<()> {
    let (gateway, backend) = start()?;
    for path in [
        "/",
        "/public",
        "/administrator",
        "/admin2",
        "/x/admin",
        "/adm%69nistrator",
        "/-admin",
        "/public?path=/admin",
        "/public/%2e",
        "/admin.html",
    ] {
        let answer = gateway.get(format!("/function/f{path}"))?;
        assert_eq!((answer.status, answer.text().as_str()), (200, path));
    }
    assert_eq!(backend.requests().len(), 10);
    Ok(())
}

/// Claims that a client may make and that nobody may believe.
const CLAIMS: &[&str] = &[
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-For: 10.0.0.1, 127.0.0.1",
    "X-Forwarded-For: ::1",
    "X-Forwarded-Host: slimfaas",
    "X-Real-IP: 127.0.0.1",
    "Forwarded: for=127.0.0.1;host=slimfaas;proto=http",
    "X-Client-IP: 127.0.0.1",
    "True-Client-IP: 127.0.0.1",
    "X-Original-URL: /function/f/public",
    "X-Rewrite-URL: /function/f/public",
    "X-SlimFaas-Job: job",
    "X-SlimFaas-Job: job\r\nX-SlimFaas-Job-Signature: AAAA",
    "SlimfaasJob: job",
    "X-HTTP-Method-Override: OPTIONS",
    "Authorization: Bearer x",
    "Connection: X-Forwarded-For",
];

#[test]
fn claims_of_a_client_change_nothing() -> Result<()> {
    let (gateway, backend) = start()?;
    for claim in CLAIMS {
        for target in ["/function/f/admin", "/function/secret/"] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: gateway\r\n{claim}\r\n\r\n");
            let answer = client::request(gateway.address, &request)?;
            assert_eq!(answer.status, 404, "{claim} for {target}");
        }
        assert_eq!(backend.requests(), [], "{claim}");
    }
    Ok(())
}

#[test]
fn jobs_are_not_claimed_towards_functions() -> Result<()> {
    let (gateway, backend) = start()?;
    let claims = "X-SlimFaas-Job: j\r\nX-SlimFaas-Job-Signature: s\r\n";
    let request = format!("GET /function/f/public HTTP/1.1\r\nHost: gateway\r\n{claims}\r\n");
    assert_eq!(client::request(gateway.address, &request)?.status, 200);
    let [seen] = &backend.requests()[..] else { panic!("one request") };
    assert_eq!((seen.header("x-slimfaas-job"), seen.header("x-slimfaas-job-signature")), (None, None));
    Ok(())
}

#[test]
fn hosts_and_targets_of_every_form_are_judged_by_their_path() -> Result<()> {
    let (gateway, backend) = start()?;
    let authority = gateway.address;
    // (request line and hosts, status)
    let cases: &[(String, u16)] = &[
        ("GET http://gateway/function/f/admin HTTP/1.1\r\nHost: gateway".into(), 404),
        ("GET http://other/function/secret/ HTTP/1.1\r\nHost: gateway".into(), 404),
        ("GET HTTP://GATEWAY/function/f/x/../admin HTTP/1.1\r\nHost: gateway".into(), 404),
        (format!("GET http://{authority}/function/f/%61dmin HTTP/1.1\r\nHost: f"), 404),
        ("GET http://u:p@gateway/function/f/admin HTTP/1.1\r\nHost: gateway".into(), 404),
        ("GET /function/f/admin HTTP/1.1\r\nHost: a\r\nHost: b".into(), 400),
        ("GET /function/f/public HTTP/1.1\r\nHost: a\r\nHost: a".into(), 400),
        ("GET /function/f/public HTTP/1.1".into(), 400),
        ("GET /function/f/admin HTTP/1.1\r\nHost: gateway:1".into(), 404),
        ("GET /function/f/admin HTTP/1.1\r\nHost: localhost".into(), 404),
        ("GET /function/f/admin HTTP/1.1\r\nHost: f".into(), 404),
        ("GET /function/f/admin HTTP/1.1\r\nHost:".into(), 404),
        ("GET /FUNCTION/f/public HTTP/1.1\r\nHost: h".into(), 404),
        ("GET //function/f/public HTTP/1.1\r\nHost: h".into(), 404),
        ("GET /x/../function/f/public HTTP/1.1\r\nHost: h".into(), 404),
        ("GET /function/%66/public HTTP/1.1\r\nHost: h".into(), 404),
        ("GET /function/F/public HTTP/1.1\r\nHost: h".into(), 404),
        ("GET /function//public HTTP/1.1\r\nHost: h".into(), 404),
        ("GET /function/x/../f/public HTTP/1.1\r\nHost: h".into(), 404),
        ("OPTIONS * HTTP/1.1\r\nHost: h".into(), 404),
        ("GET /function/secret.default/ HTTP/1.1\r\nHost: h".into(), 404),
        ("GET /function/f.default/admin HTTP/1.1\r\nHost: h".into(), 404),
        ("HEAD /function/f/admin HTTP/1.0".into(), 404),
        ("GET /function/f/admin HTTP/1.0".into(), 404),
        ("OPTIONS /function/f/admin HTTP/1.1\r\nHost: h".into(), 404),
    ];
    for (head, status) in cases {
        let mut connection = Connection::open(gateway.address)?;
        connection.send(format!("{head}\r\n\r\n"))?;
        assert_eq!(client::status_of(&connection.head()?)?, *status, "{head}");
        assert_eq!(backend.requests(), [], "{head}");
    }
    let allowed = ["http://gateway/function/f/public", "/function/f/public", "/function/f.default/public"];
    for target in allowed {
        let answer = gateway.get(target)?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "/public"), "{target}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_read_is_private() -> Result<()> {
    let backend = Backend::start(|_| ok("reached"))?;
    let gateway = Fixed::new()
        .function("f", format!("http://{}", backend.address), &json!({ "SlimFaas/DefaultVisibility": "Pubic" }))
        .start()?;
    assert_eq!(gateway.get("/function/f/")?.status, 404);
    let status = gateway.get("/status-function/f")?.text();
    assert!(status.contains(r#""Visibility":"Private""#) && status.contains("SlimFaas/DefaultVisibility"), "{status}");
    assert_eq!(backend.requests(), []);
    Ok(())
}

#[test]
fn a_private_function_is_not_found_in_the_time_of_an_unknown_one() -> Result<()> {
    let (gateway, _backend) = start()?;
    let median = |target: &str| -> Result<Duration> {
        let mut times = Vec::new();
        for _ in 0..51 {
            let begin = std::time::Instant::now();
            assert_eq!(gateway.get(target)?.status, 404);
            times.push(begin.elapsed());
        }
        times.sort();
        Ok(times[25])
    };
    let (absent, private) = (median("/function/absent/")?, median("/function/secret/")?);
    // Far more than noise, far less than what starting or connecting to something takes.
    assert!(private < absent * 5 + Duration::from_millis(5), "{private:?} and {absent:?}");
    Ok(())
}
