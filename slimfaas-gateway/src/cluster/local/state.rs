//! The state directory of one manifest: whose it is, that only one `up` uses it, and which processes it runs.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use super::procfs;

const MARKER: &str = ".slimfaas-local.json";
const MARKER_SCHEMA: u32 = 2;
const LOCK: &str = "lock";
/// One file per running process: named by its pid, which is its group's too, holding its start time.
const CHILDREN: &str = "children";

/// Given to every process, so that what a process left behind is known as ours.
pub(super) const STATE_VARIABLE: &str = "SLIMFAAS_LOCAL_STATE";

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("state directory {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("state directory {0} is in use by another `slimfaas local up`; stop that one, or choose another name")]
    InUse(PathBuf),
    #[error("state directory {0} is not empty and has no {MARKER}; choose another state.directory")]
    NotOurs(PathBuf),
    #[error("state directory {path} belongs to {found}, not to {wanted}; use --clean to start anew")]
    Different { path: PathBuf, found: String, wanted: String },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    schema: u32,
    name: String,
    nodes: u32,
}

impl Marker {
    fn describe(&self) -> String {
        format!("manifest {:?} with {} node(s), schema {}", self.name, self.nodes, self.schema)
    }
}

/// Held for as long as `up` runs; the lock goes with the process, however that ends.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    persistent: bool,
    lock: File,
}

impl StateDirectory {
    /// Takes the directory for this process and ends what a killed former one left running.
    /// With `clean`, what is in it goes first; a directory that is not ours is never touched.
    pub fn open(manifest: &Manifest, clean: bool) -> Result<Self, StateError> {
        let path = std::path::absolute(&manifest.state.directory).unwrap_or(manifest.state.directory.clone());
        let io = |source| StateError::Io { path: path.clone(), source };
        fs::create_dir_all(&path).map_err(io)?;
        let marker = fs::read(path.join(MARKER)).ok();
        let only_a_lock = |path: &Path| {
            let mut names = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name()));
            names.try_fold(true, |only, name| Ok(only && name? == LOCK))
        };
        if marker.is_none() && !only_a_lock(&path).map_err(io)? {
            return Err(StateError::NotOurs(path));
        }
        let lock = File::options().create(true).append(true).open(path.join(LOCK)).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse(path)),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let directory = Self { path: path.clone(), persistent: manifest.state.persistent, lock };
        let ended = directory.end_stale_processes();
        if ended > 0 {
            tracing::warn!(processes = ended, "ended processes that a former run had left");
        }
        if clean || !directory.persistent {
            directory.empty().map_err(io)?;
        }
        directory.claim(&Marker {
            schema: MARKER_SCHEMA,
            name: manifest.name.clone(),
            nodes: u32::from(manifest.nodes),
        })?;
        fs::create_dir_all(path.join(CHILDREN)).map_err(io)?;
        Ok(directory)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn claim(&self, wanted: &Marker) -> Result<(), StateError> {
        let file = self.path.join(MARKER);
        let io = |source| StateError::Io { path: file.clone(), source };
        match fs::read(&file) {
            Ok(bytes) => {
                let found: Option<Marker> = serde_json::from_slice(&bytes).ok();
                if found.as_ref() == Some(wanted) {
                    return Ok(());
                }
                let found = found.map_or_else(|| "an unreadable marker".to_owned(), |found| found.describe());
                Err(StateError::Different { path: self.path.clone(), found, wanted: wanted.describe() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let bytes = serde_json::to_vec_pretty(wanted).expect("a marker is plain data");
                fs::write(&file, bytes).map_err(io)
            }
            Err(error) => Err(io(error)),
        }
    }

    /// Removes everything but the lock.
    fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() == LOCK {
                continue;
            }
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
        }
        Ok(())
    }

    /// Takes note of a process that was just started.
    pub(super) fn record(&self, pid: Pid) {
        let raw = pid.as_raw_nonzero().get();
        let start = procfs::stat(raw).map_or(0, |stat| stat.start);
        if let Err(error) = fs::write(self.child_file(raw), start.to_string()) {
            tracing::warn!(%error, "cannot take note of a process: it would survive a kill -9 of this one");
        }
    }

    /// Its group is gone.
    pub(super) fn forget(&self, pid: Pid) {
        // What stays is harmless: its process is not found any more.
        fs::remove_file(self.child_file(pid.as_raw_nonzero().get())).ok();
    }

    fn child_file(&self, pid: i32) -> PathBuf {
        self.path.join(CHILDREN).join(pid.to_string())
    }

    /// Kills the groups of recorded processes; answers how many there were. A pid that is somebody else's by now has
    /// another start time; what a dead leader left in its group is known by its environment.
    fn end_stale_processes(&self) -> usize {
        let mut ended = 0;
        for entry in fs::read_dir(self.path.join(CHILDREN)).into_iter().flatten().flatten() {
            let recorded: Option<i32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let start: Option<u64> = fs::read_to_string(entry.path()).ok().and_then(|text| text.parse().ok());
            if let (Some(group), Some(start)) = (recorded, start) {
                let state = self.path.display().to_string();
                let is_ours = |stat: &procfs::Stat| {
                    stat.group == group
                        && ((stat.pid == group && stat.start == start)
                            || procfs::has_variable(stat.pid, STATE_VARIABLE, &state))
                };
                let leader = Pid::from_raw(group).filter(|_| procfs::all().any(|stat| is_ours(&stat)));
                ended += usize::from(leader.is_some_and(|group| kill_process_group(group, Signal::KILL).is_ok()));
            }
            fs::remove_file(entry.path()).ok();
        }
        ended
    }
}

