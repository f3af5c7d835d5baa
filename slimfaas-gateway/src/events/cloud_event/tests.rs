use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

fn invalid(message: &str) -> NotAnEvent {
    NotAnEvent::Invalid(message.to_owned())
}

#[test]
fn a_request_says_how_it_carries_events() {
    let check = |pairs: &[(&'static str, &'static str)], expected: Mode| {
        assert_eq!(mode(&headers(pairs)), Ok(expected), "{pairs:?}");
    };
    check(&[], Mode::Plain);
    check(&[("content-type", "application/json")], Mode::Plain);
    check(&[("ce-extension", "x")], Mode::Plain);
    check(&[("ce-id", "1")], Mode::Binary);
    check(&[("ce-type", "t"), ("content-type", "application/json")], Mode::Binary);
    check(&[("content-type", "application/cloudevents+json")], Mode::Structured);
    check(&[("content-type", "Application/CloudEvents+JSON; charset=\"UTF-8\"")], Mode::Structured);
    check(&[("content-type", "application/cloudevents-batch+json;charset=utf-8")], Mode::Batch);
    for content_type in
        ["application/cloudevents", "application/cloudevents+avro", "application/cloudevents+json; charset=latin1"]
    {
        let found = mode(&headers(&[("content-type", content_type)]));
        assert!(matches!(found, Err(NotAnEvent::Format(_))), "{content_type}: {found:?}");
    }
}

#[test]
fn attributes_in_headers() {
    let base = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/a"), ("ce-type", "t")];
    let check = |change: &[(&'static str, &'static str)], expected: Result<&str, &str>| {
        let kept = base.iter().filter(|(name, _)| !change.iter().any(|(other, _)| other == name));
        let pairs: Vec<_> = kept.chain(change.iter().filter(|(_, value)| *value != "-")).copied().collect();
        assert_eq!(read_binary(&headers(&pairs)), expected.map(str::to_owned).map_err(invalid), "{change:?}");
    };
    check(&[], Ok("t"));
    check(&[("ce-type", "com.example.caf%C3%A9")], Ok("com.example.café"));
    check(&[("ce-time", "2026-01-31T12:00:00.5+01:00"), ("ce-traceid", "00-1"), ("ce-subject", "a b")], Ok("t"));
    check(&[("ce-id", "-")], Err("the attribute id is missing"));
    check(&[("ce-source", "-")], Err("the attribute source is missing"));
    check(&[("ce-type", "-")], Err("the attribute type is missing"));
    check(&[("ce-specversion", "-")], Err("the attribute specversion is missing"));
    check(&[("ce-specversion", "0.3")], Err("the attribute specversion is \"0.3\"; allowed: 1.0"));
    check(&[("ce-id", "")], Err("the attribute id is \"\"; allowed: a text that is not empty"));
    check(&[("ce-id", "1"), ("ce-id", "2")], Err("the header ce-id is there twice"));
    check(&[("ce-source", "a b")], Err("the attribute source is \"a b\"; allowed: a URI reference that is not empty"));
    check(&[("ce-source", "/a%zz")], Err("the attribute source is not percent-encoded UTF-8"));
    check(
        &[("ce-time", "yesterday")],
        Err("the attribute time is \"yesterday\"; allowed: a time such as 2026-01-31T12:00:00Z"),
    );
    check(
        &[("ce-dataschema", "/relative")],
        Err("the attribute dataschema is \"/relative\"; allowed: a URI with a scheme"),
    );
    check(
        &[("ce-my-ext", "1")],
        Err("\"my-ext\" is no attribute: only lower-case letters and digits may be in its name"),
    );
    check(
        &[("ce-datacontenttype", "text/plain")],
        Err("the content type goes into Content-Type, not into ce-datacontenttype"),
    );
    check(&[("ce-type", "a%0Ab")], Err("the attribute type has control characters"));
}

const EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"urn:x","type":"t""#;

