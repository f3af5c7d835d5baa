//! JSON annotations, read field by field: a bad field loses itself, not its document.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::{Problems, Source, excerpt, quoted};
use crate::config::suggest;

/// A JSON object of which fields are taken one after the other; call [`Object::finish`] last.
pub(super) struct Object<'p> {
    problems: &'p mut Problems,
    key: &'p str,
    /// Where in the document this object is; empty for the document itself.
    path: String,
    fields: Map<String, Value>,
    known: Vec<&'static str>,
}

/// A field of an object. `null` counts as absent.
#[derive(Debug, PartialEq)]
pub(super) enum Field<T> {
    Absent,
    /// Already reported.
    Bad,
    Given(T),
}

impl<'p> Object<'p> {
    /// The document; `None` (reported) if it is not a JSON object. `used`: what is used then.
    pub(super) fn document(problems: &'p mut Problems, from: Source<'p>, used: &str) -> Option<Self> {
        let found = match serde_json::from_str(from.text) {
            Ok(Value::Object(fields)) => {
                return Some(Self { problems, key: from.key, path: String::new(), fields, known: Vec::new() });
            }
            Ok(other) => show(&other),
            Err(error) => format!("{} ({error})", quoted(from.text)),
        };
        problems.bad(from.key, &found, "a JSON object", used);
        None
    }

    /// An element of a list taken from this object; one that is no object is reported and counts as empty.
    pub(super) fn element(&mut self, list: &str, index: usize, value: Value) -> Object<'_> {
        let path = format!("{}{list}[{index}]", self.prefix());
        let fields = match value {
            Value::Object(fields) => fields,
            other => {
                let message = format!("{path}: found {}; allowed: an object; used instead: {{}}", show(&other));
                self.problems.push(self.key, message);
                Map::new()
            }
        };
        Object { problems: &mut *self.problems, key: self.key, path, fields, known: Vec::new() }
    }

    pub(super) fn object(&mut self, name: &'static str, used: &str) -> Field<Object<'_>> {
        match self.take(name) {
            None => Field::Absent,
            Some(Value::Object(fields)) => {
                let path = format!("{}{name}", self.prefix());
                Field::Given(Object { problems: &mut *self.problems, key: self.key, path, fields, known: Vec::new() })
            }
            Some(other) => self.refuse(name, &other, "an object", used),
        }
    }

    pub(super) fn list(&mut self, name: &'static str, used: &str) -> Field<Vec<Value>> {
        match self.take(name) {
            None => Field::Absent,
            Some(Value::Array(values)) => Field::Given(values),
            Some(other) => self.refuse(name, &other, "a list", used),
        }
    }

    /// A list of at most `count_max` whole numbers; a bad one spoils the list, whose order means something.
    pub(super) fn numbers(
        &mut self,
        name: &'static str,
        range: &RangeInclusive<u32>,
        count_max: usize,
        used: &[u64],
    ) -> Field<Vec<u32>> {
        let value = match self.take(name) {
            None => return Field::Absent,
            Some(value) => value,
        };
        let numbers = match &value {
            Value::Array(values) if values.len() <= count_max => values.iter().map(|v| within(v, range)).collect(),
            _ => None,
        };
        match numbers {
            Some(numbers) => Field::Given(numbers),
            None => {
                let (from, to) = (range.start(), range.end());
                let allowed = format!("a list of at most {count_max} whole numbers from {from} to {to}");
                self.refuse(name, &value, &allowed, &format!("{used:?}"))
            }
        }
    }

    pub(super) fn whole(&mut self, name: &'static str, range: &RangeInclusive<u32>, used: &str) -> Field<u32> {
        let Some(value) = self.take(name) else { return Field::Absent };
        match within(&value, range) {
            Some(number) => Field::Given(number),
            None => {
                let allowed = format!("a whole number from {} to {}", range.start(), range.end());
                self.refuse(name, &value, &allowed, used)
            }
        }
    }

    pub(super) fn real(&mut self, name: &'static str, used: &str) -> Field<f64> {
        let Some(value) = self.take(name) else { return Field::Absent };
        match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Field::Given(number),
            None => self.refuse(name, &value, "a number", used),
        }
    }

    pub(super) fn text(&mut self, name: &'static str, used: &str) -> Field<String> {
        match self.take(name) {
            None => Field::Absent,
            Some(Value::String(text)) => Field::Given(text),
            Some(other) => self.refuse(name, &other, "a text", used),
        }
    }

    /// One of some words, spelled exactly so.
    pub(super) fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)], used: &str) -> Field<T> {
        let Some(value) = self.take(name) else { return Field::Absent };
        match words.iter().find(|(word, _)| value.as_str() == Some(word)) {
            Some((_, meaning)) => Field::Given(*meaning),
            None => {
                let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                self.refuse(name, &value, &allowed.join(" or "), used)
            }
        }
    }

    /// Something about this object as a whole.
    pub(super) fn report(&mut self, message: &str) {
        let colon = if self.path.is_empty() { "" } else { ": " };
        self.problems.push(self.key, format!("{}{colon}{message}", self.path));
    }

    /// Reports the fields that nobody took.
    pub(super) fn finish(self) {
        let prefix = self.prefix();
        for name in self.fields.keys() {
            let hint = suggest::did_you_mean(name, self.known.iter().copied());
            self.problems.push(self.key, format!("{prefix}{}: no such field, it is ignored{hint}", excerpt(name)));
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    fn prefix(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!("{}.", self.path) }
    }

    fn refuse<T>(&mut self, name: &str, found: &Value, allowed: &str, used: &str) -> Field<T> {
        let message =
            format!("{}{name}: found {}; allowed: {allowed}; used instead: {used}", self.prefix(), show(found));
        self.problems.push(self.key, message);
        Field::Bad
    }
}

fn within(value: &Value, range: &RangeInclusive<u32>) -> Option<u32> {
    let number = u32::try_from(value.as_u64()?).ok()?;
    range.contains(&number).then_some(number)
}

fn show(value: &Value) -> String {
    excerpt(&value.to_string())
}
