//! `slimfaas local-child`: becomes the process of a replica, and sees to it that this dies with the gateway.
//!
//! The kernel can end a process when its parent ends, but only the process itself can ask for that. So the gateway
//! starts itself with this subcommand, which asks and then is replaced by the real program.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Name of the subcommand: `slimfaas local-child <pid of the gateway> <program> [arguments…]`.
pub const SUBCOMMAND: &str = "local-child";

/// Becomes `command`; returns only when that fails. `parent` is the gateway that started this process.
pub fn become_command(parent: u32, command: &[OsString]) -> io::Error {
    let Some((program, arguments)) = command.split_first() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "no program is named");
    };
    if let Err(error) = die_with(parent) {
        return error;
    }
    let error = Command::new(program).args(arguments).exec();
    io::Error::new(error.kind(), format!("{}: {error}", program.display()))
}

#[cfg(target_os = "linux")]
fn die_with(parent: u32) -> io::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before the line above.
    let is_alive = getppid().is_some_and(|pid| pid.as_raw_nonzero().get().cast_unsigned() == parent);
    if is_alive { Ok(()) } else { Err(io::Error::other("the gateway has ended")) }
}

/// There is no such request: the next `up` ends what a killed one left.
#[cfg(not(target_os = "linux"))]
fn die_with(_parent: u32) -> io::Result<()> {
    Ok(())
}
