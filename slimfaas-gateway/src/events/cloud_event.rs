//! CloudEvents 1.0 over HTTP: how a request carries one, and whether it is one. Nothing is changed on the way.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::model::percent;

/// Extension attributes included: whoever needs more has data.
const ATTRIBUTES_MAX: usize = 64;

const PREFIX: &str = "ce-";

/// How a request carries events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No CloudEvent: an event that is only a request.
    Plain,
    /// Attributes in headers, data in the body.
    Binary,
    /// Everything in the body.
    Structured,
    /// Several of those, in one body.
    Batch,
}

/// Why a request is no CloudEvent, or not one that this gateway reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEvent {
    /// A format that this gateway does not know.
    #[error("{0}")]
    Format(String),
    #[error("{0}")]
    Invalid(String),
}

/// What is in a structured body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Of the first event; there is none in an empty batch.
    pub event_type: Option<String>,
    /// The first other type that a batch has besides.
    pub other_type: Option<String>,
}

pub fn mode(headers: &HeaderMap) -> Result<Mode, NotAnEvent> {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else { return Ok(plain_or_binary(headers)) };
    let content_type = String::from_utf8_lossy(content_type.as_bytes());
    let mut parts = content_type.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
    if !media_type.starts_with("application/cloudevents") {
        return Ok(plain_or_binary(headers));
    }
    let mode = match &*media_type {
        "application/cloudevents+json" => Mode::Structured,
        "application/cloudevents-batch+json" => Mode::Batch,
        _ => {
            let known = "application/cloudevents+json and application/cloudevents-batch+json";
            return Err(NotAnEvent::Format(format!("structured events are read as {known}, not as {media_type:?}")));
        }
    };
    let charset = parts.filter_map(|part| part.split_once('=')).find(|(key, _)| key.eq_ignore_ascii_case("charset"));
    match charset {
        Some((_, charset)) if !charset.trim_matches('"').eq_ignore_ascii_case("utf-8") => {
            Err(NotAnEvent::Format(format!("structured events are read as UTF-8, not as {charset:?}")))
        }
        _ => Ok(mode),
    }
}

fn plain_or_binary(headers: &HeaderMap) -> Mode {
    let required = ["ce-id", "ce-source", "ce-type", "ce-specversion"];
    if required.iter().any(|name| headers.contains_key(*name)) { Mode::Binary } else { Mode::Plain }
}

/// The type of an event whose attributes are headers.
pub fn read_binary(headers: &HeaderMap) -> Result<String, NotAnEvent> {
    let mut attributes = BTreeMap::new();
    for name in headers.keys() {
        let Some(attribute) = name.as_str().strip_prefix(PREFIX) else { continue };
        let mut values = headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(NotAnEvent::Invalid(format!("the header {name} is there twice")));
        };
        if attribute == "datacontenttype" {
            return Err(NotAnEvent::Invalid(format!("the content type goes into Content-Type, not into {name}")));
        }
        attributes.insert(attribute.to_owned(), Scalar::Text(header_text(attribute, value)?));
    }
    check_attributes(&attributes).map_err(NotAnEvent::Invalid)
}

fn header_text(attribute: &str, value: &HeaderValue) -> Result<String, NotAnEvent> {
    let text = value.to_str().ok().and_then(percent::decode);
    text.ok_or_else(|| NotAnEvent::Invalid(format!("the attribute {attribute} is not percent-encoded UTF-8")))
}

/// Reads an event, or a batch of them. Takes memory for attributes only, never for data.
pub fn read_structured(mode: Mode, body: impl Read) -> Result<Found, NotAnEvent> {
    let read = match mode {
        Mode::Batch => serde_json::from_reader(body).map(|Batch(found)| found),
        _ => serde_json::from_reader(body)
            .map(|Structured(event_type)| Found { event_type: Some(event_type), other_type: None }),
    };
    read.map_err(|error| {
        let what = if error.is_data() { "the body is no CloudEvent" } else { "the body is no JSON" };
        NotAnEvent::Invalid(format!("{what}: {error}"))
    })
}

/// The type of a valid event.
struct Structured(String);

