//! A skipped test is a failed test where it should run.

use std::fmt::Display;
use std::io::Write;

/// Suites that must not skip: `all`, or their names with commas between.
const REQUIRE: &str = "SLIMFAAS_REQUIRE";

/// Says that the test `name` of `suite` cannot run here, for a reason that tells what to do about it.
///
/// The line goes past the test harness, which would keep the output of a passing test to itself.
///
/// # Panics
/// When the environment requires the suite (`SLIMFAAS_REQUIRE=all` or a list with its name).
pub fn skip_or_fail(suite: &str, name: &str, reason: impl Display) {
    let required = std::env::var(REQUIRE).is_ok_and(|list| requires(&list, suite));
    assert!(!required, "{suite}/{name} is required, but cannot run: {reason}");
    // Without anybody to read it, nobody is misled.
    let _closed = writeln!(std::io::stderr().lock(), "SKIP {suite}/{name}: {reason}");
}

fn requires(list: &str, suite: &str) -> bool {
    list.split(',').map(str::trim).any(|name| name == suite || name == "all")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_required_by_name_or_all_together() {
        assert!(requires("all", "kernel"));
        assert!(requires("loopback, kernel", "kernel"));
        assert!(!requires("loopback", "kernel"));
        assert!(!requires("", "kernel"));
        assert!(!requires("kernel2", "kernel"));
    }
}
