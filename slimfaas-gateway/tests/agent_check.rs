//! The agent's command line, as a process.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_slimfaas-agent")).args(arguments).output().expect("the agent can be started")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the agent prints UTF-8")
}

#[test]
fn check_exits_by_what_it_reports() {
    let output = run(&["check", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let can_run = report["identity_can_run"].as_bool().expect("a boolean");
    assert_eq!(output.status.code(), Some(if can_run { 0 } else { 1 }));
    assert_eq!(text(&output.stderr), "");

    let output = run(&["check"]);
    let verdict = if can_run { "can run" } else { "cannot run" };
    let first = text(&output.stdout).lines().next().expect("a line");
    assert!(first.starts_with(&format!("In-kernel identity {verdict} on this node")), "{first}");
}

#[test]
fn programs_that_are_not_there_are_named() {
    let output = run(&["verify", "/nonexistent/programs.o"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nonexistent/programs.o"), "{output:?}");
}

#[test]
fn nothing_is_detached_where_nothing_is_pinned() {
    let folder = tempfile::tempdir().expect("a folder");
    let pins = folder.path().join("slimfaas");
    let output = run(&["detach", "--pins", pins.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout), "removed 0 pinned programs and maps\n");
}

#[test]
fn wrong_arguments_exit_with_64_and_help_with_0() {
    assert_eq!(run(&["chekc"]).status.code(), Some(64));
    assert_eq!(run(&["--bogus"]).status.code(), Some(64));
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("Exit status: 0 done"));
    assert_eq!(text(&run(&["--version"]).stdout), concat!("slimfaas-agent ", env!("CARGO_PKG_VERSION"), "\n"));
}
