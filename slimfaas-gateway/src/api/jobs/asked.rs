//! Reads the body of a request about jobs, and says what in it nobody reads. Pure.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::proxy::rejection::Rejection;

pub(super) struct Asked<T> {
    pub(super) request: T,
    /// Paths of fields that have no meaning (`Environments.0.Valeu`).
    pub(super) ignored: Vec<String>,
}

/// Fields that are named.
const IGNORED_MAX: usize = 20;

const EXAMPLE: &str = r#"a JSON object such as {"Args": ["42"]}"#;

pub(super) fn read<T: DeserializeOwned + Serialize>(body: &[u8]) -> Result<Asked<T>, Rejection> {
    let refused = |error: &dyn std::fmt::Display| Rejection::Invalid(format!("the body must be {EXAMPLE}: {error}"));
    if body.trim_ascii().is_empty() {
        return Err(refused(&"it is empty; {} is enough"));
    }
    let written: Value = serde_json::from_slice(body).map_err(|error| refused(&error))?;
    if !written.is_object() {
        return Err(refused(&"it is none"));
    }
    let request: T = serde_json::from_slice(body).map_err(|error| refused(&error))?;
    let understood = serde_json::to_value(&request).expect("our own types have string keys and finite numbers");
    let mut ignored = Vec::new();
    compare("", &written, &understood, &mut ignored);
    Ok(Asked { request, ignored })
}

/// What is written and does not come back when what was understood is written again.
fn compare(path: &str, written: &Value, understood: &Value, ignored: &mut Vec<String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => {
            for (key, value) in written {
                let says_nothing = match value {
                    Value::Null => true,
                    Value::Object(fields) => fields.is_empty(),
                    _ => false,
                };
                match understood.get(key) {
                    Some(known) => compare(&below(key), value, known, ignored),
                    None if says_nothing || ignored.len() >= IGNORED_MAX => {}
                    None => ignored.push(below(key)),
                }
            }
        }
        (Value::Array(written), Value::Array(understood)) => {
            for (at, (written, understood)) in written.iter().zip(understood).enumerate() {
                compare(&below(&at.to_string()), written, understood, ignored);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::job::{RunRequest, ScheduleRequest};

    #[test]
    fn what_nobody_reads_is_named() {
        let body = br#"{"Args": ["1"], "args": [], "Image": null, "BackoffLimit": 3,
            "Environments": [{"Name": "A", "Value": "", "SecretRef": null}, {"Name": "B", "Valeu": "x"}],
            "Resources": {"Requests": {"cpu": "1"}, "Limits": {}, "Extra": 1}}"#;
        let asked = read::<RunRequest>(body).unwrap();
        assert_eq!(asked.ignored, ["Environments.1.Valeu", "Resources.Extra", "args"]);
        assert_eq!(asked.request.args, Some(vec!["1".to_owned()]));
        let asked = read::<ScheduleRequest>(br#"{"Schedule": "* * * * *", "Args": ["x"], "Cron": 1}"#).unwrap();
        assert_eq!((asked.ignored, asked.request.run.args), (vec!["Cron".to_owned()], Some(vec!["x".to_owned()])));
    }

    #[test]
    fn what_is_no_request_says_why() {
        let check = |body: &str, part: &str| match read::<RunRequest>(body.as_bytes()) {
            Err(Rejection::Invalid(reason)) => assert!(reason.contains(part), "{body}: {reason}"),
            Err(other) => panic!("{body}: {other:?}"),
            Ok(_) => panic!("{body} was read"),
        };
        check("", "it is empty");
        check("{", "EOF");
        check("null", "it is none");
        check("[]", "it is none");
        check(r#"{"Args": "x"}"#, "expected a sequence");
        check(r#"{"BackoffLimit": -1}"#, "invalid value");
        check(r#"{"RestartPolicy": "Always"}"#, "unknown variant `Always`");
        check(r#"{"Environments": [{"Value": "x"}]}"#, "missing field `Name`");
    }
}
