//! Which cgroups are pods', by the names that kubelets give them: `…pod<UID>…` below a `…kubepods…`, whatever driver
//! they use and however deep they are.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::knowledge::{CgroupId, Found, PodCgroup};

/// Levels below the root at which what holds a kubelet's pods is looked for: it is at the first, and at some more where
/// a node runs in a container or a kubelet has a root of its own.
const PARENT_LEVELS: u32 = 5;
/// Levels below it at which a pod is: one for its class of service, which has two with systemd.
const POD_LEVELS: u32 = 3;
/// `0f3d1c9e-…` with its hyphens.
const UID_LEN: usize = 36;

/// Looks through the hierarchy below `root`. What goes away meanwhile is left out.
pub fn find(root: &Path) -> io::Result<Found> {
    let mut found = Found { root: fs::metadata(root)?.ino(), ..Found::default() };
    find_parents(root, PARENT_LEVELS, &mut found);
    Ok(found)
}

fn find_parents(folder: &Path, levels: u32, found: &mut Found) {
    for (path, name, id) in children(folder) {
        if is_parent(&name) {
            found.parents.insert(id);
            find_pods(&path, POD_LEVELS, found);
        } else if levels > 1 && !name.ends_with(".service") && !name.ends_with(".scope") {
            find_parents(&path, levels - 1, found);
        }
    }
}

fn find_pods(folder: &Path, levels: u32, found: &mut Found) {
    for (path, name, id) in children(folder) {
        match pod_uid(&name) {
            Some(uid) => _ = found.pods.insert(uid.into(), PodCgroup { id, path }),
            None if levels > 1 => find_pods(&path, levels - 1, found),
            None => {}
        }
    }
}

fn children(folder: &Path) -> impl Iterator<Item = (PathBuf, String, CgroupId)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let name = entry.file_name().into_string().ok().filter(|_| is_folder)?;
        Some((entry.path(), name, entry.metadata().ok()?.ino()))
    })
}

/// `kubepods` (cgroupfs), `kubepods.slice` (systemd), `kubelet-kubepods.slice` (kind).
fn is_parent(name: &str) -> bool {
    let plain = name.strip_suffix(".slice").unwrap_or(name);
    plain == "kubepods" || plain.ends_with("-kubepods")
}

/// Of `pod<UID>` (cgroupfs) and `kubepods-burstable-pod<UID>.slice` (systemd, which has no hyphens to spare).
fn pod_uid(name: &str) -> Option<String> {
    let plain = name.strip_suffix(".slice").unwrap_or(name);
    let start = plain.len().checked_sub(UID_LEN)?;
    let (before, uid) = (plain.get(..start)?, plain.get(start..)?);
    let is_named = before == "pod" || before.ends_with("-pod");
    let uid = uid.replace('_', "-");
    let is_uid = uid.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    (is_named && is_uid).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f3d1c9e-8a55-4b1e-9f3e-6f2b8d7c4a10";

    #[test]
    fn pods_are_known_by_their_names() {
        let check = |name: &str, expected: Option<&str>| {
            assert_eq!(pod_uid(name).as_deref(), expected, "{name}");
        };
        check("pod0f3d1c9e-8a55-4b1e-9f3e-6f2b8d7c4a10", Some(UID));
        check("kubepods-burstable-pod0f3d1c9e_8a55_4b1e_9f3e_6f2b8d7c4a10.slice", Some(UID));
        check("kubepods-pod0f3d1c9e_8a55_4b1e_9f3e_6f2b8d7c4a10.slice", Some(UID));
        check("tripod0f3d1c9e-8a55-4b1e-9f3e-6f2b8d7c4a10", None);
        check("pod0f3d1c9e-8a55-4b1e-9f3e-6f2b8d7c4a1", None);
        check("pod0f3d1c9e-8a55-4b1e-9f3e-6f2b8d7c4a1g", None);
        check("podé", None);
        check("burstable", None);
    }

    #[test]
    fn parents_are_known_by_their_names() {
        for name in ["kubepods", "kubepods.slice", "kubelet-kubepods.slice", "kubelet-kubepods"] {
            assert!(is_parent(name), "{name}");
        }
        for name in ["kubepods-burstable.slice", "kubepods.service", "xkubepods", "system.slice", ""] {
            assert!(!is_parent(name), "{name}");
        }
    }

    #[test]
    fn a_hierarchy_is_looked_through() {
        let folder = tempfile::tempdir().expect("a folder");
        let make_pod = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(&path).expect("a folder");
            PodCgroup { id: fs::metadata(&path).expect("it is there").ino(), path }
        };
        let make = |path: &str| make_pod(path).id;
        let other = "11111111-2222-3333-4444-555555555555";
        make(&format!("kubepods/burstable/pod{UID}/c1"));
        let pod = make_pod(&format!("kubepods/burstable/pod{UID}"));
        let nested = make_pod(&format!(
            "node.slice/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/\
             kubelet-kubepods-besteffort-pod{}.slice",
            other.replace('-', "_")
        ));
        make(&format!("system.slice/pod{UID}"));
        let found = find(folder.path()).expect("a hierarchy");
        assert_eq!(found.root, make(""));
        assert_eq!(found.parents, [make("kubepods"), make("node.slice/kubelet.slice/kubelet-kubepods.slice")].into());
        assert_eq!(found.pods, [(UID.into(), pod), (other.into(), nested)].into());
        assert!(find(&folder.path().join("nowhere")).is_err());
    }
}
