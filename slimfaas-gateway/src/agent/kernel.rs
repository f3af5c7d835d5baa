//! The kernel programs as the agent holds them: loaded, attached, and with maps that hold what they are told.

mod attach;
mod error;
mod log;
mod maps;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::programs::{CgroupSkb, CgroupSockAddr, CgroupSockopt, Program, SockOps};
use aya::{Ebpf, EbpfLoader};
use rustix::process::{Resource, Rlimit};
use slimfaas_ebpf::contract::{map_names, program_names};

use super::desired::{Change, Desired};
use super::pins::Pins;

pub(super) use attach::detach_pinned;
pub use error::KernelError;
pub use maps::{Counters, Forger};

/// The maps that outlive the agent.
const PINNED: [&str; 8] = [
    map_names::CGROUPS,
    map_names::KNOWN,
    map_names::GUARDS,
    map_names::EXCLUSIONS,
    map_names::KEYS,
    map_names::SOCKETS,
    map_names::COUNTERS,
    map_names::FORGERS,
];

/// Each program with its `enum bpf_attach_type`. The guard last: what it looks for must be there before.
const PROGRAMS: [(&str, u32); 5] = [
    (program_names::SOCK_OPS, 3),
    (program_names::CONNECT4, 10),
    (program_names::CONNECT6, 11),
    (program_names::GETSOCKOPT, 21),
    (program_names::GUARD, 0),
];

pub struct LoadOptions<'a> {
    /// The object that `cargo xtask build-ebpf` made.
    pub object: &'a [u8],
    /// Where to keep programs and maps, so that they outlive this process; otherwise they end with it.
    pub pins: Option<Pins>,
}

/// The programs, accepted by the kernel's verifier. Dropping it detaches what is not pinned.
pub struct Kernel {
    ebpf: Ebpf,
    pins: Option<Pins>,
    maps: maps::Maps,
    log: Option<log::ProgramLog>,
    /// Attachments that end with this process.
    links: Vec<OwnedFd>,
}

/// What the kernel says of a loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedProgram {
    pub name: &'static str,
    /// Of 8 bytes each, as they are after the verifier.
    pub instructions: u32,
    /// How many the verifier went through, over all paths; none before Linux 5.16. At a million it gives up.
    pub verified_instructions: Option<u32>,
}

impl Kernel {
    /// Loads the programs and attaches none. With pins, the maps of an earlier agent are taken over with what they
    /// hold.
    pub fn load(options: LoadOptions<'_>) -> Result<Self, KernelError> {
        // Before Linux 5.11 maps count as locked memory, of which a container may have little. If it cannot be raised,
        // loading says so.
        let unlimited = Rlimit { current: None, maximum: None };
        let _kept = rustix::process::setrlimit(Resource::Memlock, unlimited);
        let mut loader = EbpfLoader::new();
        // The programs ask nothing of the kernel's own types, so none are looked for: what loads here loads whatever
        // the types of another version look like.
        loader.btf(None);
        if let Some(pins) = &options.pins {
            let folder = pins.maps()?;
            for name in PINNED {
                loader.map_pin_path(name, folder.join(name));
            }
        }
        let mut ebpf = loader.load(options.object).map_err(KernelError::load)?;
        for (name, _) in PROGRAMS {
            let program = ebpf.program_mut(name).ok_or(KernelError::Missing(name))?;
            load_program(program).map_err(|error| KernelError::program(name, "load", error))?;
        }
        let maps = maps::Maps::take(&mut ebpf)?;
        let log = log::ProgramLog::take(&mut ebpf)?;
        Ok(Self { ebpf, pins: options.pins, maps, log, links: Vec::new() })
    }

    /// Attaches the programs to a cgroup and all below it, and detaches what an earlier agent has pinned.
    pub fn attach(&mut self, cgroup: &Path) -> Result<(), KernelError> {
        let open = |source| KernelError::Cgroup { path: cgroup.to_owned(), source };
        let folder = self.pins.as_ref().map(Pins::new_links).transpose()?;
        let cgroup = File::open(cgroup).map_err(open)?;
        for (name, attach_type) in PROGRAMS {
            let program = self.program(name)?.fd().map_err(|error| KernelError::program(name, "find", error))?;
            let link = attach::create_link(program.as_fd(), cgroup.as_fd(), attach_type)
                .map_err(|source| KernelError::Link { name, doing: "attach", source })?;
            match &folder {
                Some(folder) => attach::pin(&link, &folder.join(name)).map_err(|source| KernelError::Link {
                    name,
                    doing: "pin",
                    source,
                })?,
                None => self.links.push(link),
            }
        }
        if let (Some(pins), Some(folder)) = (&self.pins, &folder) {
            pins.remove_all_but(folder)?;
        }
        Ok(())
    }

    /// What the maps hold.
    pub fn read(&self) -> Result<Desired, KernelError> {
        self.maps.read()
    }

    /// Makes changes in the order given. After an error, [`Kernel::read`] says how far it got.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), KernelError> {
        changes.iter().try_for_each(|change| self.maps.apply(*change))
    }

    /// Has what the programs say appear in this process's log, if they were built to say anything.
    pub fn print_log(&mut self) {
        self.log.iter_mut().for_each(log::ProgramLog::print);
    }

    /// Counted since the maps were made.
    pub fn counters(&self) -> Result<Counters, KernelError> {
        self.maps.counters()
    }

    /// The addresses that sent forged tags lately.
    pub fn forgers(&self) -> Result<Vec<Forger>, KernelError> {
        self.maps.forgers()
    }

    fn program(&self, name: &'static str) -> Result<&Program, KernelError> {
        self.ebpf.program(name).ok_or(KernelError::Missing(name))
    }

    /// What the kernel says of each program.
    pub fn programs(&self) -> Result<Vec<LoadedProgram>, KernelError> {
        let info = |(name, _)| {
            let info = self.program(name)?.info().map_err(|error| KernelError::program(name, "ask about", error))?;
            Ok(LoadedProgram {
                name,
                instructions: info.size_translated().unwrap_or(0) / 8,
                verified_instructions: info.verified_instruction_count(),
            })
        };
        PROGRAMS.into_iter().map(info).collect()
    }
}

/// How many programs, of whomever, are attached to a cgroup itself where ours would be. Five when ours alone are.
pub fn attached_programs(cgroup: &Path) -> Result<usize, KernelError> {
    let fail = |source| KernelError::Cgroup { path: cgroup.to_owned(), source };
    let file = File::open(cgroup).map_err(fail)?;
    let count = |(_, attach_type)| attach::count_attached(file.as_fd(), attach_type).map_err(fail);
    PROGRAMS.into_iter().map(count).sum()
}

fn load_program(program: &mut Program) -> Result<(), aya::programs::ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => CgroupSockAddr::load(program),
        Program::SockOps(program) => SockOps::load(program),
        Program::CgroupSockopt(program) => CgroupSockopt::load(program),
        Program::CgroupSkb(program) => CgroupSkb::load(program),
        _ => Err(aya::programs::ProgramError::UnexpectedProgramType),
    }
}
