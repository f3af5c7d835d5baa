//! Everything that is refused, with the words that say why.

use anyhow::Result;
use serde_json::{Value, json};

use super::super::backend::{Backend, ok};
use super::super::client;
use super::{CLOUD_EVENT, gateway, publish, subscriber};

const STRUCTURED: &str = "Content-Type: application/cloudevents+json\r\n";
const BATCH: &str = "Content-Type: application/cloudevents-batch+json\r\n";

const OLD: &str = r#"{"specversion":"0.3","id":"1","source":"/tests","type":"reload"}"#;
const MIXED: &str = concat!(
    r#"[{"specversion":"1.0","id":"1","source":"/tests","type":"reload"},"#,
    r#"{"specversion":"1.0","id":"1","source":"/tests","type":"other"}]"#
);
const WITHOUT_ID: &str = "ce-specversion: 1.0\r\nce-source: /tests\r\nce-type: reload\r\n";
const XML: &str = "Content-Type: application/cloudevents+xml\r\n";

/// Target, headers, body, and the detail of the refusal.
const INVALID: &[(&str, &str, &str, &str)] = &[
    (
        "/events",
        "",
        "x",
        "this route takes CloudEvents: with ce-… headers, or as application/cloudevents+json or \
         application/cloudevents-batch+json; the content type is none",
    ),
    ("/events", STRUCTURED, "{", "the body is no JSON: EOF while parsing an object at line 1 column 1"),
    (
        "/events",
        STRUCTURED,
        "[]",
        "the body is no CloudEvent: invalid type: sequence, expected an object with the event's attributes at line 1 \
         column 1",
    ),
    (RELOAD, STRUCTURED, "", "the body is no JSON: EOF while parsing a value at line 1 column 0"),
    (RELOAD, STRUCTURED, "{}", "the body is no CloudEvent: the attribute specversion is missing at line 1 column 2"),
    (
        RELOAD,
        STRUCTURED,
        OLD,
        "the body is no CloudEvent: the attribute specversion is \"0.3\"; allowed: 1.0 at line 1 column 64",
    ),
    ("/events", WITHOUT_ID, "", "the attribute id is missing"),
    (RELOAD, WITHOUT_ID, "", "the attribute id is missing"),
    ("/events", BATCH, "[]", "the batch is empty"),
    ("/events", BATCH, MIXED, "the batch has events of the types \"reload\" and \"other\": send a batch for each type"),
    ("/publish-event/a%zz", "", "", "the event's name is not percent-encoded UTF-8"),
    ("/publish-event/a%00", "", "", "the event's name has control characters"),
];

const RELOAD: &str = "/publish-event/reload";

#[test]
fn what_is_no_event_is_refused_with_a_reason() -> Result<()> {
    let backend = Backend::start(|_| ok("done"))?;
    let gateway = gateway(backend.address, &subscriber(5)).start()?;
    let check = |target: &str, headers: &str, body: &str, kind: &str, title: &str, status: u16, detail: &str| {
        let answer = publish(&gateway, target, headers, body.as_bytes())?;
        let problem: Value = serde_json::from_slice(&answer.body)?;
        let kind = format!("urn:slimfaas:problem:{kind}");
        let expected = json!({"type": kind, "title": title, "status": status, "detail": detail});
        assert_eq!((answer.status, &problem), (status, &expected), "{target}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        anyhow::Ok(())
    };
    for (target, headers, body, detail) in INVALID {
        check(target, headers, body, "invalid-event", "Bad Request", 400, detail)?;
    }
    let long = format!("/publish-event/{}", "x".repeat(257));
    check(&long, "", "", "invalid-event", "Bad Request", 400, "the event's name has more than 256 bytes")?;
    let detail = "structured events are read as application/cloudevents+json and application/cloudevents-batch+json, \
                  not as \"application/cloudevents+xml\"";
    check("/events", XML, "<e/>", "unsupported-event-format", "Unsupported Media Type", 415, detail)?;
    assert_eq!(backend.requests(), []);
    assert_eq!(gateway.metric("slimfaas_rejections_total", &[r#"reason="invalid-event""#])?, 13);
    Ok(())
}

#[test]
fn other_methods_and_no_name() -> Result<()> {
    let backend = Backend::start(|_| ok("done"))?;
    let gateway = gateway(backend.address, &subscriber(5)).start()?;
    assert_eq!(client::get(gateway.address, "/events")?.status, 405);
    assert_eq!(client::get(gateway.address, "/events")?.header("allow"), Some("POST"));
    assert_eq!(client::call(gateway.address, "TRACE", RELOAD)?.status, 405);
    for target in ["/publish-event", "/publish-event/", "/publish-event//x", "/events/", "/events/reload"] {
        assert_eq!(publish(&gateway, target, CLOUD_EVENT, b"")?.status, 404, "{target}");
    }
    Ok(())
}

#[test]
fn what_is_private_looks_absent_and_a_closed_path_stays_closed() -> Result<()> {
    let backend = Backend::start(|_| ok("done"))?;
    let gateway = gateway(
        backend.address,
        &json!({
            "SlimFaas/SubscribeEvents": "Public:reload,Private:secret,default",
            "SlimFaas/DefaultVisibility": "Private",
            "SlimFaas/PathsStartWithVisibility": "Private:/admin",
        }),
    )
    .set("SLIMFAAS_SUBSCRIBE_EVENTS", format!("Private:pay=>http://{}", backend.address))
    .start()?;
    let absent = publish(&gateway, "/publish-event/absent", "", b"")?;
    assert_eq!(absent.without_date(), "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\ndate: \r\n\r\n");
    for target in [
        "/publish-event/secret",
        "/publish-event/default",
        "/publish-event/pay",
        "/publish-event/Reload",
        "/publish-event/reload/admin",
        "/publish-event/reload/x/..%2fADMIN/",
    ] {
        for claim in ["", "X-Forwarded-For: 127.0.0.1\r\n", "X-SlimFaas-Job: j\r\nX-SlimFaas-Job-Signature: s\r\n"] {
            assert_eq!(publish(&gateway, target, claim, b"")?.without_date(), absent.without_date(), "{target}");
        }
    }
    let private = CLOUD_EVENT.replace("reload", "secret");
    assert_eq!(publish(&gateway, "/events", &private, b"")?.without_date(), absent.without_date());
    assert_eq!(backend.requests(), []);
    assert_eq!(publish(&gateway, "/publish-event/reload/administrator", "", b"")?.status, 204);
    assert_eq!(publish(&gateway, "/publish-event/%72eload", "", b"")?.status, 204);
    Ok(())
}
