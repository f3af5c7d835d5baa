//! A node whose disk is full: a small file system of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::mount::{UnmountFlags, unmount};
use slimfaas_tests::process::{Scratch, run};
use slimfaas_tests::report::line;
use slimfaas_tests::require::skip_or_fail;

use super::client::eventually;
use super::history::{Call, Event};
use super::namespaces::reason_against;
use super::scenario::{SUITE, Scenario};

const DISK_BYTES: u64 = 640 << 20;
/// Left free by the file that takes the rest.
const ROOM_BYTES: u64 = 8 << 20;
/// What a gateway keeps free where nobody says otherwise.
const RESERVE_BYTES: u64 = 256 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);

/// A file system in a file. Unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(image: &Path, at: &Path, scratch: &Path) -> Result<Self> {
        std::fs::File::create(image)?.set_len(DISK_BYTES)?;
        let tool = |name: &str, arguments: &[&std::ffi::OsStr]| -> Result<()> {
            let mut command = Command::new(name);
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{path}:/usr/sbin:/sbin")).args(arguments);
            let (good, said) = run(name, &mut command, TIMEOUT, scratch)?;
            ensure!(good, "{name} failed: {said}");
            Ok(())
        };
        // No room is kept for root, which these tests run as.
        tool("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), "-m".as_ref(), "0".as_ref(), image.as_ref()])?;
        std::fs::create_dir_all(at)?;
        tool("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), at.as_ref()])?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process that still has files in it keeps it alive, and nobody else sees it any more.
        let _unmounted = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_ends_its_node_and_nothing_else() -> Result<()> {
    const NAME: &str = "a_full_disk_ends_its_node_and_nothing_else";
    if let Some(reason) = reason_against() {
        skip_or_fail(SUITE, NAME, reason);
        return Ok(());
    }
    let mut scenario = Scenario::on_loopback("full-disk")?;
    let scratch = Scratch::new("disk")?;
    // It founds the cluster, so it is the first to lead.
    let folder = scenario.cluster.nodes[0].folder.clone();
    let disk = match SmallDisk::mount(&scratch.path().join("image"), &folder, scratch.path()) {
        Ok(disk) => disk,
        Err(error) => {
            skip_or_fail(SUITE, NAME, format_args!("cannot mount a small file system: {error:#}"));
            return Ok(());
        }
    };
    // Else it refuses calls long before, as below; what the others accept fills it all the same.
    scenario.cluster.nodes[0].environment = vec![("SlimFaas__Queue__DiskReserveBytes".to_owned(), "0".to_owned())];
    scenario.cluster.start_all()?;
    scenario.load(4096);
    std::thread::sleep(Duration::from_secs(2));
    let ballast = folder.join("ballast");
    fill(&ballast, ROOM_BYTES)?;
    let leads = scenario.cluster.leader()? == 0;
    scenario.disturb(0, "disk full");
    let (failed, said) = scenario.cluster.nodes[0].wait_for_its_end(Duration::from_secs(60))?;
    scenario.remark(0, "ended");
    let says_so = said.lines().find(|line| line.contains("ERROR") && line.contains("No space left on device"));
    ensure!(failed, "the node with a full disk ends as if all were well: {said}");
    let Some(says_so) = says_so else { anyhow::bail!("the log does not name the full disk: {said}") };
    line(format_args!("crash/full-disk: (leader: {leads}) {}", says_so.trim()));
    // Restarted as it would be, again and again: it may end at once, or later, but must not take its file for damaged.
    for _ in 0..3 {
        scenario.remark(0, "start, still without room");
        let _ended_before_it_listened = scenario.cluster.start(0);
        std::thread::sleep(Duration::from_secs(1));
        scenario.disturb(0, "kill -9");
        scenario.cluster.kill(0)?;
    }
    ensure!(!folder.join("store.redb.damaged").exists(), "a full disk was taken for damage");
    std::fs::remove_file(&ballast)?;
    scenario.cluster.nodes[0].environment.clear();
    scenario.start_again(0)?;
    scenario.cluster.wait_until_whole()?;
    refuses_in_time(&scenario, &ballast)?;
    let finished = scenario.finish();
    drop(disk);
    finished.map(drop)
}

/// A node whose disk is nearly full says so to clients (507) until there is room.
fn refuses_in_time(scenario: &Scenario, ballast: &Path) -> Result<()> {
    let answered = |status: u16, since: u64| {
        let is_it = |event: &Event| {
            let from_it = event.note.as_deref() == Some("node-0");
            event.at > since && event.call == Call::Enqueue && event.status == Some(status) && from_it
        };
        Ok(scenario.history.events().iter().any(is_it).then_some(()))
    };
    fill(ballast, RESERVE_BYTES / 2)?;
    let full = scenario.remark(0, "nearly full");
    eventually("a 507", TIMEOUT, || answered(507, full))?;
    std::fs::remove_file(ballast)?;
    let room = scenario.remark(0, "room");
    eventually("accepted by the node with room again", TIMEOUT, || answered(202, room))
}

/// Takes the disk's room but for so many bytes.
fn fill(ballast: &Path, room: u64) -> Result<()> {
    let file = std::fs::File::create(ballast)?;
    let free = rustix::fs::fstatvfs(&file)?;
    let bytes = (free.f_bavail * free.f_frsize).saturating_sub(room);
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
    Ok(())
}
