//! The operating system's wish that we end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM (Kubernetes) and SIGINT (Ctrl-C).
pub struct Termination {
    terminate: Signal,
    interrupt: Signal,
}

impl Termination {
    /// Replaces the default action of both signals. Needs a runtime with I/O.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one.
    pub async fn wait(&mut self) -> &'static str {
        tokio::select! {
            biased; // either ends the process: the order only decides which name is logged
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
