//! What a process and its children have used, as the kernel counts it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// A process with all its children, of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// On all cores, by programs and by the kernel for them. The kernel counts in steps of 10 ms.
    pub(crate) cpu_micros: u64,
    /// Resident memory. Pages that forked workers share count once for each.
    pub(crate) resident_bytes: u64,
}

/// Reads the usage of the tree below (and with) the process `root`.
pub(crate) fn of_tree(root: u32) -> Result<Usage> {
    let stats = all_stats()?;
    stats.get(&root).with_context(|| format!("process {root} is gone"))?;
    let mut total = Usage::default();
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        let stat = &stats[&id];
        total.cpu_micros += stat.ticks * 1_000_000 / rustix::param::clock_ticks_per_second();
        total.resident_bytes += stat.resident_pages * rustix::param::page_size() as u64;
        open.extend(stats.iter().filter(|(_, child)| child.parent == id).map(|(child, _)| *child));
    }
    Ok(total)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    ticks: u64,
    resident_pages: u64,
}

fn all_stats() -> Result<BTreeMap<u32, Stat>> {
    let entries = std::fs::read_dir("/proc").context("cannot list the processes")?.flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // A process that ends between the listing and the look is not there.
    let stats = ids.filter_map(|id| Some((id, parse(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?)));
    Ok(stats.collect())
}

/// Reads `/proc/<id>/stat`; see proc(5). The name in parentheses may hold blanks and parentheses.
fn parse(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3);
    let parent = field(4)?.parse().ok()?;
    let user: u64 = field(14)?.parse().ok()?;
    let system: u64 = field(15)?.parse().ok()?;
    Some(Stat { parent, ticks: user + system, resident_pages: field(24)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read() {
        let line = "1234 (a ) b) S 7 1234 1234 0 -1 4194560 100 200 0 0 31 11 5 6 20 0 1 0 100 1000000 345 18446744073";
        assert_eq!(parse(line), Some(Stat { parent: 7, ticks: 42, resident_pages: 345 }));
        assert_eq!(parse("1234 (short) S 7"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(of_tree(std::process::id()).unwrap().resident_bytes > 100_000);
        assert!(of_tree(u32::MAX).is_err());
    }
}
