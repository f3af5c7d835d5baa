//! What kernel programs say that were built with `cargo xtask build-ebpf --log`, as lines of the agent's own log.

use aya::Ebpf;
use aya_log::{EbpfLogger, Error};
use log::{Log, Metadata, Record};

use super::KernelError;

pub(super) struct ProgramLog(EbpfLogger<Lines>);

impl ProgramLog {
    /// `None`: these programs say nothing.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Option<Self>, KernelError> {
        match EbpfLogger::init_with_logger(ebpf, Lines) {
            Ok(logger) => Ok(Some(Self(logger))),
            Err(Error::MapNotFound) => Ok(None),
            Err(error) => Err(KernelError::Log(error.to_string())),
        }
    }

    /// What was said since the last time. Of too much at once the programs drop the rest.
    pub(super) fn print(&mut self) {
        self.0.flush();
    }
}

struct Lines;

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::info!(program = record.target(), "{}", record.args());
    }

    fn flush(&self) {}
}
