//! Typed reading of a manifest's tree: every accessor reports what is wrong and answers the default.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::document::{Node, Place, Text, Value};
use super::overlay::join;
use super::report::Report;
use crate::config::suggest;

/// One place of the tree, present or not.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    node: Option<&'a Node>,
    /// Of the node, or of the nearest one above that is present.
    at: Place,
    path: String,
    report: &'a Report,
}

impl<'a> Cursor<'a> {
    pub(super) fn root(node: &'a Node, report: &'a Report) -> Self {
        Self { node: Some(node), at: node.at, path: String::new(), report }
    }

    pub(super) fn is_present(&self) -> bool {
        self.node.is_some()
    }

    pub(super) fn problem(&self, message: impl Into<String>) {
        self.report.problem(self.at, &self.path, message);
    }

    pub(super) fn warning(&self, message: impl Into<String>) {
        self.report.warning(self.at, &self.path, message);
    }

    pub(super) fn child(&self, key: &str) -> Self {
        let node = match self.node.map(|node| &node.value) {
            Some(Value::Map(entries)) => entries.get(key),
            _ => None,
        };
        // What is missing in something already reported is not reported again.
        let node = node.or_else(|| self.node.filter(|node| node.value == Value::Bad));
        Self { node, at: node.map_or(self.at, |n| n.at), path: join(&self.path, key), report: self.report }
    }

    /// The entries of a map with names of the owner's choice.
    pub(super) fn entries(&self) -> Vec<(&'a str, Self)> {
        match self.node.map(|node| &node.value) {
            Some(Value::Map(entries)) => entries.keys().map(|name| (name.as_str(), self.child(name))).collect(),
            _ => Vec::new(),
        }
    }

    fn scalar(&self) -> Option<&'a Text> {
        match self.node.map(|node| &node.value)? {
            Value::Text(text) => Some(text),
            Value::Bad => None,
            Value::Null | Value::List(_) | Value::Map(_) => {
                self.problem("must be one value");
                None
            }
        }
    }

    pub(super) fn text(&self) -> Option<String> {
        self.scalar().map(|text| text.value.clone())
    }

    pub(super) fn number<T: FromStr + PartialOrd + Display>(&self, allowed: &RangeInclusive<T>, default: T) -> T {
        let Some(text) = self.scalar() else { return default };
        match text.value.parse::<T>() {
            Ok(number) if allowed.contains(&number) => number,
            _ => {
                let (from, to) = (allowed.start(), allowed.end());
                self.problem(format!("{:?} is not a whole number from {from} to {to}", text.written));
                default
            }
        }
    }

    /// One of `choices` in any case; the first is the default.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.scalar()?;
        let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text.value));
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let hint = suggest::did_you_mean(&text.written, names.iter().copied());
            self.problem(format!("{:?} is not one of {}{hint}", text.written, names.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    /// An absolute path of a URL, which may hold placeholders.
    pub(super) fn url_path(&self, default: &str) -> String {
        let Some(text) = self.scalar() else { return default.to_owned() };
        let plain = |b: u8| matches!(b, b'!'..=b'~') && b != b'#';
        if text.value.starts_with('/') && text.value.bytes().all(plain) {
            return text.value.clone();
        }
        self.problem(format!(
            "{:?} is not a URL path: start it with / and percent-encode what is not ASCII",
            text.written
        ));
        default.to_owned()
    }

    pub(super) fn texts(&self) -> Vec<String> {
        match self.node.map(|node| &node.value) {
            Some(Value::List(nodes)) => nodes
                .iter()
                .enumerate()
                .filter_map(|(i, node)| {
                    let path = format!("{}[{i}]", self.path);
                    Self { node: Some(node), at: node.at, path, report: self.report }.text()
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn text_map(&self) -> BTreeMap<String, String> {
        self.entries().into_iter().filter_map(|(name, entry)| Some((name.to_owned(), entry.text()?))).collect()
    }

    /// A command: at least the program.
    pub(super) fn command(&self) -> Vec<String> {
        let is_bad = |node: &Node| node.value == Value::Bad;
        let already_reported = match self.node {
            Some(Node { value: Value::List(nodes), .. }) => nodes.iter().any(is_bad),
            Some(node) => is_bad(node),
            None => false,
        };
        let command = self.texts();
        if command.first().is_none_or(String::is_empty) && !already_reported {
            self.problem("a command is required: a list of the program and its arguments, run without a shell");
        }
        command
    }
}
