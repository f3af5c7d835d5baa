//! The kernel programs as the agent holds them: loaded, attached, and with maps that hold what they are told.

mod attach;
mod error;
mod links;
mod log;
mod maps;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

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

/// A program's name, with its `enum bpf_attach_type`.
type Attachment = (&'static str, u32);

/// Attached to all of the node.
const EVERYWHERE: [Attachment; 4] = [
    (program_names::SOCK_OPS, 3),
    (program_names::CONNECT4, 10),
    (program_names::CONNECT6, 11),
    (program_names::GETSOCKOPT, 21),
];
/// Attached to pods that have a guarded port, and to no others: it looks at every packet.
const GUARD: Attachment = (program_names::GUARD, 0);

pub struct LoadOptions<'a> {
    /// The object that `cargo xtask build-ebpf` made.
    pub object: &'a [u8],
    /// Where to keep programs and maps, so that they outlive this process; otherwise they end with it.
    pub pins: Option<Pins>,
}

/// The programs, accepted by the kernel's verifier. Dropping it detaches what is not pinned.
pub struct Kernel {
    ebpf: Ebpf,
    maps: maps::Maps,
    log: Option<log::ProgramLog>,
    links: links::Links,
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
        for (name, _) in programs() {
            let program = ebpf.program_mut(name).ok_or(KernelError::Missing(name))?;
            load_program(program).map_err(|error| KernelError::program(name, "load", error))?;
        }
        let maps = maps::Maps::take(&mut ebpf)?;
        let log = log::ProgramLog::take(&mut ebpf)?;
        Ok(Self { ebpf, maps, log, links: links::Links::new(options.pins) })
    }

    /// Attaches the guard to pods, as [`Kernel::guard`] does, and the other programs to a cgroup and all below it. Only
    /// then does it detach what an earlier agent has pinned; after an error that stays, and nothing of this one.
    pub fn attach(&mut self, root: &Path, guarded: &BTreeMap<u64, PathBuf>) -> Result<(), KernelError> {
        self.guard(guarded).and_then(|()| self.attach_everywhere(root)).inspect_err(|_| {
            if let Err(error) = self.links.abandon() {
                tracing::error!(%error, "what this agent has attached stays beside an earlier one's");
            }
        })?;
        self.links.remove_earlier()
    }

    fn attach_everywhere(&mut self, root: &Path) -> Result<(), KernelError> {
        EVERYWHERE.into_iter().try_for_each(|attachment| {
            let what = attachable(&self.ebpf, attachment)?;
            self.links.add(what.name.to_owned(), what, root)
        })
    }

    /// Has the guard look at what comes to these cgroups of pods, by their inode numbers, and to no others. Those that
    /// are not there any more are left out. All are tried; the first error is returned.
    pub fn guard(&mut self, pods: &BTreeMap<u64, PathBuf>) -> Result<(), KernelError> {
        let what = attachable(&self.ebpf, GUARD)?;
        let beginning = format!("{}-", what.name);
        let wanted: BTreeMap<String, &Path> =
            pods.iter().map(|(id, path)| (format!("{beginning}{id}"), path.as_path())).collect();
        let mut result = Ok(());
        for (link, path) in &wanted {
            if !self.links.has(link) {
                result = result.and(self.links.add(link.clone(), what, path).or_else(KernelError::unless_gone));
            }
        }
        for link in self.links.beginning_with(&beginning) {
            if !wanted.contains_key(&link) {
                let fail = |source| KernelError::Link { name: what.name, doing: "detach", source };
                result = result.and(self.links.remove(&link).map_err(fail));
            }
        }
        result
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

    /// What the kernel says of each program.
    pub fn programs(&self) -> Result<Vec<LoadedProgram>, KernelError> {
        let info = |(name, _)| {
            let info =
                program(&self.ebpf, name)?.info().map_err(|error| KernelError::program(name, "ask about", error))?;
            Ok(LoadedProgram {
                name,
                instructions: info.size_translated().unwrap_or(0) / 8,
                verified_instructions: info.verified_instruction_count(),
            })
        };
        programs().map(info).collect()
    }
}

fn programs() -> impl Iterator<Item = Attachment> {
    EVERYWHERE.into_iter().chain([GUARD])
}

/// How many programs, of whomever, are attached to a cgroup itself where ours would be. When ours alone are, four to
/// the node's, and one to that of a pod with a guarded port.
pub fn attached_programs(cgroup: &Path) -> Result<usize, KernelError> {
    let fail = |source| KernelError::Cgroup { path: cgroup.to_owned(), source };
    let file = File::open(cgroup).map_err(fail)?;
    let count = |(_, attach_type)| attach::count_attached(file.as_fd(), attach_type).map_err(fail);
    programs().map(count).sum()
}

fn program<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a Program, KernelError> {
    ebpf.program(name).ok_or(KernelError::Missing(name))
}

fn attachable(ebpf: &Ebpf, (name, attach_type): Attachment) -> Result<links::Attachable<'_>, KernelError> {
    let program = program(ebpf, name)?.fd().map_err(|error| KernelError::program(name, "find", error))?;
    Ok(links::Attachable { name, program: program.as_fd(), attach_type })
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
