//! Where on this node the agent works: found, never assumed.

use std::io;
use std::path::{Path, PathBuf};

use super::capabilities::facts::Facts;
use super::capabilities::{Report, State};
use super::pins::Pins;

/// Ours, in the root of a bpffs.
const PINS: &str = "slimfaas";
/// The object of kernel programs, beside the agent's own program.
const OBJECT: &str = "slimfaas-programs.o";

#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("identity cannot run on this node: {0} (`slimfaas-agent check` says more)")]
    Lacking(String),
    #[error(
        "cannot read the kernel programs {path}: {source} (`cargo xtask build-ebpf` makes them, and images have them)"
    )]
    Object { path: PathBuf, source: io::Error },
    #[error("cannot find this program's own file: {0}")]
    Own(io::Error),
}

/// This node, as far as the agent needs it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The root of the whole cgroup v2 hierarchy.
    pub cgroups: PathBuf,
    /// Where programs and maps can outlive the agent; none where no bpffs is mounted that it may write.
    pub pins: Option<Pins>,
}

impl Place {
    /// Fails when something is missing, and says everything that is.
    pub fn find() -> Result<Self, PlaceError> {
        Self::of(&Facts::read(Path::new("/")))
    }

    fn of(facts: &Facts) -> Result<Self, PlaceError> {
        let report = Report::of(facts);
        let missing = report.findings.iter().filter(|finding| finding.state == State::Missing);
        let missing: Vec<String> = missing.map(|finding| format!("{}: {}", finding.topic, finding.found)).collect();
        let Some(cgroups) = facts.cgroup_roots.first().filter(|_| missing.is_empty()) else {
            return Err(PlaceError::Lacking(missing.join("; ")));
        };
        let mounts = facts.mounts.as_deref().unwrap_or_default();
        let bpffs = mounts.iter().find(|mount| mount.is_bpffs() && !mount.read_only);
        Ok(Self { cgroups: cgroups.clone(), pins: bpffs.map(|mount| Pins::new(&mount.point.join(PINS))) })
    }
}

/// The object of kernel programs: the named one, or the one beside this program.
pub fn read_object(named: Option<&Path>) -> Result<Vec<u8>, PlaceError> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => std::env::current_exe().map_err(PlaceError::Own)?.with_file_name(OBJECT),
    };
    std::fs::read(&path).map_err(|source| PlaceError::Object { path, source })
}
