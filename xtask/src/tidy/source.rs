//! Reads Rust as text, far enough to know which paths a file names. It is not a parser: it needs no build and accepts
//! code that does not compile. Comments, literals and test modules are blank to it.

/// The non-test code of one file: same line numbers, but comments, literals and `#[cfg(test)]` items are blank.
pub(crate) fn production_code(text: &str) -> String {
    without_tests(blank_comments_and_literals(text))
}

/// Replaces comments, strings and character literals by spaces; keeps every line break.
pub(crate) fn blank_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => block_comment_end(&chars, at),
            '"' => string_end(&chars, at),
            'r' if !continues_word(&chars, at) => match raw_string_end(&chars, at) {
                Some(end) => end,
                None => at,
            },
            '\'' => char_end(&chars, at),
            _ => at,
        };
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|char| if *char == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

fn line_end(chars: &[char], from: usize) -> usize {
    chars[from..].iter().position(|char| *char == '\n').map_or(chars.len(), |offset| from + offset)
}

/// Block comments nest.
fn block_comment_end(chars: &[char], from: usize) -> usize {
    let mut depth = 0_u32;
    let mut at = from;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(chars.len())
}

fn string_end(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of `r"…"` or `r#"…"#` that starts at `from`; `None` when it is something else (`r#type`).
fn raw_string_end(chars: &[char], from: usize) -> Option<usize> {
    let hashes = chars[from + 1..].iter().take_while(|char| **char == '#').count();
    let body = from + 1 + hashes;
    (chars.get(body) == Some(&'"')).then_some(())?;
    let closes =
        |at: usize| chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    Some((body + 1..chars.len()).find(|at| closes(*at)).map_or(chars.len(), |at| at + 1 + hashes))
}

/// A `b` or `c` prefix belongs to the literal, any other letter before `r` makes it the end of a word.
fn continues_word(chars: &[char], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).map(|index| chars[index]) else { return false };
    let prefix = matches!(before, 'b' | 'c') && at.checked_sub(2).is_none_or(|index| !is_word(chars[index]));
    is_word(before) && !prefix
}

/// The end of a character literal; `from` itself when the quote starts a lifetime.
fn char_end(chars: &[char], from: usize) -> usize {
    match (chars.get(from + 1), chars.get(from + 2)) {
        (Some('\\'), _) => {
            let closing = (from + 3..chars.len()).find(|at| chars[*at] == '\'');
            closing.map_or(chars.len(), |at| at + 1)
        }
        (Some(_), Some('\'')) => from + 3,
        _ => from,
    }
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// Blanks every item behind `#[cfg(test)]`: tests may import what the module itself may not.
fn without_tests(code: String) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut code = code;
    while let Some(start) = code.find(MARK) {
        let end = item_end(&code, start + MARK.len());
        let blank: String = code[start..end].chars().map(|char| if char == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(start..end, &blank);
    }
    code
}

/// The end of the item that follows `from`: its closing brace, or the semicolon of a declaration.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0_i32;
    for (offset, char) in code[from..].char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return from + offset + 1,
            _ => continue,
        }
        if depth <= 0 {
            return from + offset + 1;
        }
    }
    code.len()
}

/// A word, `::`, or any other visible character, with its line (counted from 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

