//! Runs named steps one after the other and remembers what came of them. A failed step does not hide the next one.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::terminal::{Colour, line, paint};

/// What one step found, in the numbers of the closing summary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// `<suite>/<name>: <reason>` of each.
    pub(crate) skipped: Vec<String>,
}

impl Tally {
    /// A step that is one check by itself.
    pub(crate) fn single(passed: bool) -> Self {
        Self { passed: usize::from(passed), failed: usize::from(!passed), skipped: Vec::new() }
    }

    pub(crate) fn skipped(reason: String) -> Self {
        Self { skipped: vec![reason], ..Self::default() }
    }

    /// Reads one line of what `cargo test` printed.
    fn read(&mut self, line: &str) {
        let line = without_colour(line);
        if let Some(skip) = line.trim_start().strip_prefix("SKIP ") {
            self.skipped.push(skip.to_owned());
        }
        // `test result: ok. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; …`
        let Some((_, counts)) = line.split_once("test result: ").and_then(|(_, rest)| rest.split_once(". ")) else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ').map(|(number, what)| (number.parse().unwrap_or(0), what)) {
                Some((number, "passed")) => self.passed += number,
                Some((number, "failed")) => self.failed += number,
                Some((number, "ignored")) if number > 0 => {
                    self.skipped.extend((0..number).map(|_| "a test marked #[ignore]".to_owned()));
                }
                _ => {}
            }
        }
    }

    /// Settles the numbers once the command has ended: a skipped test counts as passed to cargo, and a failure that
    /// left no failed test (code that does not compile, a crash) is one all the same.
    fn settle(mut self, success: bool) -> Self {
        let told: usize = self.skipped.iter().filter(|reason| !reason.contains("#[ignore]")).count();
        self.passed = self.passed.saturating_sub(told);
        if !success && self.failed == 0 {
            self.failed = 1;
        }
        self
    }
}

fn without_colour(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or(part, |(_, rest)| rest))
}

/// All steps so far.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<(String, Tally, Duration)>,
}

impl Steps {
    /// Runs `work` as the step `name`. An error is a failed step.
    pub(crate) fn run(&mut self, name: &str, work: impl FnOnce() -> Result<Tally>) {
        line(&format!("\n{} {}", paint(Colour::Cyan, "==>"), paint(Colour::Bold, name)));
        let start = Instant::now();
        let tally = work().unwrap_or_else(|error| {
            crate::terminal::failure(&format!("{error:#}"));
            Tally::single(false)
        });
        let took = start.elapsed();
        line(&format!("{} {name} in {}", verdict(&tally), seconds(took)));
        self.done.push((name.to_owned(), tally, took));
    }

    /// The closing summary. Returns whether nothing failed.
    pub(crate) fn summarize(&self) -> bool {
        line(&format!("\n{}", paint(Colour::Bold, "Summary")));
        for (name, tally, took) in &self.done {
            let counts =
                format!("{:>5} passed {:>3} failed {:>3} skipped", tally.passed, tally.failed, tally.skipped.len());
            line(&format!("  {} {name:<24} {counts}  {}", verdict(tally), seconds(*took)));
        }
        for reason in self.done.iter().flat_map(|(_, tally, _)| &tally.skipped) {
            line(&format!("  {} {reason}", paint(Colour::Yellow, "skipped")));
        }
        let sum = |count: fn(&Tally) -> usize| self.done.iter().map(|(_, tally, _)| count(tally)).sum::<usize>();
        let failed = sum(|tally| tally.failed);
        let (passed, skipped) = (sum(|tally| tally.passed), sum(|tally| tally.skipped.len()));
        line(&format!("\n{passed} passed, {failed} failed, {skipped} skipped"));
        failed == 0
    }
}

fn verdict(tally: &Tally) -> String {
    match tally {
        Tally { failed: 1.., .. } => paint(Colour::Red, "FAILED"),
        Tally { passed: 0, skipped, .. } if !skipped.is_empty() => paint(Colour::Yellow, "SKIP  "),
        _ => paint(Colour::Green, "ok    "),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A command that is one check: it passes when the command succeeds.
pub(crate) fn check(command: &mut Command) -> Result<Tally> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot run {command:?}"))?;
    Ok(Tally::single(status.success()))
}

/// A `cargo test`: passes its output through and counts what it says.
pub(crate) fn cargo_test(command: &mut Command) -> Result<Tally> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let tally = Mutex::new(Tally::default());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(|| follow(out, &mut std::io::stdout(), &tally));
        follow(err, &mut std::io::stderr(), &tally);
    });
    let status = child.wait().context("cannot wait for cargo")?;
    Ok(tally.into_inner().expect("no reader panicked").settle(status.success()))
}

/// Copies lines to `to`, counting them. The pipe's end ends it.
fn follow(from: Option<impl Read>, to: &mut impl Write, tally: &Mutex<Tally>) {
    let Some(from) = from else { return };
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        tally.lock().expect("no reader panicked").read(&line);
        // Nobody reads any more: the exit code still tells.
        let _closed = writeln!(to, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_output(output: &str, success: bool, expected: (usize, usize, &[&str])) {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.read(line));
        let Tally { passed, failed, skipped } = tally.settle(success);
        let skipped: Vec<&str> = skipped.iter().map(String::as_str).collect();
        assert_eq!((passed, failed, &*skipped), expected, "{output}");
    }

    #[test]
    fn cargo_output_is_counted() {
        let ok = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        check_output(&format!("{ok}\nrunning 1 test\n{ok}"), true, (6, 0, &[]));
        let bad = "test result: \x1b[31mFAILED\x1b[m. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        check_output(bad, false, (3, 2, &[]));
        check_output("error[E0425]: cannot find value", false, (0, 1, &[]));
        check_output("", true, (0, 0, &[]));
    }

    #[test]
    fn a_skipped_test_is_not_a_passed_one() {
        let output = "SKIP protocol/h2spec: not installed\ntest result: ok. 3 passed; 0 failed; 0 ignored; 0 measured";
        check_output(output, true, (2, 0, &["protocol/h2spec: not installed"]));
        let ignored = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured";
        check_output(ignored, true, (3, 0, &["a test marked #[ignore]"]));
    }
}
