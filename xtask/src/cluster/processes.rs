//! The cluster's processes: started to outlive us, known by id *and* start time, so that an id that the kernel has
//! given to somebody else is never taken for ours.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};

use super::cgroups;
use super::state::State;
use crate::process::POLL;

/// For a process to have become the program that it was started as.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// For a killed process to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of the hidden command `cluster-process`.
#[derive(Args)]
pub(crate) struct Detached {
    /// The control group that the process and all its children belong to
    #[arg(long)]
    group: PathBuf,
    /// Where to write down which process this is
    #[arg(long)]
    record: PathBuf,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Detached {
    /// Leaves the session, enters the group, writes the record, then becomes the program. Returns only on failure.
    ///
    /// In this order: from its first moment on, the group knows the process, whoever is killed when.
    pub(crate) fn exec(&self) -> anyhow::Error {
        match self.prepare() {
            Ok(()) => {
                let error = Command::new(&self.command[0]).args(&self.command[1..]).exec();
                anyhow::Error::new(error).context(format!("cannot run {}", self.command[0].display()))
            }
            Err(error) => error,
        }
    }

    fn prepare(&self) -> Result<()> {
        rustix::process::setsid().context("cannot leave the session")?;
        let group = self.group.join("cgroup.procs");
        fs::write(&group, "0").with_context(|| format!("cannot enter {}", group.display()))?;
        let arguments = self.command.iter().map(|word| word.to_string_lossy().into_owned());
        let id = std::process::id();
        let start = start_time(id).context("cannot read this process's own start time")?;
        Process { id, start, command: arguments.collect() }.write(&self.record)
    }
}

/// One process of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) id: u32,
    /// In clock ticks after the machine's start: with the id, it is unique until the next start.
    start: u64,
    command: Vec<String>,
}

impl Process {
    fn write(&self, record: &Path) -> Result<()> {
        let partial = record.with_extension("partial");
        fs::write(&partial, json!({ "id": self.id, "start": self.start, "command": self.command }).to_string())?;
        fs::rename(&partial, record).with_context(|| format!("cannot write {}", record.display()))
    }

    fn read(record: &Path) -> Result<Self> {
        let text = fs::read_to_string(record).with_context(|| format!("cannot read {}", record.display()))?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", record.display()))?;
        let words = value["command"].as_array().into_iter().flatten();
        Ok(Self {
            id: value["id"].as_u64().and_then(|id| u32::try_from(id).ok()).context("a process has no id")?,
            start: value["start"].as_u64().context("a process has no start time")?,
            command: words.filter_map(|word| word.as_str().map(str::to_owned)).collect(),
        })
    }

    pub(crate) fn is_alive(&self) -> bool {
        start_time(self.id) == Some(self.start)
    }

    /// Asks the process to end, insists after `grace` (at once where that is zero), and waits until it has. That it has ended already is as good.
    pub(crate) fn end(&self, grace: Duration) -> Result<()> {
        let Some(handle) = self.handle()? else { return Ok(()) };
        let steps = [(Signal::TERM, grace), (Signal::KILL, KILL_TIMEOUT)];
        for (signal, wait) in steps.into_iter().filter(|(_, wait)| !wait.is_zero()) {
            match pidfd_send_signal(&handle, signal) {
                Err(rustix::io::Errno::SRCH) => return Ok(()),
                sent => sent.with_context(|| format!("cannot signal process {}", self.id))?,
            }
            if ends_within(&handle, wait)? {
                return Ok(());
            }
        }
        bail!("process {} does not end", self.id)
    }

    /// A handle of this very process, which no later one with the same id can take the place of.
    fn handle(&self) -> Result<Option<OwnedFd>> {
        let id = i32::try_from(self.id).ok().and_then(Pid::from_raw).context("a process id out of range")?;
        match pidfd_open(id, PidfdFlags::empty()) {
            // Looked at after it was opened: what has this start time now is what the handle is of.
            Ok(handle) => Ok(self.is_alive().then_some(handle)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot open process {}", self.id)),
        }
    }
}

fn ends_within(handle: &OwnedFd, time: Duration) -> Result<bool> {
    let time = Timespec::try_from(time).context("a wait out of range")?;
    let mut handles = [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)];
    Ok(poll(&mut handles, Some(&time)).context("cannot wait for a process")? > 0)
}

