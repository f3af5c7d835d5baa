//! `KEY=value` files, as `docker compose --env-file` reads them.

use std::collections::BTreeMap;

use crate::model::problem::Problem;

/// Variables of one file; bad lines are told without their text, which may hold a secret.
pub(super) fn parse(source: &str, file: &str) -> (BTreeMap<String, String>, Vec<Problem>) {
    let mut variables = BTreeMap::new();
    let mut problems = Vec::new();
    for (index, line) in source.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        match line.split_once('=').map(|(name, value)| (name.trim(), unquote(value.trim()))) {
            Some((name, Some(value))) if is_name(name) => {
                variables.insert(name.to_owned(), value);
            }
            Some((name, None)) if is_name(name) => {
                problems
                    .push(Problem::new(format!("{file}:{}", index + 1), format!("{name}: the quote is not closed")));
            }
            _ => problems.push(Problem::new(format!("{file}:{}", index + 1), "not a line of the form NAME=value")),
        }
    }
    (variables, problems)
}

/// The value without its quotes or its trailing comment; `None` when a quote is left open.
fn unquote(value: &str) -> Option<String> {
    if let Some(rest) = value.strip_prefix('\'') {
        return rest.split_once('\'').map(|(inner, _)| inner.to_owned());
    }
    let Some(rest) = value.strip_prefix('"') else {
        let end = value.find(" #").unwrap_or(value.len());
        return Some(value[..end].trim_end().to_owned());
    };
    let mut inner = String::new();
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Some(inner),
            '\\' => match chars.next()? {
                'n' => inner.push('\n'),
                't' => inner.push('\t'),
                'r' => inner.push('\r'),
                other => inner.push(other),
            },
            c => inner.push(c),
        }
    }
    None
}

/// A name that shells take for a variable.
pub(super) fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_compose_reads_them() {
        let check = |source: &str, expected: Option<&str>| {
            let (variables, problems) = parse(source, "x.env");
            assert_eq!(variables.get("A").map(String::as_str), expected, "{source}");
            assert_eq!(problems, [], "{source}");
        };
        check("A=1", Some("1"));
        check("export A = x y ", Some("x y"));
        check("A=x # comment", Some("x"));
        check("A=x#y", Some("x#y"));
        check("A='x # y'", Some("x # y"));
        check(r#"A="a\n\"b\"""#, Some("a\n\"b\""));
        check("A=", Some(""));
        check("A=b=c", Some("b=c"));
        check("# A=1\n\n", None);
        check("A=1\r\nB=2\r\n", Some("1"));
        check("A=1\nA=2", Some("2"));
    }

    #[test]
    fn bad_lines_are_told_without_their_text() {
        let check = |source: &str, expected: &str| {
            let (_, problems) = parse(source, "x.env");
            assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
        };
        check("A=1\nsecret", "x.env:2: not a line of the form NAME=value");
        check("1A=secret", "x.env:1: not a line of the form NAME=value");
        check("A=\"secret", "x.env:1: A: the quote is not closed");
    }
}
