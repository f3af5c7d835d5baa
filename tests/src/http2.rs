//! h2spec: conformance to RFC 9113 and RFC 7541.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::run;

/// For all cases together; each has two seconds of its own.
const TIMEOUT: Duration = Duration::from_secs(300);

/// What a run found.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    pub passed: u32,
    pub skipped: u32,
    /// The failed cases, as h2spec names them within their section.
    pub failed: Vec<String>,
    /// All that h2spec said, with what was expected and what came.
    pub text: String,
}

/// Runs every generic, HTTP/2 and HPACK case of `h2spec` against `path` of the cleartext server at `server`.
///
/// # Errors
/// When h2spec does not come to its end.
pub fn check(h2spec: &Path, server: SocketAddr, path: &str, folder: &Path) -> Result<Report> {
    let mut command = Command::new(h2spec);
    command.args(["generic", "http2", "hpack", "--timeout", "2", "--path", path]);
    command.arg("--host").arg(server.ip().to_string()).arg("--port").arg(server.port().to_string());
    let (_, text) = run("h2spec", &mut command, TIMEOUT, folder)?;
    parse(text)
}

/// Reads the closing line (`146 tests, 145 passed, 1 skipped, 0 failed`), and the failed cases above it.
fn parse(text: String) -> Result<Report> {
    let closing = text.lines().rev().find(|line| line.contains(" tests, "));
    let closing = closing.with_context(|| format!("h2spec did not come to its end: {text}"))?;
    let number = |what: &str| {
        let part = closing.split(", ").find_map(|part| part.strip_suffix(what));
        part.and_then(|number| number.trim().parse::<u32>().ok())
            .with_context(|| format!("no number{what} in {closing}"))
    };
    let (passed, skipped, count) = (number(" passed")?, number(" skipped")?, number(" failed")?);
    let listed = text.split_once("\nFailures:").map_or("", |(_, failures)| failures);
    let failed: Vec<String> =
        listed.lines().filter_map(|line| line.trim().strip_prefix("× ")).map(str::to_owned).collect();
    ensure!(failed.len() == usize::try_from(count)?, "{count} failed, but {failed:?} are named: {text}");
    Ok(Report { passed, skipped, failed, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let closing = "Finished in 0.1 seconds\n146 tests, 144 passed, 1 skipped, 1 failed\n";
        let report = parse(format!("  × 9: A\nFailures: \n\n  3.5. B\n      × 2: C\n        -> D\n{closing}")).unwrap();
        assert_eq!((report.passed, report.skipped, report.failed), (144, 1, vec!["2: C".to_owned()]));
        assert!(parse(closing.to_owned()).is_err(), "the failed case is not named");
        assert!(parse("Error: connection refused".into()).is_err());
    }
}