/// When process `id` started; `None` when there is none, or only its remains that nobody has collected.
fn start_time(id: u32) -> Option<u64> {
    parse_start_time(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// Reads `/proc/ID/stat`: `id (name, which may hold blanks and brackets) state parent …`, the 22nd being the start.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Starts `command` as the cluster's process `name`, its output in a log of that name.
pub(crate) fn start(state: &State, name: &str, command: &[String]) -> Result<Process> {
    let log = log_file(state, name);
    let output = File::options().create(true).append(true).open(&log);
    let output = output.with_context(|| format!("cannot open {}", log.display()))?;
    let record = record_file(state, name);
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let mut child = Command::new(own)
        .arg("cluster-process")
        .arg("--group")
        .arg(cgroups::system_group()?)
        .arg("--record")
        .arg(&record)
        .arg("--")
        .args(command)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        // The record of this process, not of one with this name that was stopped.
        if let Ok(process) = Process::read(&record)
            && process.id == child.id()
        {
            return Ok(process);
        }
        let ended = child.try_wait().with_context(|| format!("cannot ask for the state of {name}"))?;
        ensure!(ended.is_none() && Instant::now() < deadline, "{name} did not start: {}", last_lines(state, name));
        std::thread::sleep(POLL);
    }
}

/// Starts the process `name` again with the command that it had.
pub(crate) fn restart(state: &State, name: &str) -> Result<Process> {
    let old = find(state, name)?;
    ensure!(!old.is_alive(), "{name} runs already");
    start(state, name, &old.command)
}

pub(crate) fn find(state: &State, name: &str) -> Result<Process> {
    let known: Vec<String> = all(state)?.into_iter().map(|(name, _)| name).collect();
    ensure!(known.iter().any(|known| known == name), "no process {name}: there is {}", known.join(", "));
    Process::read(&record_file(state, name))
}

/// Every process that was started, by name.
pub(crate) fn all(state: &State) -> Result<Vec<(String, Process)>> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(state.processes()) else { return Ok(found) };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            found.push((name.unwrap_or_default(), Process::read(&path)?));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn record_file(state: &State, name: &str) -> PathBuf {
    state.processes().join(format!("{name}.json"))
}

pub(crate) fn log_file(state: &State, name: &str) -> PathBuf {
    state.logs().join(format!("{name}.log"))
}

/// The end of a process's log: why it failed, most often.
pub(crate) fn last_lines(state: &State, name: &str) -> String {
    let text = fs::read(log_file(state, name)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n  ")
}

/// Memory that process `id` holds, in bytes.
pub(crate) fn resident_bytes(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_read_behind_any_name() {
        let stat = |name: &str, state: &str| {
            format!("42 ({name}) {state} 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1000 10 1\n")
        };
        assert_eq!(parse_start_time(&stat("etcd", "S")), Some(98_765));
        assert_eq!(parse_start_time(&stat("a) R 1 2 (b", "S")), Some(98_765));
        assert_eq!(parse_start_time(&stat("etcd", "Z")), None);
        assert_eq!(parse_start_time("42 (etcd"), None);
    }

    fn sleeper() -> (std::process::Child, Process) {
        let child = Command::new("sleep").arg("60").spawn().expect("sleep can be started");
        let start = start_time(child.id()).expect("it runs");
        let process = Process { id: child.id(), start, command: vec!["sleep".into(), "60".into()] };
        (child, process)
    }

    #[test]
    fn a_process_is_ended_and_seen_to_have() {
        let (mut child, process) = sleeper();
        assert!(process.is_alive());
        process.end(START_TIMEOUT).expect("it can be ended");
        assert!(!process.is_alive());
        process.end(START_TIMEOUT).expect("that it has ended is as good");
        child.wait().expect("it is our child");
    }

    #[test]
    fn another_process_with_the_same_id_is_left_alone() {
        let (mut child, process) = sleeper();
        let former = Process { start: process.start - 1, ..process.clone() };
        assert!(!former.is_alive());
        former.end(Duration::ZERO).expect("it is long gone");
        assert!(process.is_alive());
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
    }
}
