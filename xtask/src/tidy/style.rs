//! What every file looks like: length, module documentation, blanks, `unsafe`, and nothing of anybody's machine.

use super::Finding;
use super::source::{blank_comments_and_literals, tokens};

/// Longer files are hard to hold in one's head; split them by question.
const LINES_MAX: usize = 500;

/// Rust files that are longer all the same, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Where `unsafe` may stand, each with the reason.
const UNSAFE_PLACES: &[(&str, &str)] = &[
    ("slimfaas-gateway/src/agent/kernel/attach.rs", "two calls of bpf(2) that no crate offers for all our programs"),
    ("slimfaas-gateway/src/agent/kernel/listens.rs", "a promise to tokio about a file of aya's"),
    ("slimfaas-gateway/src/net/socket_options.rs", "two socket options that no crate offers"),
    ("slimfaas-ebpf/src/programs", "kernel programs call the kernel's helpers"),
];

/// Files whose blanks are not ours: Markdown's two-space line break, snapshots, and other tools' formats.
const FOREIGN_BLANKS: &[&str] = &[".md", ".snap", ".patch", "go.sum"];

/// Tops of absolute paths that exist on one person's machine only. Without their slashes, so that this file passes.
const MACHINE_FOLDERS: &[&str] = &["work", "root", "home", "Users"];

/// Hosts of package registries, in halves for the same reason: which mirror to ask is a machine's setting.
const REGISTRY_HOSTS: &[(&str, &str)] = &[
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("proxy.golang", ".org"),
    ("static.crates", ".io"),
    ("index.crates", ".io"),
    ("registry.npmjs", ".org"),
    ("deb.debian", ".org"),
    ("repo1.maven", ".org"),
];

pub(crate) fn check(file: &str, text: &str, findings: &mut Vec<Finding>) {
    machine_problems(file, text, findings);
    if !FOREIGN_BLANKS.iter().any(|ending| file.ends_with(ending)) {
        blank_problems(file, text, findings);
    }
    if file.ends_with(".rs") {
        rust_problems(file, text, findings);
    }
}

fn blank_problems(file: &str, text: &str, findings: &mut Vec<Finding>) {
    for (index, line) in text.lines().enumerate() {
        if line.ends_with([' ', '\t', '\r']) {
            findings.push(Finding::at(file, index + 1, "ends in blanks".to_owned()));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        findings.push(Finding::of(file, "has no line break at its end"));
    }
}

fn rust_problems(file: &str, text: &str, findings: &mut Vec<Finding>) {
    let lines = text.lines().count();
    let listed = LONG_FILES.iter().any(|(long, _)| *long == file);
    if lines > LINES_MAX && !listed {
        findings.push(Finding::of(file, format!("has {lines} lines, more than {LINES_MAX}: split it by question")));
    }
    if lines <= LINES_MAX && listed {
        findings.push(Finding::of(file, "is no longer a long file: take it off the list"));
    }
    if !text.starts_with("//!") && !is_test_module(file) {
        findings.push(Finding::at(file, 1, "does not start with `//!`: say what the module is".to_owned()));
    }
    for (index, line) in text.lines().enumerate() {
        if line.contains('\t') {
            findings.push(Finding::at(file, index + 1, "contains a tab".to_owned()));
        }
    }
    if !UNSAFE_PLACES.iter().any(|(place, _)| file.starts_with(place)) {
        let tokens = tokens(&blank_comments_and_literals(text));
        let found = tokens.iter().filter(|token| token.text == "unsafe");
        findings.extend(found.map(|token| Finding::at(file, token.line, "`unsafe` outside its places".to_owned())));
    }
}

/// The name says what such a file is: the tests of the module beside it.
fn is_test_module(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.ends_with("_tests.rs")
}

fn machine_problems(file: &str, text: &str, findings: &mut Vec<Finding>) {
    for (index, line) in text.lines().enumerate() {
        if let Some(folder) = MACHINE_FOLDERS.iter().find(|folder| names_folder(line, folder)) {
            findings.push(Finding::at(file, index + 1, format!("names a machine's own folder: /{folder}")));
        }
        for (name, domain) in REGISTRY_HOSTS {
            let host = format!("{name}{domain}");
            if line.contains(&host) {
                findings.push(Finding::at(file, index + 1, format!("names a package registry's host: {host}")));
            }
        }
    }
}

/// Whether `line` holds the absolute path `/folder` or something below it; `a/folder` and `/folders` are others.
fn names_folder(line: &str, folder: &str) -> bool {
    let path = format!("/{folder}");
    line.match_indices(&path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        let starts = before.is_none_or(|char| !char.is_alphanumeric() && !"/._-}*~$)".contains(char));
        starts && after == Some('/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_text(file: &str, text: &str, expected: &[&str]) {
        let mut findings = Vec::new();
        check(file, text, &mut findings);
        let found: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn rust_files_have_a_shape() {
        check_text("a.rs", "//! A.\n\nfn f() {}\n", &[]);
        check_text("a.rs", "fn f() {}\n", &["a.rs:1: does not start with `//!`: say what the module is"]);
        check_text("a/tests.rs", "fn f() {}\n", &[]);
        check_text("a.rs", "//! A. \n", &["a.rs:1: ends in blanks"]);
        check_text("a.rs", "//! A.\n\tfn f() {}\n", &["a.rs:2: contains a tab"]);
        check_text("a.rs", "//! A.", &["a.rs: has no line break at its end"]);
        check_text("a.md", "two blanks break the line  \n", &[]);
        check_text("Makefile", "all:\n\ttrue\n", &[]);
    }

    #[test]
    fn a_long_file_is_found() {
        let fits = format!("//! A.\n{}", "fn f() {}\n".repeat(LINES_MAX - 1));
        check_text("a.rs", &fits, &[]);
        check_text("a.rs", &format!("{fits}\n"), &["a.rs: has 501 lines, more than 500: split it by question"]);
    }

    #[test]
    fn unsafe_has_its_places() {
        let code = "//! A.\nunsafe fn f() {}\n";
        check_text("a.rs", code, &["a.rs:2: `unsafe` outside its places"]);
        check_text("slimfaas-gateway/src/agent/kernel/attach.rs", code, &[]);
        check_text("a.rs", "//! No unsafe.\n#![deny(unsafe_code)]\nconst A: &str = \"unsafe\";\n", &[]);
    }

    #[test]
    fn machines_stay_out() {
        let paths = |start: &str| format!("cd /{start}/x\n");
        check_text("a.sh", &paths("work"), &["a.sh:1: names a machine's own folder: /work"]);
        check_text("a.sh", &paths("home"), &["a.sh:1: names a machine's own folder: /home"]);
        check_text("a.sh", "a/work/b ./root/c $HOME/home/d /workers/e https://x/home /root\n", &[]);
        let host = ["pypi", ".org"].concat();
        let expected = format!("a.txt:1: names a package registry's host: {host}");
        check_text("a.txt", &format!("https://{host}/simple\n"), &[&expected]);
    }
}
