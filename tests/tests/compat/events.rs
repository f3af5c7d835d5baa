//! Route 10, and `/events` besides, which the original has not.

use anyhow::Result;
use serde_json::{Value, json};

use super::site::{ANY7, ANY7_ALLOWED, NOT_FOUND, Site, not_allowed};

const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\ndate: \r\n\r\n";
const CLOUD_EVENT: &str = "ce-specversion: 1.0\r\nce-id: 1\r\nce-source: /compat\r\nce-type: reload\r\n";

#[test]
fn publishing_is_a_204() -> Result<()> {
    let site = Site::start()?;
    for method in ANY7 {
        for (target, seen) in [
            ("/publish-event/reload", "/"),
            ("/publish-event/reload/a/b?c=d", "/a/b?c=d"),
            // Differs: the original loses a trailing slash.
            ("/publish-event/reload/a/", "/a/"),
        ] {
            site.backend.forget();
            let answer = site.send(method, target, "X-One: 1\r\nAccept: text/html\r\n", "body")?;
            assert_eq!(answer.without_date(), NO_CONTENT, "{method} {target}");
            let [got] = &site.backend.requests()[..] else { panic!("one delivery") };
            assert_eq!(got.line(), format!("{method} {seen} HTTP/1.1"));
            // Differs: the original drops bodies of GET and the like, and many headers.
            assert_eq!(
                (&*got.body, got.header("x-one"), got.header("accept")),
                (&b"body"[..], Some("1"), Some("text/html"))
            );
        }
    }
    // 204 too when no delivery succeeded.
    assert_eq!(site.exact("POST", "/publish-event/reload/status/500")?, NO_CONTENT);
    assert_eq!(site.exact("TRACE", "/publish-event/reload")?, not_allowed(ANY7_ALLOWED));
    Ok(())
}

#[test]
fn without_a_subscriber_for_this_caller_it_is_a_404() -> Result<()> {
    let site = Site::start()?;
    for target in [
        "/publish-event/unknown",
        "/publish-event/secret",
        "/publish-event/Reload",
        // Differs: publishers choose the path, and a path that its owner has closed is closed to them too.
        "/publish-event/reload/admin",
        "/publish-event/",
        "/publish-event",
    ] {
        assert_eq!(site.exact("POST", target)?, NOT_FOUND, "{target}");
    }
    // Differs: the original believes it.
    assert_eq!(
        site.send("POST", "/publish-event/secret", "X-Forwarded-For: 127.0.0.1\r\n", "")?.without_date(),
        NOT_FOUND
    );
    Ok(())
}

/// Differs: the original logs what became of deliveries, and tells nobody.
#[test]
fn who_asks_hears_what_became_of_it() -> Result<()> {
    let site = Site::start()?;
    for (path, outcome, status) in
        [("", "delivered", 200), ("/status/404", "refused", 404), ("/status/503", "refused", 503)]
    {
        let target = format!("/publish-event/reload{path}");
        let answer = site.send("POST", &target, "Prefer: return=representation\r\n", "x")?;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json; charset=utf-8")));
        assert_eq!(answer.header("preference-applied"), Some("return=representation"));
        let mut report: Value = serde_json::from_slice(&answer.body)?;
        assert!(report["Deliveries"][0]["Milliseconds"].take().as_f64() > Some(0.0));
        let delivery = json!({
            "Function": "open", "Namespace": "default", "Target": "open", "Outcome": outcome, "Status": status,
            "Attempts": 1, "Milliseconds": null,
        });
        assert_eq!(report, json!({"Event": "reload", "Complete": true, "Deliveries": [delivery]}));
    }
    let answer = site.send("POST", "/publish-event/reload", "Prefer: respond-async\r\n", "x")?;
    assert_eq!(answer.without_date(), "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\ndate: \r\n\r\n");
    Ok(())
}

#[test]
fn cloud_events_are_published_by_their_type() -> Result<()> {
    let site = Site::start()?;
    assert_eq!(site.send("POST", "/events", CLOUD_EVENT, "data")?.without_date(), NO_CONTENT);
    let [got] = &site.backend.requests()[..] else { panic!("one delivery") };
    assert_eq!((got.line(), got.header("ce-type"), &*got.body), ("POST / HTTP/1.1", Some("reload"), &b"data"[..]));
    let other = CLOUD_EVENT.replace("reload", "secret");
    assert_eq!(site.send("POST", "/events", &other, "")?.without_date(), NOT_FOUND);
    for method in ["GET", "PUT", "DELETE"] {
        assert_eq!(site.exact(method, "/events")?, not_allowed("POST"), "{method}");
    }
    let missing = CLOUD_EVENT.replace("ce-id: 1\r\n", "");
    let body = r#"{"detail":"the attribute id is missing","status":400,"title":"Bad Request","type":"urn:slimfaas:problem:invalid-event"}"#;
    for target in ["/events", "/publish-event/reload"] {
        assert_eq!(
            site.send("POST", target, &missing, "")?.without_date(),
            format!(
                "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\ndate: \r\n\r\n{body}",
                body.len()
            )
        );
    }
    Ok(())
}