pub(crate) fn tokens(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_word(first) {
                rest.find(|char| !is_word(char)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push(Token { text: rest[..length].to_owned(), line: index + 1 });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// A path as the code names it (`crate::table::view`), groups taken apart, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPath {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

/// Every path of two segments or more, and every name that a `use` brings in.
pub(crate) fn paths(tokens: &[Token]) -> Vec<NamedPath> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let imports = tokens[at].text == "use";
        let starts = is_name(&tokens[at]) && (at == 0 || !matches!(&*tokens[at - 1].text, "::" | "."));
        if imports || (starts && tokens.get(at + 1).is_some_and(|next| next.text == "::")) {
            let first = if imports { at + 1 } else { at };
            at = read_tree(tokens, first, &[], &mut found).max(at + 1);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one path, or a tree of them in braces, and returns the index behind it.
fn read_tree(tokens: &[Token], from: usize, prefix: &[String], found: &mut Vec<NamedPath>) -> usize {
    let mut segments = prefix.to_vec();
    let mut at = from;
    let line = tokens.get(from).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match &*token.text {
            // Behind a name without `::`, a brace opens a struct literal or a block.
            "{" if at == from || tokens[at - 1].text == "::" => return read_group(tokens, at, &segments, found),
            "::" => at += 1,
            "*" => at += 1,
            _ if is_name(token) && (at == from || tokens[at - 1].text == "::") => {
                segments.push(token.text.clone());
                at += 1;
            }
            _ => break,
        }
    }
    if !segments.is_empty() {
        found.push(NamedPath { segments, line });
    }
    at
}

fn read_group(tokens: &[Token], open: usize, prefix: &[String], found: &mut Vec<NamedPath>) -> usize {
    let mut at = open + 1;
    while let Some(token) = tokens.get(at) {
        match &*token.text {
            "}" => return at + 1,
            "," => at += 1,
            // A renamed import: `as` and the new name add nothing to the path.
            "as" => at += 2,
            _ => at = read_tree(tokens, at, prefix, found).max(at + 1),
        }
    }
    at
}

fn is_name(token: &Token) -> bool {
    token.text.starts_with(|char: char| char.is_alphabetic() || char == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_paths(code: &str, expected: &[&str]) {
        let found = paths(&tokens(&production_code(code)));
        let found: Vec<String> = found.iter().map(|path| path.segments.join("::")).collect();
        assert_eq!(found, expected, "{code}");
    }

    #[test]
    fn paths_are_found_wherever_they_are_written() {
        check_paths("use crate::table::view;", &["crate::table::view"]);
        check_paths("pub use crate::a::{b, c::d as e, f::*};", &["crate::a::b", "crate::a::c::d", "crate::a::f"]);
        check_paths("use crate::{a::{b, c}, d};", &["crate::a::b", "crate::a::c", "crate::d"]);
        check_paths("use {crate::a, std::fmt};", &["crate::a", "std::fmt"]);
        check_paths("use crate::a as b;\nuse c;", &["crate::a", "c"]);
        check_paths("fn f(x: &crate::a::B) -> c::D<e::F> {}", &["crate::a::B", "c::D", "e::F"]);
        check_paths("let x = Vec::<crate::a::B>::new();", &["Vec", "crate::a::B"]);
        check_paths("x.await; self.y::<T>();", &[]);
        check_paths("use super::super::cluster;", &["super::super::cluster"]);
        check_paths("match x { crate::a::B => {} }", &["crate::a::B"]);
        check_paths("let x = crate::a::B { y: 1 };", &["crate::a::B"]);
    }

    #[test]
    fn comments_literals_and_tests_name_nothing() {
        check_paths("// use crate::a::b;\n/* /* crate::a */ crate::b */", &[]);
        check_paths(r#"let x = "crate::a::b \" crate::c"; let y = b"crate::d";"#, &[]);
        check_paths("let x = r#\"crate::a \" crate::b\"#; let y = br\"crate::c\";", &[]);
        check_paths("let x = '\"'; crate::a::b(); let y = '\\'';", &["crate::a::b"]);
        check_paths("fn f<'a>(x: &'a str) -> crate::b::C<'a> {}", &["crate::b::C"]);
        check_paths("#[cfg(test)]\nmod tests { use crate::a::b; fn f() {} }\nuse crate::c::d;", &["crate::c::d"]);
        check_paths("#[cfg(test)]\nmod tests;\nuse crate::c::d;", &["crate::c::d"]);
        check_paths("#[cfg(test)]\nuse crate::a::{b};\nuse crate::c::d;", &["crate::c::d"]);
    }

    #[test]
    fn lines_are_counted_across_blanked_text() {
        let code = "/* one\ntwo */\nlet x = \"\n\";\nuse crate::a::b;";
        let found = paths(&tokens(&production_code(code)));
        assert_eq!(found, [NamedPath { segments: vec!["crate".into(), "a".into(), "b".into()], line: 5 }]);
    }
}
