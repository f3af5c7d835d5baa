//! CloudEvents in each mode: checked, and forwarded byte for byte.

use anyhow::Result;

use super::super::backend::{Backend, ok};
use super::{CLOUD_EVENT, deliveries, gateway, outcomes, publish, subscriber};

const EVENT: &str = r#"{ "specversion":"1.0", "id":"1","source":"/tests","type":"reload","data":{"x":[1, 2]} }"#;

#[test]
fn every_mode_is_forwarded_unchanged_on_both_routes() -> Result<()> {
    let backend = Backend::start(|_| ok("done"))?;
    let gateway = gateway(backend.address, &subscriber(5)).start()?;
    let batch = format!("[{EVENT},\n{EVENT}]");
    for target in ["/events", "/events?x=1", "/publish-event/reload", "/publish-event/reload/path"] {
        for (headers, body) in [
            (format!("{CLOUD_EVENT}ce-subject: caf%C3%A9\r\nContent-Type: text/plain\r\n"), "data"),
            (CLOUD_EVENT.to_owned(), ""),
            ("Content-Type: application/cloudevents+json; charset=utf-8\r\n".to_owned(), EVENT),
            ("Content-Type: application/cloudevents-batch+json\r\n".to_owned(), &batch),
        ] {
            assert_eq!(outcomes(&deliveries(&gateway, target, &headers, body.as_bytes())?), ["delivered"], "{target}");
            let [got] = &backend.requests()[..] else { panic!("one request") };
            assert_eq!(got.body, body.as_bytes());
            for header in headers.lines() {
                let (name, value) = header.split_once(": ").expect("a header");
                assert_eq!(got.header(name), Some(value), "{target} {name}");
            }
            let expected = match target {
                "/events" | "/publish-event/reload" => "/",
                "/events?x=1" => "/?x=1",
                _ => "/path",
            };
            assert_eq!(got.target(), expected);
            backend.forget();
        }
    }
    Ok(())
}

#[test]
fn a_large_structured_event_is_read_from_its_file() -> Result<()> {
    let backend = Backend::start(|_| ok("done"))?;
    let gateway = gateway(backend.address, &subscriber(10)).start()?;
    let structured = "Content-Type: application/cloudevents+json\r\n";
    let data = "x".repeat(2_000_000);
    let event = EVENT.replace(r#"{"x":[1, 2]}"#, &format!("\"{data}\""));
    assert_eq!(publish(&gateway, "/events", structured, event.as_bytes())?.status, 204);
    assert!(backend.requests()[0].body == event.as_bytes());
    let broken = &event[..event.len() - 3];
    let answer = publish(&gateway, "/events", structured, broken.as_bytes())?;
    assert!(
        answer.status == 400 && answer.text().contains("the body is no JSON: EOF while parsing"),
        "{}",
        answer.text()
    );
    Ok(())
}

#[test]
fn the_name_of_the_route_wins_and_the_type_is_the_name_elsewhere() -> Result<()> {
    let backend = Backend::start(|_| ok("done"))?;
    let gateway = gateway(backend.address, &subscriber(5)).start()?;
    let other = CLOUD_EVENT.replace("ce-type: reload", "ce-type: com.example.other");
    assert_eq!(publish(&gateway, "/publish-event/reload", &other, b"")?.status, 204);
    assert_eq!(publish(&gateway, "/events", &other, b"")?.status, 404);
    let structured = "Content-Type: application/cloudevents+json\r\n";
    let other = EVENT.replace("reload", "com.example.other");
    assert_eq!(publish(&gateway, "/publish-event/reload", structured, other.as_bytes())?.status, 204);
    assert_eq!(publish(&gateway, "/events", structured, other.as_bytes())?.status, 404);
    Ok(())
}
