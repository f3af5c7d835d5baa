//! What `/proc` says of processes. On systems without it: nothing.

use std::fs;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) group: i32,
    /// Clock ticks after boot: with the pid, it names a process for ever.
    pub(super) start: u64,
}

pub(super) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (name) state ppid pgrp … starttime …`; the name may hold spaces and parentheses.
fn parse_stat(pid: i32, text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let group = fields.nth(2)?.parse().ok()?;
    let start = fields.nth(16)?.parse().ok()?;
    Some(Stat { pid, group, start })
}

/// Every process that this user may see.
pub(super) fn all() -> impl Iterator<Item = Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?))
}

/// Whether the process was started with exactly this variable; `false` when it may not be read.
pub(super) fn has_variable(pid: i32, name: &str, value: &str) -> bool {
    let variable = format!("{name}={value}");
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|b| *b == 0).any(|entry| entry == variable.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = "42 (a) b (c)) S 1 40 39 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        assert_eq!(parse_stat(42, text), Some(Stat { pid: 42, group: 40, start: 98765 }));
        assert_eq!(parse_stat(42, "42 (a"), None);
        assert_eq!(parse_stat(42, "42 (a) S 1"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_found() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(stat(own).is_some_and(|stat| stat.start > 0 && stat.group > 0));
        assert!(all().any(|stat| stat.pid == own));
    }
}
