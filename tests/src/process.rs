//! Processes of a test: their output is kept, and they are ended by their own id when the test is over.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// For a server to accept connections.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at something that has no way to wake us.
const POLL: Duration = Duration::from_millis(10);

/// A loopback address that was free a moment ago.
///
/// # Errors
/// When the machine has no free port.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot bind a loopback port")?;
    Ok(listener.local_addr()?)
}

/// A folder of one test alone, removed when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("slimfaas-{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing of a test depends on it, and a second panic would hide the first.
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

/// A server that listens on `address`. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command`, with its output in `folder`, and waits until it accepts connections on `address`.
    ///
    /// # Errors
    /// When it ends, or does not listen in time; the message holds its output.
    pub fn start(name: &str, command: &mut Command, address: SocketAddr, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let mut server = Self { address, name: name.to_owned(), child, log };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).is_err() {
            server.check_alive()?;
            ensure!(Instant::now() < deadline, "{name} does not listen on {address}: {}", server.output());
            std::thread::sleep(POLL);
        }
        Ok(server)
    }

    /// # Errors
    /// When the process has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        let ended = self.child.try_wait().with_context(|| format!("cannot ask for the state of {}", self.name))?;
        ensure!(ended.is_none(), "{} ended by itself ({ended:?}): {}", self.name, self.output());
        Ok(())
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the process to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// When it takes longer than `timeout`.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(timeout)
    }

    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// `kill -9`: at once, also while it is stopped.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for the end that the process comes to by itself.
    ///
    /// # Errors
    /// When it takes longer than `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "{} does not end: {}", self.name, self.output());
            std::thread::sleep(POLL);
        }
    }

    /// All that the process has said so far.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which is all that we want.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Runs `command` to its end, within `timeout`, and returns whether it succeeded and all that it said.
///
/// # Errors
/// When it cannot be run or takes longer; then it is killed.
pub fn run(name: &str, command: &mut Command, timeout: Duration, folder: &Path) -> Result<(bool, String)> {
    let log = folder.join(format!("{name}.log"));
    let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let deadline = Instant::now() + timeout;
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("cannot wait for {name}"))? {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(POLL);
    };
    let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let status = status.with_context(|| format!("{name} takes longer than {} s: {text}", timeout.as_secs()))?;
    Ok((status.success(), text))
}
