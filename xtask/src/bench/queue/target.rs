//! What the benchmark stores into. Each is told to have everything on its disks before it answers.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;

use super::{nats, redis};
use crate::bench::gateways::{Gateways, function, silent_function};
use crate::bench::loopback;
use crate::process::Running;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    Gateway,
    /// NATS JetStream, file storage, `sync_interval: always`
    Nats,
    /// The same, with one connection to each node that all callers share, as NATS' own clients have it
    NatsShared,
    /// Redis Streams, `appendfsync always`
    Redis,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Nats => "nats",
            Self::NatsShared => "nats, shared",
            Self::Redis => "redis",
        }
    }
}

/// Programs that are there.
pub(crate) struct Programs {
    pub(crate) gateway: PathBuf,
    pub(crate) nats: Option<PathBuf>,
    pub(crate) redis: Option<PathBuf>,
}

/// Running nodes of one kind, and how to store into them. Dropping it ends them.
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) running: Vec<Running>,
    /// Where callers connect, taking turns.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Arguments of the load.
    pub(crate) dialect: &'static str,
    pub(crate) path: &'static str,
    pub(crate) status: u16,
    /// The function that never answers, which has to be there.
    _silent: Option<TcpListener>,
}

impl Target {
    /// Connections of so many callers, and callers on each; `None` where there are too few to share any.
    pub(crate) fn spread(&self, callers: u64) -> Option<(u64, u64)> {
        match self.kind {
            Kind::NatsShared => {
                let connections = self.addresses.len() as u64;
                (callers > connections).then_some((connections, callers.div_ceil(connections)))
            }
            Kind::Gateway | Kind::Nats | Kind::Redis => Some((callers, 1)),
        }
    }

    /// Starts `nodes` nodes with their files below `folder`.
    pub(crate) fn start(kind: Kind, programs: &Programs, folder: &Path, nodes: u16) -> Result<Option<Self>> {
        let folder = folder.join(format!("{}-{nodes}", kind.name()));
        std::fs::create_dir(&folder)?;
        let (running, ports, silent) = match kind {
            Kind::Gateway => {
                let (silent, port) = silent_function()?;
                let gateways = Gateways::start(&programs.gateway, &folder, nodes, &[function("silent", port, 1)])?;
                (gateways.running, gateways.ports, Some(silent))
            }
            Kind::Nats | Kind::NatsShared => {
                let Some(program) = &programs.nats else { return Ok(None) };
                let (running, ports) = nats::start(program, &folder, nodes)?;
                (running, ports, None)
            }
            Kind::Redis => {
                let Some(program) = &programs.redis else { return Ok(None) };
                let (running, primary) = redis::start(program, &folder, nodes)?;
                (running, vec![primary], None)
            }
        };
        let (dialect, path, status) = match kind {
            Kind::Gateway => ("http", "/async-function/silent/0", 202),
            Kind::Nats | Kind::NatsShared => ("nats", nats::SUBJECT, 0),
            Kind::Redis if nodes == 1 => ("redis", redis::KEY, 0),
            Kind::Redis => ("redis-replicated", redis::KEY, 0),
        };
        let addresses = ports.into_iter().map(loopback).collect();
        Ok(Some(Self { kind, running, addresses, dialect, path, status, _silent: silent }))
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.running.iter().map(Running::id).collect()
    }

    /// Before each measurement.
    pub(crate) fn prepare(&mut self) -> Result<()> {
        self.running.iter_mut().try_for_each(Running::check_alive)?;
        match self.kind {
            // It keeps all that it has in memory.
            Kind::Redis => redis::empty(self.addresses[0]),
            Kind::Gateway | Kind::Nats | Kind::NatsShared => Ok(()),
        }
    }
}
