//! `/async-functions/…`: stored calls. The original has no such routes (nor dead letters); they are here because a
//! client of them needs the same stability.

use anyhow::Result;
use serde_json::{Value, json};
use slimfaas_tests::http1::eventually;

use super::site::{LIMIT, NOT_FOUND, Site, not_allowed};

const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\ndate: \r\n\r\n";

fn value(site: &Site, method: &str, target: &str) -> Result<Value> {
    let answer = site.administer(method, target)?;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json; charset=utf-8")),
        "{target}"
    );
    Ok(serde_json::from_slice(&answer.body)?)
}

/// A call that fails for good.
fn dead(site: &Site) -> Result<String> {
    let id = site.stored("/async-function/open/status/500")?;
    eventually("a dead letter", LIMIT, || {
        let found = site.administer("GET", &format!("/async-functions/open/dead-letters/{id}"))?;
        Ok((found.status == 200).then_some(()))
    })?;
    Ok(id)
}

#[test]
fn depths_and_elements() -> Result<()> {
    let site = Site::start()?;
    let id = dead(&site)?;
    let mut depths = value(&site, "GET", "/async-functions/open/queue")?;
    for (name, expected) in [
        ("Name", json!("open")),
        ("Namespace", json!("default")),
        ("Ready", json!(0)),
        ("Running", json!(0)),
        ("Accepted", json!(0)),
        ("Waiting", json!(0)),
        ("Dead", json!(1)),
        ("Bytes", json!(0)),
        ("Slots", json!(10)),
        ("Paused", json!(false)),
        ("OldestReadySeconds", json!(null)),
    ] {
        assert_eq!(depths[name].take(), expected, "{name}");
    }
    assert!(depths["DeadBytes"].take().as_u64() > Some(0));
    let known = depths.as_object().map_or(0, serde_json::Map::len);
    assert_eq!(known, 12, "a further field belongs into this test: {depths}");
    let element = value(&site, "GET", &format!("/async-functions/open/elements/{id}"))?;
    assert_eq!((&element["Id"], &element["State"], &element["Tries"]), (&json!(id), &json!("Dead"), &json!(1)));
    let attempt = &element["Attempts"][0];
    assert_eq!((&attempt["TryNumber"], &attempt["Status"]), (&json!(1), &json!(500)));
    let page = value(&site, "GET", "/async-functions/open/dead-letters")?;
    assert_eq!((&page["DeadLetters"][0]["Id"], &page["Next"]), (&json!(id), &json!(null)));
    let one = value(&site, "GET", &format!("/async-functions/open/dead-letters/{id}"))?;
    assert_eq!((&one["Request"]["Method"], &one["Request"]["PathAndQuery"]), (&json!("POST"), &json!("/status/500")));
    Ok(())
}

#[test]
fn what_changes_them() -> Result<()> {
    let site = Site::start()?;
    let change = |method: &str, target: &str| Ok::<_, anyhow::Error>(site.administer(method, target)?.without_date());
    let id = dead(&site)?;
    assert_eq!(change("POST", &format!("/async-functions/open/dead-letters/{id}/replay"))?, NO_CONTENT);
    eventually("it is dead again", LIMIT, || {
        let found = site.administer("GET", &format!("/async-functions/open/dead-letters/{id}"))?;
        Ok((found.status == 200).then_some(()))
    })?;
    assert_eq!(change("DELETE", &format!("/async-functions/open/dead-letters/{id}"))?, NO_CONTENT);
    assert_eq!(change("DELETE", &format!("/async-functions/open/dead-letters/{id}"))?, NOT_FOUND);
    let _again = dead(&site)?;
    assert_eq!(value(&site, "DELETE", "/async-functions/open/dead-letters")?, json!({"Changed": 1}));
    assert_eq!(value(&site, "POST", "/async-functions/open/dead-letters/replay")?, json!({"Changed": 0}));
    for (action, paused) in [("pause", true), ("resume", false)] {
        assert_eq!(change("POST", &format!("/async-functions/open/{action}"))?, NO_CONTENT);
        assert_eq!(value(&site, "GET", "/async-functions/open/queue")?["Paused"], json!(paused));
    }
    Ok(())
}

#[test]
fn they_are_absent_to_everybody_else() -> Result<()> {
    let site = Site::start()?;
    for (method, target) in [
        ("GET", "/async-functions/open/queue"),
        ("GET", "/async-functions/open/dead-letters"),
        ("DELETE", "/async-functions/open/dead-letters"),
        ("POST", "/async-functions/open/pause"),
        ("GET", "/async-functions/absent/queue"),
        ("GET", "/async-functions/open/unknown"),
        ("GET", "/async-functions"),
    ] {
        assert_eq!(site.exact(method, target)?, NOT_FOUND, "{target}");
    }
    assert_eq!(site.administer("GET", "/async-functions/absent/queue")?.without_date(), NOT_FOUND);
    assert_eq!(site.exact("POST", "/async-functions/open/queue")?, not_allowed("GET, HEAD"));
    assert_eq!(site.exact("GET", "/async-functions/open/pause")?, not_allowed("POST"));
    Ok(())
}
