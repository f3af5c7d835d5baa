//! Files over files: keys brought to their canonical spelling by the schema, then merged.

use std::collections::BTreeMap;

use super::document::{Node, Value};
use super::report::Report;
use crate::config::suggest;

/// What the schema allows at one place.
pub(super) enum Shape {
    Scalar,
    List,
    /// Exactly these keys, in any case.
    Keys(&'static [(&'static str, Shape)]),
    /// Names that the file's owner chooses, in their exact case.
    Named(&'static Shape),
    /// Accepted and not looked into.
    Anything,
}

impl Shape {
    fn allowed(&self) -> &'static str {
        match self {
            Self::Scalar => "one value",
            Self::List => "a list of values",
            Self::Keys(_) | Self::Named(_) => "a map",
            Self::Anything => "anything",
        }
    }
}

/// Gives keys their canonical spelling; what the schema does not know is reported and left out.
pub(super) fn conform(node: Node, shape: &Shape, path: &str, report: &Report) -> Node {
    let at = node.at;
    let value = match (node.value, shape) {
        (value, Shape::Anything) => value,
        (Value::Null, _) => Value::Null,
        (Value::Text(text), Shape::Scalar) => Value::Text(text),
        (Value::List(nodes), Shape::List) => {
            let conformed = nodes.into_iter().enumerate();
            let conformed = conformed.map(|(i, item)| conform(item, &Shape::Scalar, &format!("{path}[{i}]"), report));
            Value::List(conformed.collect())
        }
        (Value::Map(entries), Shape::Named(inner)) => Value::Map(
            entries
                .into_iter()
                .map(|(name, entry)| {
                    let entry = conform(entry, inner, &join(path, &name), report);
                    (name, entry)
                })
                .collect(),
        ),
        (Value::Map(entries), Shape::Keys(keys)) => Value::Map(conform_keys(entries, keys, path, report)),
        (Value::Bad, _) => Value::Bad,
        (Value::Text(_) | Value::List(_) | Value::Map(_), _) => {
            report.problem(at, path, format!("must be {}", shape.allowed()));
            Value::Bad
        }
    };
    Node { at, value }
}

fn conform_keys(
    entries: BTreeMap<String, Node>,
    keys: &'static [(&'static str, Shape)],
    path: &str,
    report: &Report,
) -> BTreeMap<String, Node> {
    let mut known: BTreeMap<String, Node> = BTreeMap::new();
    for (written, entry) in entries {
        let here = join(path, &written);
        match keys.iter().find(|(key, _)| key.eq_ignore_ascii_case(&written)) {
            None => report.problem(entry.at, &here, unknown(&written, keys)),
            Some((key, _)) if known.contains_key(*key) => {
                report.problem(entry.at, &here, format!("the same key as another spelling of {key}; keep one"));
            }
            Some((key, shape)) => {
                let entry = conform(entry, shape, &join(path, key), report);
                known.insert((*key).to_owned(), entry);
            }
        }
    }
    known
}

fn unknown(written: &str, keys: &[(&'static str, Shape)]) -> String {
    let names: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
    let hint = suggest::did_you_mean(written, names.iter().copied());
    format!("unknown key; allowed: {}{hint}", names.join(", "))
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Lays `over` on `base`: maps merge, scalars and lists replace, null removes.
pub(super) fn merge(base: &mut Node, over: Node) {
    let Value::Map(new) = over.value else {
        *base = over;
        return;
    };
    if !matches!(base.value, Value::Map(_)) {
        *base = Node::empty_map(over.at);
    }
    let Value::Map(entries) = &mut base.value else { return };
    for (key, node) in new {
        if node.value == Value::Null {
            entries.remove(&key);
            continue;
        }
        // A map that is new still goes through `merge`, which leaves out the nulls inside.
        let at = node.at;
        merge(entries.entry(key).or_insert_with(|| Node::empty_map(at)), node);
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::{Place, parse};
    use super::*;

    static INNER: Shape = Shape::Keys(&[("command", Shape::List), ("workingDirectory", Shape::Scalar)]);
    static SCHEMA: Shape = Shape::Keys(&[("name", Shape::Scalar), ("functions", Shape::Named(&INNER))]);

    fn layered(sources: &[&str]) -> (Node, Vec<String>) {
        let report = Report::new(["one.yaml", "two.yaml"].map(str::to_owned).to_vec());
        let mut base = Node::empty_map(Place { file: 0, line: 1 });
        for (file, source) in sources.iter().enumerate() {
            merge(&mut base, conform(parse(source, file).unwrap(), &SCHEMA, "", &report));
        }
        (base, report.into_problems().iter().map(ToString::to_string).collect())
    }

    fn check(sources: &[&str], expected: &str) {
        let (merged, problems) = layered(sources);
        assert_eq!(problems, Vec::<String>::new());
        let (expected, _) = layered(&[expected]);
        assert_eq!(plain(&merged), plain(&expected));
    }

    /// Without places, which differ between the files.
    fn plain(node: &Node) -> serde_json::Value {
        match &node.value {
            Value::Map(entries) => entries.iter().map(|(key, node)| (key.clone(), plain(node))).collect(),
            Value::List(nodes) => nodes.iter().map(plain).collect(),
            Value::Text(text) => text.value.clone().into(),
            Value::Null | Value::Bad => serde_json::Value::Null,
        }
    }

    #[test]
    fn maps_merge_and_the_rest_replaces() {
        check(&["name: a", "name: b"], "name: b");
        check(
            &["functions: {f: {command: [x, y]}}", "functions: {f: {command: [z]}}"],
            "functions: {f: {command: [z]}}",
        );
        check(
            &["functions: {f: {command: [x]}}", "functions: {f: {workingDirectory: w}, g: {}}"],
            "functions: {f: {command: [x], workingDirectory: w}, g: {}}",
        );
        check(&["name: a\nfunctions: {f: {}, g: {}}", "name: ~\nfunctions: {f: null}"], "functions: {g: {}}");
        check(&["functions: {f: {workingDirectory: ~}}"], "functions: {f: {}}");
        check(&["NAME: a", "Name: b"], "name: b");
    }

    #[test]
    fn what_the_schema_does_not_know_is_named() {
        let check = |sources: &[&str], expected: &str| assert_eq!(layered(sources).1, [expected]);
        check(
            &["functions: {f: {comand: [x]}}"],
            "one.yaml:1 functions.f.comand: unknown key; allowed: command, workingDirectory; did you mean command?",
        );
        check(&["name: a", "\nzzz: 1"], "two.yaml:2 zzz: unknown key; allowed: name, functions");
        check(&["functions: 3"], "one.yaml:1 functions: must be a map");
        check(&["functions: {f: {command: [[x]]}}"], "one.yaml:1 functions.f.command[0]: must be one value");
        check(&["name: a\nNAME: b"], "one.yaml:1 name: the same key as another spelling of name; keep one");
    }
}
