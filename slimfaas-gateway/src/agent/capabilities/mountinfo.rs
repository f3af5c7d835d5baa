//! `/proc/self/mountinfo` (proc(5)): where cgroup v2 and bpffs are mounted. Never assumed: with hybrid cgroups v2 is
//! at `/sys/fs/cgroup/unified`, and a container has its own ideas.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What of the file system is mounted. For cgroups this is relative to the reader's cgroup namespace.
    pub root: PathBuf,
    /// Where, as this process sees it.
    pub point: PathBuf,
    pub fs_type: String,
    /// The mount or the file system.
    pub read_only: bool,
}

impl Mount {
    pub fn is_cgroup2(&self) -> bool {
        self.fs_type == "cgroup2"
    }

    /// The whole of a bpffs or a directory of it.
    pub fn is_bpffs(&self) -> bool {
        self.fs_type == "bpf"
    }
}

/// The mounts in the order of the file; lines that are not of its format are left out.
pub fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /point rw,noatime shared:1 … - type source rw,errors=continue`, with any number of optional
/// fields before the dash.
fn parse_line(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point, mount_options) = (left.next()?, left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (fs_type, _source, fs_options) = (right.next()?, right.next()?, right.next()?);
    Some(Mount {
        root: unescape(root),
        point: unescape(point),
        fs_type: fs_type.to_owned(),
        read_only: is_read_only(mount_options) || is_read_only(fs_options),
    })
}

fn is_read_only(options: &str) -> bool {
    options.split(',').any(|option| option == "ro")
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match octal_escape(&bytes[at..]) {
            Some(escaped) => {
                out.push(escaped);
                at += 4;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

fn octal_escape(bytes: &[u8]) -> Option<u8> {
    let [b'\\', high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', ..] = bytes else { return None };
    Some((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn mount(root: &str, point: &str, fs_type: &str, read_only: bool) -> Mount {
        Mount { root: root.into(), point: point.into(), fs_type: fs_type.into(), read_only }
    }

    #[test]
    fn unified_hierarchy() {
        let text = "\
25 30 0:23 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
29 25 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
33 25 0:30 / /sys/fs/bpf rw,nosuid,nodev,noexec,relatime shared:12 - bpf bpf rw,mode=700
";
        let expected = [
            mount("/", "/sys", "sysfs", false),
            mount("/", "/sys/fs/cgroup", "cgroup2", false),
            mount("/", "/sys/fs/bpf", "bpf", false),
        ];
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn hybrid_hierarchy() {
        let text = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
        let found: Vec<Mount> = parse(text).into_iter().filter(Mount::is_cgroup2).collect();
        assert_eq!(found, [mount("/", "/sys/fs/cgroup/unified", "cgroup2", false)]);
    }

    /// A container with its own cgroup namespace and the node's hierarchy mounted beside its own.
    #[test]
    fn container() {
        let text = "\
701 690 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate
733 690 0:26 /../../../.. /host/cgroup rw,relatime master:4 propagate_from:2 - cgroup2 cgroup2 rw
";
        let expected =
            [mount("/", "/sys/fs/cgroup", "cgroup2", true), mount("/../../../..", "/host/cgroup", "cgroup2", false)];
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn a_read_only_file_system_counts_as_read_only() {
        let text = "33 25 0:30 / /sys/fs/bpf rw,relatime - bpf bpf ro,mode=700";
        assert_eq!(parse(text), [mount("/", "/sys/fs/bpf", "bpf", true)]);
        let text = "33 25 0:30 / /sys/fs/bpf rw,relatime - bpf bpf rw,errors=ro-not";
        assert_eq!(parse(text), [mount("/", "/sys/fs/bpf", "bpf", false)]);
    }

    #[test]
    fn escapes() {
        let check = |field: &str, expected: &[u8]| {
            assert_eq!(unescape(field).as_os_str(), OsStr::from_bytes(expected), "{field}");
        };
        check("/plain", b"/plain");
        check(r"/with\040space", b"/with space");
        check(r"\011\012\134\043", b"\t\n\\#");
        check(r"/a\134040b", br"/a\040b");
        check(r"/high\303\251", "/highé".as_bytes());
        // Not escapes of the kernel: kept as they are.
        check(r"/a\04", br"/a\04");
        check(r"/a\48", br"/a\48");
        check(r"/a\777", br"/a\777");
        check(r"\", br"\");
        let text = r"41 31 0:38 /a\040b /mnt/c\040group\134v2 rw - cgroup2 none rw";
        assert_eq!(parse(text), [mount("/a b", r"/mnt/c group\v2", "cgroup2", false)]);
    }

    #[test]
    fn other_lines_are_left_out() {
        let check = |line: &str| assert_eq!(parse(line), [], "{line:?}");
        check("");
        check("nonsense");
        check("41 31 0:38 / /point rw,relatime cgroup2 cgroup2 rw");
        check("41 31 0:38 / - cgroup2 cgroup2 rw");
        check("41 31 0:38 / /point rw - cgroup2");
    }
}
