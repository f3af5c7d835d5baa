//! Which of our processes is at the other end of a loopback connection.
//!
//! Linux says it in `/proc`: the connection's socket has an inode, and a process that holds it has it among its open
//! files. On other systems every caller is outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Pid;

use super::procfs;
use crate::model::caller::Caller;
use crate::table::CallerIndex;

/// The process groups of this cluster and what they run.
#[derive(Default)]
pub struct LocalCallers {
    groups: Mutex<BTreeMap<i32, Caller>>,
}

/// A process group is one of ours for as long as this lives.
pub(super) struct Registration {
    callers: Arc<LocalCallers>,
    group: i32,
}

impl LocalCallers {
    pub(super) fn register(self: &Arc<Self>, group: Pid, caller: Caller) -> Registration {
        let group = group.as_raw_nonzero().get();
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).insert(group, caller);
        Registration { callers: Arc::clone(self), group }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.callers.groups.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.group);
    }
}

impl CallerIndex for LocalCallers {
    fn identify(&self, peer: SocketAddr, local: SocketAddr) -> Pin<Box<dyn Future<Output = Caller> + Send + '_>> {
        Box::pin(async move {
            // Anybody else than this machine is none of our processes.
            if !peer.ip().to_canonical().is_loopback() && peer.ip() != local.ip() {
                return Caller::Outside;
            }
            let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let found = tokio::task::spawn_blocking(move || owner(peer, local, &groups)).await;
            found.ok().flatten().unwrap_or(Caller::Outside)
        })
    }
}

fn owner(peer: SocketAddr, local: SocketAddr, groups: &BTreeMap<i32, Caller>) -> Option<Caller> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let lines = BufReader::new(fs::File::open(table).ok()?).lines();
        lines.map_while(Result::ok).find_map(|line| inode_of(&line, peer, local))
    })?;
    let socket = format!("socket:[{inode}]");
    let mut holders = procfs::all().filter(|stat| groups.contains_key(&stat.group) && holds(stat.pid, &socket));
    let first = holders.next()?;
    // A socket that processes of two workloads hold proves neither.
    let all: BTreeSet<i32> = holders.map(|stat| stat.group).chain([first.group]).collect();
    if all.len() == 1 { groups.get(&first.group).cloned() } else { None }
}

fn holds(pid: i32, socket: &str) -> bool {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| target.as_os_str() == socket)
}

/// The inode of a `/proc/net/tcp` line when it is the client's end: from `peer` to `local`.
/// A socket that nobody holds any more has inode 0.
fn inode_of(line: &str, peer: SocketAddr, local: SocketAddr) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (from, to) = (parse_address(fields.next()?)?, parse_address(fields.next()?)?);
    if !same(from, peer) || !same(to, local) {
        return None;
    }
    fields.nth(6)?.parse().ok().filter(|inode| *inode != 0)
}

/// Equal when IPv4 addresses that are written as IPv6 ones are taken for what they are.
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.ip().to_canonical() == other.ip().to_canonical()
}

/// `0100007F:1F90`: the address as native 32-bit words in hexadecimal, then the port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let words: Vec<[u8; 4]> = address
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    let ip = match *words.as_slice() {
        [word] => IpAddr::from(word),
        [_, _, _, _] => IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernel_are_read() {
        let v4 =
            "   1: 0100007F:9C40 0100007F:7544 01 00000000:00000000 00:00000000 00000000  1000        0 424242 1 x";
        let v6 =
            "   2: 0000000000000000FFFF00000100007F:9C40 0000000000000000FFFF00000100007F:7544 01 0:0 0:0 0 0 0 17 1";
        let gone = "   3: 0100007F:9C40 0100007F:7544 06 00000000:00000000 03:0 00000000  0  0 0 3 x";
        let check = |line: &str, peer: &str, local: &str, expected: Option<u64>| {
            assert_eq!(inode_of(line, peer.parse().unwrap(), local.parse().unwrap()), expected, "{line} {peer}");
        };
        check(v4, "127.0.0.1:40000", "127.0.0.1:30020", Some(424_242));
        check(v4, "[::ffff:127.0.0.1]:40000", "[::ffff:127.0.0.1]:30020", Some(424_242));
        check(v6, "127.0.0.1:40000", "127.0.0.1:30020", Some(17));
        check(v4, "127.0.0.1:30020", "127.0.0.1:40000", None);
        check(v4, "127.0.0.2:40000", "127.0.0.1:30020", None);
        check(gone, "127.0.0.1:40000", "127.0.0.1:30020", None);
        check("  sl  local_address rem_address   st tx_queue", "127.0.0.1:40000", "127.0.0.1:30020", None);
        check("", "127.0.0.1:40000", "127.0.0.1:30020", None);
    }
}
