//! The rules that the compiler and clippy cannot hold: the direction of imports, the shape of files, and that the
//! documents and the tree agree. It reads text only, so it runs in milliseconds and also as an ordinary test.

mod imports;
mod layout;
mod source;
mod style;

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Below the repository's root.
    file: String,
    /// Counted from 1; `None` for the file as a whole.
    line: Option<usize>,
    message: String,
}

impl Finding {
    fn at(file: &str, line: usize, message: String) -> Self {
        Self { file: file.to_owned(), line: Some(line), message }
    }

    fn of(file: &str, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// Every broken rule of the tree below `root`, ordered by file.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let files = tracked_files(root)?;
    let mut findings = Vec::new();
    for file in &files {
        let bytes = std::fs::read(root.join(file)).with_context(|| format!("cannot read {file}"))?;
        // Images and archives have no lines.
        let Ok(text) = std::str::from_utf8(&bytes) else { continue };
        style::check(file, text, &mut findings);
        imports::check(file, text, &mut findings);
    }
    let map = files.contains(&layout::MAP.to_owned()).then(|| std::fs::read_to_string(root.join(layout::MAP)));
    layout::check(&files, map.transpose()?.as_deref(), &mut findings);
    findings.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Ok(findings)
}

/// Files that git knows or would add, below the root; without those already deleted.
fn tracked_files(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git, which lists the files to check")?;
    ensure!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    let listed = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    let files = listed.split_terminator('\0').filter(|file| root.join(file).is_file());
    Ok(files.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_tree_is_tidy() {
        let findings = check(&crate::repository()).expect("the tree can be read");
        let report: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert!(findings.is_empty(), "{} finding(s):\n{}", report.len(), report.join("\n"));
    }
}