impl<'de> Deserialize<'de> for Structured {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Structured;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with the event's attributes")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Structured, A::Error> {
                let mut attributes = BTreeMap::new();
                let mut data: Option<String> = None;
                while let Some(key) = map.next_key::<String>()? {
                    if matches!(&*key, "data" | "data_base64") {
                        map.next_value::<IgnoredAny>()?;
                        if let Some(other) = data.replace(key) {
                            return Err(A::Error::custom(format!("{other} is not the only data of it")));
                        }
                        continue;
                    }
                    let value = map.next_value()?;
                    if attributes.len() == ATTRIBUTES_MAX {
                        return Err(A::Error::custom(format!("it has more than {ATTRIBUTES_MAX} attributes")));
                    }
                    if attributes.contains_key(&key) {
                        return Err(A::Error::custom(format!("the attribute {key:?} is there twice")));
                    }
                    attributes.insert(key, value);
                }
                check_attributes(&attributes).map(Structured).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

struct Batch(Found);

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Batch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut events: A) -> Result<Batch, A::Error> {
                let mut found = Found::default();
                while let Some(Structured(event_type)) = events.next_element()? {
                    match &found.event_type {
                        None => found.event_type = Some(event_type),
                        Some(first) if *first != event_type => {
                            found.other_type.get_or_insert(event_type);
                        }
                        Some(_same) => {}
                    }
                }
                Ok(Batch(found))
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scalar {
    Null,
    Boolean,
    Integer,
    Text(String),
    /// What no attribute may be.
    Other,
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an attribute's value")
            }

            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Null)
            }

            fn visit_bool<E>(self, _value: bool) -> Result<Scalar, E> {
                Ok(Scalar::Boolean)
            }

            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(i32::try_from(value).map_or(Scalar::Other, |_fits| Scalar::Integer))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(i32::try_from(value).map_or(Scalar::Other, |_fits| Scalar::Integer))
            }

            fn visit_f64<E>(self, _value: f64) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Scalar, E> {
                Ok(Scalar::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Scalar, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Scalar, A::Error> {
                while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// The event's type, if the attributes are those of an event.
fn check_attributes(attributes: &BTreeMap<String, Scalar>) -> Result<String, String> {
    for (name, value) in attributes {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            return Err(format!("{name:?} is no attribute: only lower-case letters and digits may be in its name"));
        }
        match value {
            Scalar::Other => return Err(format!("the attribute {name} is no text, whole number or boolean")),
            Scalar::Text(text) => check_text(name, text)?,
            Scalar::Boolean | Scalar::Integer if is_text(name) => {
                return Err(format!("the attribute {name} is no text"));
            }
            Scalar::Null | Scalar::Boolean | Scalar::Integer => {}
        }
    }
    let required = |name: &str| match attributes.get(name) {
        Some(Scalar::Text(text)) => Ok(text),
        _ => Err(format!("the attribute {name} is missing")),
    };
    required("specversion")?;
    required("id")?;
    required("source")?;
    required("type").cloned()
}

/// Attributes of the specification, which are all texts.
fn is_text(name: &str) -> bool {
    matches!(name, "specversion" | "id" | "source" | "type" | "datacontenttype" | "dataschema" | "subject" | "time")
}

fn check_text(name: &str, text: &str) -> Result<(), String> {
    if text.chars().any(char::is_control) {
        return Err(format!("the attribute {name} has control characters"));
    }
    let (is_valid, allowed) = match name {
        "specversion" => (text == "1.0", "1.0"),
        "id" | "type" | "subject" => (!text.is_empty(), "a text that is not empty"),
        "source" => (!text.is_empty() && is_uri_reference(text), "a URI reference that is not empty"),
        "dataschema" => (is_uri(text), "a URI with a scheme"),
        "datacontenttype" => (is_media_type(text), "a media type such as application/json"),
        "time" => (chrono::DateTime::parse_from_rfc3339(text).is_ok(), "a time such as 2026-01-31T12:00:00Z"),
        _ => (true, ""),
    };
    if is_valid { Ok(()) } else { Err(format!("the attribute {name} is {:?}; allowed: {allowed}", excerpt(text))) }
}

fn excerpt(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}

/// Characters of RFC 3986, with whole percent-encodings.
fn is_uri_reference(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b);
    text.bytes().all(is_allowed)
        && text.match_indices('%').all(|(at, _)| {
            let digits = text.as_bytes().get(at + 1..at + 3);
            digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        })
}

fn is_uri(text: &str) -> bool {
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    is_scheme && is_uri_reference(text)
}

fn is_media_type(text: &str) -> bool {
    let is_token =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    let essence = text.split(';').next().unwrap_or_default().trim();
    essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

#[cfg(test)]
mod tests;
