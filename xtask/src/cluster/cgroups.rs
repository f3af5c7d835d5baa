//! The cluster's control groups. The kernel puts every child of a member into its parent's group, so the tree below
//! [`NAME`] of the version 2 hierarchy holds every process of the cluster and no other, whatever was killed when.
//!
//! A machine may have version 2 alone, or beside hierarchies of version 1 ("hybrid"), where the controllers are; the
//! kubelet wants its root group in each of them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::plan::{NAME, Node};
use crate::process::POLL;

/// For killed processes to be gone: the kernel may have to write back what they had open.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    folder: PathBuf,
    is_v2: bool,
}

/// The hierarchies of `/proc/self/mountinfo`: `id parent device root folder options… - type source options`.
fn parse_hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let parse = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let is_v2 = match kind.split(' ').next()? {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        Some(Hierarchy { folder: place.split(' ').nth(4)?.into(), is_v2 })
    };
    mountinfo.lines().filter_map(parse).collect()
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    Ok(parse_hierarchies(&mountinfo))
}

/// The cluster's group in the version 2 hierarchy.
pub(crate) fn tracking_group() -> Result<PathBuf> {
    let v2 = hierarchies()?.into_iter().find(|hierarchy| hierarchy.is_v2);
    let v2 = v2.context("no cgroup version 2 is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")?;
    Ok(v2.folder.join(NAME))
}

/// Where the control plane's and the nodes' own processes are; containers are below the nodes' groups.
pub(crate) fn system_group() -> Result<PathBuf> {
    Ok(tracking_group()?.join("system"))
}

/// The kubelet's root group, as it names it: below every hierarchy.
pub(crate) fn node_group(node: Node) -> String {
    format!("/{NAME}/{}", node.name())
}

/// Fails, saying why, where no groups can be made. It tries with a group of this process alone.
pub(crate) fn check() -> Result<()> {
    let trial = tracking_group()?.with_file_name(format!("{NAME}-trial-{}", std::process::id()));
    fs::create_dir(&trial).with_context(|| format!("control groups are needed: cannot create {}", trial.display()))?;
    let can_kill = trial.join("cgroup.kill").is_file();
    remove_tree(&trial)?;
    ensure!(can_kill, "the kernel cannot kill a control group: Linux 5.14 or newer is needed");
    Ok(())
}

pub(crate) fn create(nodes: impl Iterator<Item = Node> + Clone) -> Result<()> {
    for hierarchy in hierarchies()? {
        let top = hierarchy.folder.join(NAME);
        fs::create_dir_all(&top).with_context(|| format!("cannot create {}", top.display()))?;
        if hierarchy.is_v2 {
            hand_down_controllers(&hierarchy.folder);
            hand_down_controllers(&top);
            fs::create_dir_all(top.join("system"))?;
        }
        for node in nodes.clone() {
            fs::create_dir_all(top.join(node.name()))?;
        }
    }
    Ok(())
}

/// Lets groups below `folder` use what controllers it has. Where one refuses, the kubelet says what it misses.
fn hand_down_controllers(folder: &Path) {
    let controllers = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        let _refused = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Ids of all processes of the cluster.
pub(crate) fn members() -> Result<Vec<u32>> {
    let mut found = Vec::new();
    collect_members(&tracking_group()?, &mut found);
    found.sort_unstable();
    Ok(found)
}

fn collect_members(group: &Path, found: &mut Vec<u32>) {
    // A group that is gone has no members.
    let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    found.extend(listed.lines().filter_map(|line| line.parse::<u32>().ok()));
    for below in subgroups(group) {
        collect_members(&below, found);
    }
}

fn subgroups(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Kills all processes of the cluster, the containers before what runs them, and waits until they are gone.
pub(crate) fn kill_all() -> Result<()> {
    let top = tracking_group()?;
    let is_node = |path: &PathBuf| path.file_name().is_some_and(|name| name != "system");
    for group in subgroups(&top).into_iter().filter(is_node).chain([top.clone()]) {
        match fs::write(group.join("cgroup.kill"), "1") {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot kill the processes in {}", group.display()));
            }
            _ => {}
        }
    }
    let deadline = Instant::now() + KILL_TIMEOUT;
    while !members()?.is_empty() {
        if Instant::now() > deadline {
            bail!("killed processes do not end: {:?}", members()?);
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Removes the groups of all hierarchies. Their processes must be gone.
pub(crate) fn remove() -> Result<()> {
    for group in left()? {
        remove_tree(&group)?;
    }
    Ok(())
}

fn remove_tree(group: &Path) -> Result<()> {
    for below in subgroups(group) {
        remove_tree(&below)?;
    }
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // The last process is listed no more, and yet its remains keep the group for a moment.
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(POLL);
            }
            done => return done.with_context(|| format!("cannot remove the control group {}", group.display())),
        }
    }
}

/// The cluster's group in each hierarchy that has one.
pub(crate) fn left() -> Result<Vec<PathBuf>> {
    let groups = hierarchies()?.into_iter().map(|hierarchy| hierarchy.folder.join(NAME));
    Ok(groups.filter(|group| group.is_dir()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_in_the_mount_table() {
        let mountinfo = "\
            22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            30 22 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n\
            32 30 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let expected = [("/sys/fs/cgroup/cpu", false), ("/sys/fs/cgroup/unified", true)];
        let expected = expected.map(|(folder, is_v2)| Hierarchy { folder: folder.into(), is_v2 });
        assert_eq!(parse_hierarchies(mountinfo), expected);
    }
}
