//! The report for people.

use std::fmt;

use super::{Report, State};

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let can = if self.identity_can_run { "can run" } else { "cannot run" };
        writeln!(f, "In-kernel identity {can} on this node, by its kernel's version and this process's rights.")?;
        writeln!(f)?;
        for finding in &self.findings {
            writeln!(f, "{:<8} {:<16} {}", finding.state.word(), finding.topic, finding.found)?;
            if let Some(next) = &finding.next_step {
                writeln!(f, "{:<8} why: {}", "", finding.reason)?;
                writeln!(f, "{:<8} next: {next}", "")?;
            }
        }
        writeln!(f)?;
        writeln!(f, "Linux has what the programs use since:")?;
        for state in &self.hooks {
            let here = match state.available {
                Some(true) => "here",
                Some(false) => "not here",
                None => "unknown",
            };
            let since = state.hook.since.to_string();
            writeln!(f, "{since:<5} {} ({here}): {}", state.hook.name, state.hook.purpose)?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "No program was loaded: what only loading shows (CONFIG_CGROUP_BPF, seccomp, security modules) is not checked."
        )
    }
}
