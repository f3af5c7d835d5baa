//! Child processes that never outlive us: each is ended by its own id when its guard drops, and by the kernel when we
//! die without dropping anything.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::{Pid, Signal};

/// For a process to end after SIGTERM, before SIGKILL: the gateway finishes running requests first.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks at a process that has no way to wake us.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// Arguments of the hidden command `bound`.
#[derive(Args)]
pub(crate) struct Bound {
    /// The process that must be our parent
    #[arg(long)]
    parent: i32,
    #[arg(last = true, required = true)]
    command: Vec<std::ffi::OsString>,
}

impl Bound {
    /// Asks the kernel for SIGTERM when the parent dies, then becomes the program. Returns only on failure.
    pub(crate) fn exec(&self) -> anyhow::Error {
        if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
            return anyhow::Error::new(error).context("cannot bind the process to its parent");
        }
        // The parent may have died before the call above: then nobody would ever signal us.
        if rustix::process::getppid().map(Pid::as_raw_pid) != Some(self.parent) {
            return anyhow::anyhow!("the parent is gone");
        }
        let error = Command::new(&self.command[0]).args(&self.command[1..]).exec();
        anyhow::Error::new(error).context(format!("cannot run {}", self.command[0].display()))
    }
}

/// A command that runs `program` bound to this process. Call it on a thread that lives as long as the child should.
pub(crate) fn bound(program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(own);
    command.arg("bound").arg("--parent").arg(std::process::id().to_string()).arg("--").arg(program);
    Ok(command)
}

/// A running process; dropping it ends it.
pub(crate) struct Running {
    name: String,
    child: Child,
}

impl Running {
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Fails when the process has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("cannot ask for the state of {}", self.name))? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself: {status}", self.name),
        }
    }

    /// Waits for the end that the process comes to by itself.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let deadline = Instant::now() + GRACE;
        terminate(self.child.id());
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // It may have ended since the look above, which is all that we want.
                let _ended = self.child.kill();
                let _reaped = self.child.wait();
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Asks a child of ours that was not waited for to end.
pub(crate) fn terminate(id: u32) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    if let Some(id) = id {
        // Only "no such process" is possible: it ended by itself.
        let _ended = rustix::process::kill_process(id, Signal::TERM);
    }
}

/// Set by Ctrl-C and SIGTERM once [`catch_interrupts`] was called.
fn interrupt_flag() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(Arc::default)
}

/// From now on Ctrl-C and SIGTERM end the work at its next look, so that guards clean up. A second Ctrl-C ends at once.
pub(crate) fn catch_interrupts() -> Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(interrupt_flag()))?;
        signal_hook::flag::register(signal, Arc::clone(interrupt_flag()))?;
    }
    Ok(())
}

pub(crate) fn interrupted() -> bool {
    interrupt_flag().load(Ordering::Relaxed)
}

/// Fails after Ctrl-C or SIGTERM.
pub(crate) fn check_interrupted() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}
