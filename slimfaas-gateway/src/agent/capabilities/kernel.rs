//! Which version of Linux has what the programs use. The numbers are those of the upstream kernel that first had the
//! hook together with the helpers that our program of that hook calls.

use std::fmt;

use serde::{Serialize, Serializer};

/// Major and minor: features arrive with a minor version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    pub major: u32,
    pub minor: u32,
}

impl KernelVersion {
    /// From the release text, such as `6.1.0-28-amd64`.
    pub fn parse(release: &str) -> Option<Self> {
        let (major, rest) = release.split_once('.')?;
        let minor_end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some(Self { major: parse_digits(major)?, minor: parse_digits(&rest[..minor_end])? })
    }
}

/// Unlike `parse`, takes no sign.
fn parse_digits(digits: &str) -> Option<u32> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for KernelVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Something of the kernel that a program of ours needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hook {
    pub name: &'static str,
    pub since: KernelVersion,
    pub purpose: &'static str,
}

const fn hook(name: &'static str, major: u32, minor: u32, purpose: &'static str) -> Hook {
    Hook { name, since: KernelVersion { major, minor }, purpose }
}

pub const HOOKS: [Hook; 8] = [
    hook("cgroup/connect4 and connect6", 4, 17, "run when a process connects"),
    hook("socket storage in connect and sock_ops", 5, 3, "keep identity and verdict with the socket"),
    hook("cgroup/getsockopt", 5, 3, "answer the gateway who its caller is"),
    hook("bpf_link on cgroups", 5, 7, "attach so that the programs stay when the agent is replaced"),
    hook("bpf_get_current_ancestor_cgroup_id in connect", 5, 7, "find the pod of the process that connects"),
    hook("bpf_skb_ancestor_cgroup_id in cgroup_skb/ingress", 5, 8, "guard the ports of private functions"),
    hook("detaching a link", 5, 9, "take the programs away, and those of an earlier agent"),
    hook("TCP header options in sock_ops", 5, 10, "write the tag into the SYN, and read it"),
];

/// The lowest version that has every hook.
pub const LOWEST_KERNEL: KernelVersion = KernelVersion { major: 5, minor: 10 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_parsed() {
        let check = |release: &str, expected: Option<(u32, u32)>| {
            let expected = expected.map(|(major, minor)| KernelVersion { major, minor });
            assert_eq!(KernelVersion::parse(release), expected, "{release:?}");
        };
        check("6.18.44-fc-v657", Some((6, 18)));
        check("6.1.0-28-amd64", Some((6, 1)));
        check("5.15.167.4-microsoft-standard-WSL2", Some((5, 15)));
        check("4.18.0-553.el8_10.x86_64", Some((4, 18)));
        check("5.10", Some((5, 10)));
        check("7.0-rc1", Some((7, 0)));
        check("6.12+", Some((6, 12)));
        check("", None);
        check("6", None);
        check("6.", None);
        check(".1", None);
        check("+6.1", None);
        check("v6.1", None);
        check("99999999999.1", None);
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        let version = |text| KernelVersion::parse(text).expect("a version");
        assert!(version("5.9") < version("5.10"));
        assert!(version("5.19") < version("6.0"));
        assert_eq!(version("5.10.1"), version("5.10.200"));
    }

    #[test]
    fn the_lowest_kernel_has_every_hook() {
        let lowest = HOOKS.iter().map(|hook| hook.since).max();
        assert_eq!(lowest, Some(LOWEST_KERNEL));
    }
}
