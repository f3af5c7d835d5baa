//! `${VAR}` of the manifest, once at load; `{port}` and `{replica}`, once per start of a replica.

use std::collections::BTreeMap;

use super::document::{Node, Value};
use super::env_file::is_name;
use super::overlay::join;
use super::report::Report;

/// Where `${VAR}` comes from: the earliest layer that has it.
pub(super) struct Variables<'a> {
    layers: Vec<&'a BTreeMap<String, String>>,
}

impl<'a> Variables<'a> {
    /// `layers` from the strongest to the weakest.
    pub(super) fn new(layers: Vec<&'a BTreeMap<String, String>>) -> Self {
        Self { layers }
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.layers.iter().find_map(|layer| layer.get(name)).map(String::as_str)
    }
}

/// Expands every text below `node`.
pub(super) fn expand_all(node: &mut Node, variables: &Variables<'_>, path: &str, report: &Report) {
    match &mut node.value {
        Value::Text(text) => match expand(&text.value, variables) {
            Ok(value) => text.value = value,
            Err(message) => {
                report.problem(node.at, path, message);
                node.value = Value::Bad;
            }
        },
        Value::List(nodes) => {
            for (i, item) in nodes.iter_mut().enumerate() {
                expand_all(item, variables, &format!("{path}[{i}]"), report);
            }
        }
        Value::Map(entries) => {
            for (key, entry) in entries {
                expand_all(entry, variables, &join(path, key), report);
            }
        }
        Value::Null | Value::Bad => {}
    }
}

/// `${NAME}` is replaced, `$$` is one dollar sign, any other dollar sign stays.
fn expand(text: &str, variables: &Variables<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(inner) = after.strip_prefix('{') {
            let Some((name, tail)) = inner.split_once('}') else {
                return Err("${ without }; write $$ for a dollar sign".to_owned());
            };
            if !is_name(name) {
                return Err(format!("${{{name}}} is not a variable's name; write $$ for a dollar sign"));
            }
            let value = variables.value(name).ok_or_else(|| {
                format!("variable {name} is not set: set it in the environment or in a file given with --env-file")
            })?;
            out.push_str(value);
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The placeholders of one replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placeholders {
    /// `None`: a process without a port, in which `{port}` stays as it is.
    pub(super) port: Option<u16>,
    pub(super) replica: u32,
}

impl Placeholders {
    pub(super) fn fill(self, text: &str) -> String {
        if !text.contains('{') {
            return text.to_owned();
        }
        let text = text.replace("{replica}", &self.replica.to_string());
        match self.port {
            Some(port) => text.replace("{port}", &port.to_string()),
            None => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn variables_expand() {
        let (strong, weak) = (map(&[("A", "1"), ("E", "")]), map(&[("A", "2"), ("B", "${A}")]));
        let variables = Variables::new(vec![&strong, &weak]);
        let check = |text: &str, expected: Result<&str, &str>| {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(expand(text, &variables), expected, "{text}");
        };
        check("plain", Ok("plain"));
        check("x${A}y${E}z", Ok("x1yz"));
        check("${B}", Ok("${A}"));
        check("$$", Ok("$"));
        check("$${A}", Ok("${A}"));
        check("$A $", Ok("$A $"));
        check("{port}", Ok("{port}"));
        check("é${A}é", Ok("é1é"));
        check("${A", Err("${ without }; write $$ for a dollar sign"));
        check("${}", Err("${} is not a variable's name; write $$ for a dollar sign"));
        check("${NO}", Err("variable NO is not set: set it in the environment or in a file given with --env-file"));
    }

    #[test]
    fn placeholders_fill() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Placeholders { port: Some(5001), replica: 2 }.fill(text), expected);
        };
        check("--port={port} {replica}", "--port=5001 2");
        check("{\"a\":{}}", "{\"a\":{}}");
        assert_eq!(Placeholders { port: None, replica: 0 }.fill("{port}"), "{port}");
    }
}
