//! One YAML file as a tree in which every node knows its file and line.
//!
//! Scalars keep their written text (`1.10` stays `1.10`, `true` stays `true`), since most of them become
//! environment variables, annotations and arguments, which are text.

use std::collections::BTreeMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError};

/// Deeper than the schema by far; keeps recursion over the tree shallow.
const DEPTH_MAX: usize = 32;
/// Nodes of one file, aliases counted as what they stand for: thousands of functions, and no alias bomb.
const NODES_MAX: usize = 50_000;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) value: Value,
}

/// Where a node was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Index into the files that were loaded.
    pub(super) file: usize,
    /// From 1.
    pub(super) line: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Text(Text),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
    /// Already reported as wrong: whoever reads it takes the default and says nothing more.
    Bad,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Text {
    pub(super) value: String,
    /// Before `${VAR}` expansion: what messages may show.
    pub(super) written: String,
}

impl Node {
    pub(super) fn empty_map(at: Place) -> Self {
        Self { at, value: Value::Map(BTreeMap::new()) }
    }
}

/// Why a file is not a document of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotADocument {
    /// From 1; 0 where no line is to blame.
    pub(super) line: usize,
    pub(super) message: String,
}

/// Reads the only document of `source`; an empty file is an empty map.
pub(super) fn parse(source: &str, file: usize) -> Result<Node, NotADocument> {
    let mut builder = Builder { file, ..Builder::default() };
    for event in Parser::new_from_str(source) {
        let (event, span) = event.map_err(|error| syntax(&error))?;
        builder.take(event, span.start.line())?;
    }
    Ok(builder.root.unwrap_or_else(|| Node::empty_map(Place { file, line: 1 })))
}

fn syntax(error: &ScanError) -> NotADocument {
    NotADocument { line: error.marker().line(), message: format!("not valid YAML: {}", error.info()) }
}

fn refuse<T>(line: usize, message: impl Into<String>) -> Result<T, NotADocument> {
    Err(NotADocument { line, message: message.into() })
}

/// Turns the parser's events into nodes, with its own stack, so that depth is bounded by a check and not by the
/// thread's stack.
#[derive(Default)]
struct Builder {
    file: usize,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
    documents: usize,
}

struct Open {
    at: Place,
    anchor: usize,
    value: Collection,
}

enum Collection {
    List(Vec<Node>),
    Map { entries: BTreeMap<String, Node>, key: Option<(String, Place)> },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), NotADocument> {
        let at = Place { file: self.file, line };
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return refuse(line, "a second YAML document; use one document per file, and -f for overlays");
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, _tag) => {
                let value = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if style == ScalarStyle::Plain => Value::Null,
                    _ => Value::Text(Text { value: text.to_string(), written: text.into_owned() }),
                };
                self.place(Node { at, value }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(at, anchor, Collection::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                self.begin(at, anchor, Collection::Map { entries: BTreeMap::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => {
                    let copy = node.clone();
                    self.nodes += count(&copy);
                    self.place(copy, 0)
                }
                None => refuse(line, "an alias inside of what it names"),
            },
            _ => Ok(()),
        }
    }

    fn begin(&mut self, at: Place, anchor: usize, value: Collection) -> Result<(), NotADocument> {
        if self.open.len() >= DEPTH_MAX {
            return refuse(at.line, format!("nested deeper than {DEPTH_MAX} levels"));
        }
        self.open.push(Open { at, anchor, value });
        Ok(())
    }

    fn end(&mut self) -> Result<(), NotADocument> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.value {
            Collection::List(nodes) => Value::List(nodes),
            Collection::Map { entries, .. } => Value::Map(entries),
        };
        self.place(Node { at: open.at, value }, open.anchor)
    }

    fn place(&mut self, mut node: Node, anchor: usize) -> Result<(), NotADocument> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return refuse(
                node.at.line,
                format!("more than {NODES_MAX} values (aliases count as what they stand for)"),
            );
        }
        if anchor != 0 {
            self.nodes += count(&node);
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.value) {
            None => self.root = Some(node),
            Some(Collection::List(nodes)) => nodes.push(node),
            Some(Collection::Map { entries, key }) => match key.take() {
                Some((name, at)) => {
                    // A block begins a line below its key; people look for the key.
                    node.at = at;
                    entries.insert(name, node);
                }
                None => {
                    let Value::Text(text) = node.value else {
                        return refuse(node.at.line, "a key that is not text");
                    };
                    if entries.contains_key(&text.value) {
                        return refuse(node.at.line, format!("the key {:?} a second time in one map", text.value));
                    }
                    *key = Some((text.value, node.at));
                }
            },
        }
        Ok(())
    }
}

fn count(node: &Node) -> usize {
    match &node.value {
        Value::List(nodes) => 1 + nodes.iter().map(count).sum::<usize>(),
        Value::Map(entries) => 1 + entries.values().map(count).sum::<usize>(),
        Value::Null | Value::Text(_) | Value::Bad => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree in a short form that shows null, lists and maps.
    fn short(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".into(),
            Value::Bad => "bad".into(),
            Value::Text(text) => format!("{:?}", text.value),
            Value::List(nodes) => format!("[{}]", nodes.iter().map(short).collect::<Vec<_>>().join(",")),
            Value::Map(entries) => {
                let entries: Vec<String> = entries.iter().map(|(key, node)| format!("{key}:{}", short(node))).collect();
                format!("{{{}}}", entries.join(","))
            }
        }
    }

    #[test]
    fn scalars_keep_their_text() {
        let check = |source: &str, expected: &str| assert_eq!(short(&parse(source, 0).unwrap()), expected, "{source}");
        check("", "{}");
        check("a: 1.10", r#"{a:"1.10"}"#);
        check("a: 0o17\nb: true\nc: '~'\nd: ~\ne:", r#"{a:"0o17",b:"true",c:"~",d:null,e:null}"#);
        check("a: [x, 2]", r#"{a:["x","2"]}"#);
        check("a: &x {k: v}\nb: *x", r#"{a:{k:"v"},b:{k:"v"}}"#);
        check("12: x", r#"{12:"x"}"#);
    }

    #[test]
    fn what_is_no_document_says_the_line() {
        let check = |source: &str, line: usize, part: &str| {
            let error = parse(source, 0).unwrap_err();
            assert_eq!(error.line, line, "{source}: {error:?}");
            assert!(error.message.contains(part), "{source}: {error:?}");
        };
        check("a: 1\nb: [", 2, "not valid YAML");
        check("a: 1\na: 2", 2, "a second time");
        check("a: 1\n---\nb: 2", 2, "second YAML document");
        check("? [x]\n: y", 1, "not text");
        check(&format!("{}{}", "[".repeat(100), "]".repeat(100)), 1, "nested deeper");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut source = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let previous = format!("*a{}", level - 1);
            source.push_str(&format!("a{level}: &a{level} [{}]\n", vec![previous; 10].join(",")));
        }
        assert!(parse(&source, 0).unwrap_err().message.contains("more than"));
    }

    #[test]
    fn places_are_lines() {
        let node = parse("a: 1\nb:\n  c: 2\n", 3).unwrap();
        let Value::Map(entries) = node.value else { panic!("a map") };
        assert_eq!(entries["a"].at, Place { file: 3, line: 1 });
        assert_eq!(entries["b"].at, Place { file: 3, line: 2 });
    }
}