impl Drop for StateDirectory {
    fn drop(&mut self) {
        if !self.persistent {
            // The lock file stays: removing it would let two others lock two files of one name.
            self.empty().ok();
        }
        // Not left to the closing: a process that is being started has a copy of the file until it runs its program.
        self.lock.unlock().ok();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;

    use super::*;

    struct Temporary(PathBuf);

    impl Drop for Temporary {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    fn temporary(name: &str) -> Temporary {
        let path = std::env::temp_dir().join(format!("slimfaas-state-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Temporary(path)
    }

    fn manifest(directory: &Path, name: &str, mode: &str) -> Manifest {
        let file = directory.join("m.yaml");
        fs::write(&file, format!("name: {name}\nstate: {{mode: {mode}}}\n")).unwrap();
        super::super::manifest::load(&[file], &[], &Default::default()).unwrap().0
    }

    #[test]
    fn two_cannot_share_it() {
        let temporary = temporary("lock");
        let manifest = manifest(&temporary.0, "a", "persistent");
        let first = StateDirectory::open(&manifest, false).unwrap();
        assert!(first.path().ends_with(".slimfaas/a"));
        assert!(matches!(StateDirectory::open(&manifest, true), Err(StateError::InUse(_))));
        drop(first);
        StateDirectory::open(&manifest, false).unwrap();
    }

    #[test]
    fn what_is_not_ours_is_not_touched() {
        let temporary = temporary("foreign");
        let manifest = manifest(&temporary.0, "a", "persistent");
        fs::create_dir_all(&manifest.state.directory).unwrap();
        fs::write(manifest.state.directory.join("thesis.txt"), "x").unwrap();
        for clean in [false, true] {
            assert!(matches!(StateDirectory::open(&manifest, clean), Err(StateError::NotOurs(_))));
        }
        assert!(manifest.state.directory.join("thesis.txt").is_file());
        assert!(!manifest.state.directory.join(LOCK).is_file());
    }

    #[test]
    fn clean_and_ephemeral_start_anew() {
        let temporary = temporary("clean");
        let manifest_a = manifest(&temporary.0, "a", "persistent");
        let kept = manifest_a.state.directory.join("kept");
        drop(StateDirectory::open(&manifest_a, false).unwrap());
        fs::write(&kept, "x").unwrap();
        drop(StateDirectory::open(&manifest_a, false).unwrap());
        assert!(kept.is_file());
        fs::write(manifest_a.state.directory.join(MARKER), r#"{"schema":2,"name":"a","nodes":3}"#).unwrap();
        assert!(matches!(StateDirectory::open(&manifest_a, false), Err(StateError::Different { .. })));
        drop(StateDirectory::open(&manifest_a, true).unwrap());
        assert!(!kept.is_file());
        fs::write(&kept, "x").unwrap();
        drop(StateDirectory::open(&manifest(&temporary.0, "a", "ephemeral"), false).unwrap());
        assert!(!kept.is_file());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn processes_that_a_killed_run_left_are_ended() {
        let temporary = temporary("stale");
        let manifest = manifest(&temporary.0, "a", "persistent");
        let directory = StateDirectory::open(&manifest, false).unwrap();
        let sleep = || Command::new("/bin/sh").args(["-c", "sleep 60 & wait"]).process_group(0).spawn().unwrap();
        let (mut ours, mut others) = (sleep(), sleep());
        let pid = |child: &std::process::Child| Pid::from_raw(child.id().cast_signed()).unwrap();
        directory.record(pid(&ours));
        // The pid of another process, as if it were used again.
        fs::write(directory.child_file(pid(&others).as_raw_nonzero().get()), "1").unwrap();
        drop(directory);
        StateDirectory::open(&manifest, false).unwrap();
        assert_eq!(ours.wait().unwrap().signal(), Some(9));
        assert!(others.try_wait().unwrap().is_none());
        kill_process_group(pid(&others), Signal::KILL).unwrap();
        others.wait().unwrap();
    }
}