#[test]
fn attributes_in_json() {
    let check = |body: &str, expected: Result<&str, &str>| {
        // Where in the body is serde_json's business.
        let found = read_structured(Mode::Structured, body.as_bytes()).map_err(|error| {
            let message = error.to_string();
            message.split(" at line ").next().unwrap_or_default().to_owned()
        });
        let expected = expected.map(|event_type| Found { event_type: Some(event_type.to_owned()), other_type: None });
        let expected = expected.map_err(|reason| format!("the body is no CloudEvent: {reason}"));
        assert_eq!(found, expected, "{body}");
    };
    check(&format!("{EVENT}}}"), Ok("t"));
    let whole = r#""data":{"a":[1,2]},"datacontenttype":"application/json","n":-5,"b":true,"z":null"#;
    check(&format!("{EVENT},{whole}}}"), Ok("t"));
    check(&format!(r#"{EVENT},"data_base64":"AAA="}}"#), Ok("t"));
    for (rest, reason) in [
        (r#""data":1,"data_base64":"AAA=""#, "data is not the only data of it"),
        (r#""id":"2""#, "the attribute \"id\" is there twice"),
        (r#""x":1.5"#, "the attribute x is no text, whole number or boolean"),
        (r#""x":2147483648"#, "the attribute x is no text, whole number or boolean"),
        (r#""x":{"y":1}"#, "the attribute x is no text, whole number or boolean"),
        (r#""x":[1]"#, "the attribute x is no text, whole number or boolean"),
        (r#""subject":7"#, "the attribute subject is no text"),
        (r#""Subject":"a""#, "\"Subject\" is no attribute: only lower-case letters and digits may be in its name"),
        (
            r#""datacontenttype":"json""#,
            "the attribute datacontenttype is \"json\"; allowed: a media type such as application/json",
        ),
    ] {
        check(&format!("{EVENT},{rest}}}"), Err(reason));
    }
    check("{}", Err("the attribute specversion is missing"));
    for body in ["", "{", "not json", "{\"a\":}", "{} x"] {
        let found = read_structured(Mode::Structured, body.as_bytes());
        assert!(matches!(found, Err(NotAnEvent::Invalid(_))), "{body}: {found:?}");
    }
    for body in ["[]", "1", "\"text\"", "null"] {
        let found = read_structured(Mode::Structured, body.as_bytes()).expect_err("no object").to_string();
        assert!(found.contains("expected an object with the event's attributes"), "{found}");
    }
}

#[test]
fn no_more_attributes_than_the_limit() {
    let with = |extensions: usize| {
        let all: String = (0..extensions).map(|n| format!(",\"x{n}\":1")).collect();
        read_structured(Mode::Structured, format!("{EVENT}{all}}}").as_bytes())
    };
    assert!(with(ATTRIBUTES_MAX - 4).is_ok());
    let message = with(ATTRIBUTES_MAX - 3).expect_err("too many").to_string();
    assert!(message.contains("more than 64 attributes"), "{message}");
}

#[test]
fn deep_data_is_refused_and_long_data_costs_nothing() {
    let deep = format!("{EVENT},\"data\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    // Ignored data is read without recursion or refused: either way the stack stays.
    let _either = read_structured(Mode::Structured, deep.as_bytes());
    let deep = format!("{EVENT},\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(read_structured(Mode::Structured, deep.as_bytes()).is_err());
}

#[test]
fn batches() {
    let check = |body: &str, first: Option<&str>, other: Option<&str>| {
        let expected = Found { event_type: first.map(str::to_owned), other_type: other.map(str::to_owned) };
        assert_eq!(read_structured(Mode::Batch, body.as_bytes()), Ok(expected), "{body}");
    };
    check("[]", None, None);
    check(&format!("[{EVENT}}},{EVENT}}}]"), Some("t"), None);
    let other = EVENT.replace("\"t\"", "\"u\"");
    check(&format!("[{EVENT}}},{other}}},{EVENT}}}]"), Some("t"), Some("u"));
    for body in ["{}".to_owned(), format!("{EVENT}}}"), "[{}]".to_owned(), "[1]".to_owned()] {
        assert!(read_structured(Mode::Batch, body.as_bytes()).is_err(), "{body}");
    }
}
