//! What the kernel refused, and why as far as that can be told.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

use crate::agent::pins::PinsError;

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("cannot load the object of kernel programs: {0}{hint}", hint = hint(.0))]
    Load(#[source] Box<EbpfError>),
    #[error("cannot {doing} the program {name}: {source}{hint}", hint = hint(.source))]
    Program { name: &'static str, doing: &'static str, source: Box<ProgramError> },
    #[error("cannot {doing} the program {name}: {source}{hint}", hint = hint(.source))]
    Link { name: &'static str, doing: &'static str, source: io::Error },
    #[error("the object of kernel programs has no {0}: it is of another version than this agent")]
    Missing(&'static str),
    #[error("cannot use the map {name}: {source}{hint}", hint = hint(.source))]
    Map { name: &'static str, source: Box<MapError> },
    #[error("the map {name} takes no more: {source}")]
    Full { name: &'static str, source: Box<MapError> },
    #[error("cannot use the cgroup {path}: {source}")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("cannot read what the programs say: {0}")]
    Log(String),
    #[error(transparent)]
    Pins(#[from] PinsError),
}

impl KernelError {
    /// Of a cgroup that goes away meanwhile nothing is wanted any more.
    pub(super) fn unless_gone(self) -> Result<(), Self> {
        match &self {
            Self::Cgroup { source, .. } if source.kind() == io::ErrorKind::NotFound => Ok(()),
            Self::Link { source, .. } if source.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            _ => Err(self),
        }
    }

    pub(super) fn load(source: EbpfError) -> Self {
        Self::Load(Box::new(source))
    }

    pub(super) fn program(name: &'static str, doing: &'static str, source: ProgramError) -> Self {
        Self::Program { name, doing, source: Box::new(source) }
    }

    pub(super) fn map(name: &'static str, source: MapError) -> Self {
        const E2BIG: i32 = 7;
        let full = os_error(&source) == Some(E2BIG);
        let source = Box::new(source);
        if full { Self::Full { name, source } } else { Self::Map { name, source } }
    }
}

/// The system call's error at the bottom.
fn os_error(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(code);
        }
        next = error.source();
    }
    None
}

fn hint(error: &(dyn Error + 'static)) -> &'static str {
    const EPERM: i32 = 1;
    const EACCES: i32 = 13;
    const EINVAL: i32 = 22;
    match os_error(error) {
        Some(EPERM) => " (check CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, a seccomp profile and kernel lockdown)",
        Some(EACCES) => " (the verifier refuses it: check CAP_PERFMON, then report this kernel's version)",
        Some(EINVAL) => " (the kernel lacks something that the programs use: see `slimfaas-agent check`)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_found_below_and_explained() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let check = |code: i32, expected: &str| {
            let error = Outer(io::Error::from_raw_os_error(code));
            assert_eq!(os_error(&error), Some(code));
            assert!(hint(&error).contains(expected), "{code}");
        };
        check(1, "CAP_BPF");
        check(13, "verifier");
        check(22, "slimfaas-agent check");
        assert_eq!(hint(&Outer(io::Error::from_raw_os_error(2))), "");
        assert_eq!(os_error(&Outer(io::Error::other("x"))), None);
    }
}
