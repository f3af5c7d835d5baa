//! What this kernel and this process allow, in words: the agent says it before it does anything, and `slimfaas-agent
//! check` says only that.
//!
//! `facts` reads files and judges nothing; [`Report::of`] judges and reads nothing. No program is loaded, so what only
//! loading shows (a kernel built without `CONFIG_CGROUP_BPF`, a seccomp filter or a security module that refuses) is
//! not seen here.

pub mod facts;
pub mod kernel;
pub mod mountinfo;
mod text;

use std::path::Path;

use serde::Serialize;

use facts::{FactError, Facts};
use kernel::{HOOKS, KernelVersion, LOWEST_KERNEL};
use mountinfo::Mount;

/// Serialized, it is what `slimfaas-agent check --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Whether nothing that identity needs is missing.
    pub identity_can_run: bool,
    pub findings: Vec<Finding>,
    pub hooks: Vec<HookState>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    pub topic: &'static str,
    pub state: State,
    /// What is there, or why it could not be learnt.
    pub found: String,
    /// What it is for, and what is lost without it.
    pub reason: &'static str,
    /// What to do about it; none when it is as it should be.
    pub next_step: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Ok,
    /// Identity runs, with something less.
    Limited,
    /// Identity cannot run.
    Missing,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HookState {
    #[serde(flatten)]
    pub hook: &'static kernel::Hook,
    /// By the kernel's version; none when that is not known.
    pub available: Option<bool>,
}

impl Report {
    pub fn of(facts: &Facts) -> Self {
        let version = facts.kernel_release.as_deref().ok().and_then(KernelVersion::parse);
        let mut findings = vec![kernel_finding(facts, version), bpf_syscall_finding(facts)];
        findings.extend(capability_findings(&facts.effective_capabilities));
        findings.extend([
            user_namespace_finding(facts),
            cgroup_finding(facts),
            bpffs_finding(facts),
            kernel_btf_finding(facts),
            unprivileged_bpf_finding(facts),
        ]);
        Self {
            identity_can_run: findings.iter().all(|finding| finding.state != State::Missing),
            findings,
            hooks: HOOKS
                .iter()
                .map(|hook| HookState { hook, available: version.map(|version| version >= hook.since) })
                .collect(),
        }
    }
}

fn kernel_finding(facts: &Facts, version: Option<KernelVersion>) -> Finding {
    let topic = "kernel version";
    let reason = "the programs need the TCP header options of sock_ops, from Linux 5.10 on";
    match (&facts.kernel_release, version) {
        (Err(error), _) => Finding::unknown(topic, State::Missing, error, reason),
        (Ok(release), Some(version)) if version >= LOWEST_KERNEL => Finding::ok(topic, release, reason),
        (Ok(release), Some(version)) => {
            let lacks = HOOKS.iter().filter(|hook| hook.since > version).map(|hook| hook.name).collect::<Vec<_>>();
            let found = format!("{release}, which lacks {}", lacks.join(", "));
            let next =
                format!("run this node with Linux {LOWEST_KERNEL} or later; a vendor's back-ports do not count here");
            Finding::lacking(topic, State::Missing, &found, reason, &next)
        }
        (Ok(release), None) => {
            let found = format!("{release:?}, which does not start with a version");
            Finding::lacking(topic, State::Missing, &found, reason, "report this kernel's release text")
        }
    }
}

fn bpf_syscall_finding(facts: &Facts) -> Finding {
    let topic = "bpf system call";
    let reason =
        "it loads programs and makes maps; a kernel that has it has the setting kernel.unprivileged_bpf_disabled";
    match &facts.unprivileged_bpf_disabled {
        Ok(Some(_)) => Finding::ok(topic, "present", reason),
        Ok(None) => {
            let next = "run a kernel built with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF";
            Finding::lacking(topic, State::Missing, "absent", reason, next)
        }
        Err(error) => Finding::unknown(topic, State::Missing, error, reason),
    }
}

/// A capability that the agent uses, by its bit in `CapEff`.
struct Capability {
    name: &'static str,
    bit: u32,
    without: State,
    reason: &'static str,
}

/// From before it was split, CAP_SYS_ADMIN still includes every one of [`CAPABILITIES`].
const CAP_SYS_ADMIN: u32 = 21;

const CAPABILITIES: [Capability; 3] = [
    Capability { name: "CAP_BPF", bit: 39, without: State::Missing, reason: "to load programs and to make maps" },
    Capability {
        name: "CAP_NET_ADMIN",
        bit: 12,
        without: State::Missing,
        reason: "to load programs of network types and to attach them to cgroups",
    },
    Capability {
        name: "CAP_PERFMON",
        bit: 38,
        without: State::Missing,
        reason: "without it the verifier refuses the places that the programs compute (Spectre hardening)",
    },
];

fn capability_findings(effective: &Result<u64, FactError>) -> Vec<Finding> {
    CAPABILITIES.iter().map(|capability| capability_finding(capability, effective)).collect()
}

fn capability_finding(capability: &Capability, effective: &Result<u64, FactError>) -> Finding {
    let Capability { name, bit, without, reason } = *capability;
    match effective {
        Err(error) => Finding::unknown(name, without, error, reason),
        Ok(set) if set & (1 << bit) != 0 => Finding::ok(name, "effective", reason),
        Ok(set) if set & (1 << CAP_SYS_ADMIN) != 0 => Finding::ok(name, "included in CAP_SYS_ADMIN", reason),
        Ok(_) => {
            let short = name.trim_start_matches("CAP_");
            let next = format!("add {short} to the container's securityContext.capabilities.add");
            Finding::lacking(name, without, "not effective", reason, &next)
        }
    }
}

fn user_namespace_finding(facts: &Facts) -> Finding {
    let topic = "user namespace";
    let reason = "the kernel honours BPF capabilities only in the first one";
    match &facts.is_initial_user_namespace {
        Ok(true) => Finding::ok(topic, "the initial one", reason),
        Ok(false) => {
            let next = "run the agent's pod without hostUsers: false, and not under a rootless runtime";
            Finding::lacking(topic, State::Missing, "a nested one", reason, next)
        }
        Err(error) => Finding::unknown(topic, State::Missing, error, reason),
    }
}

fn cgroup_finding(facts: &Facts) -> Finding {
    let topic = "cgroup v2";
    let reason = "the programs attach to the root of its hierarchy, and so see every process of the node";
    let mounts = match &facts.mounts {
        Ok(mounts) => mounts,
        Err(error) => return Finding::unknown(topic, State::Missing, error, reason),
    };
    if let Some(root) = facts.cgroup_roots.first() {
        return Finding::ok(topic, &format!("whole hierarchy at {}", root.display()), reason);
    }
    let partial: Vec<String> =
        mounts.iter().filter(|mount| mount.is_cgroup2()).map(|mount| mount.point.display().to_string()).collect();
    if partial.is_empty() {
        let next =
            "mount it (mount -t cgroup2 none /sys/fs/cgroup/unified), or mount the node's into the agent's container";
        Finding::lacking(topic, State::Missing, "not mounted", reason, next)
    } else {
        let found = format!("only a part of the hierarchy at {}", partial.join(", "));
        let next = "mount the node's cgroup directory into the agent's container (hostPath)";
        Finding::lacking(topic, State::Missing, &found, reason, next)
    }
}

fn bpffs_finding(facts: &Facts) -> Finding {
    let topic = "bpffs";
    let reason = "pinned there, programs and maps outlive the agent; otherwise enforcement ends with its process";
    let mounts = match &facts.mounts {
        Ok(mounts) => mounts,
        Err(error) => return Finding::unknown(topic, State::Limited, error, reason),
    };
    let candidates: Vec<&Mount> = mounts.iter().filter(|mount| mount.is_bpffs()).collect();
    match (candidates.iter().find(|mount| !mount.read_only), candidates.first()) {
        (Some(writable), _) => Finding::ok(topic, &format!("at {}", writable.point.display()), reason),
        (None, Some(read_only)) => {
            let found = format!("read-only at {}", read_only.point.display());
            Finding::lacking(topic, State::Limited, &found, reason, "mount it writable into the agent's container")
        }
        (None, None) => {
            let next = "mount it (mount -t bpf bpf /sys/fs/bpf), or mount the node's into the agent's container";
            Finding::lacking(topic, State::Limited, "not mounted", reason, next)
        }
    }
}

fn kernel_btf_finding(facts: &Facts) -> Finding {
    let topic = "kernel BTF";
    let reason =
        "describes the kernel's own types; the programs bring the types that they use, so nothing is lost without";
    let path = facts::KERNEL_BTF;
    match &facts.has_kernel_btf {
        Ok(true) => Finding::ok(topic, &format!("at /{path}"), reason),
        Ok(false) => Finding::ok(topic, "absent", reason),
        Err(error) => Finding::ok(topic, &format!("unknown: {error}"), reason),
    }
}

fn unprivileged_bpf_finding(facts: &Facts) -> Finding {
    let topic = "unprivileged BPF";
    let reason = "only a matter of hardening: the agent has capabilities, other processes should not have BPF";
    match &facts.unprivileged_bpf_disabled {
        Ok(Some(0)) => {
            let next = "set kernel.unprivileged_bpf_disabled to 1 or 2 on the node";
            Finding::lacking(topic, State::Limited, "open to every process", reason, next)
        }
        Ok(Some(value)) => Finding::ok(topic, &format!("disabled ({value})"), reason),
        Ok(None) => Finding::ok(topic, "no such setting", reason),
        Err(error) => Finding::ok(topic, &format!("unknown: {error}"), reason),
    }
}

impl Finding {
    fn ok(topic: &'static str, found: &str, reason: &'static str) -> Self {
        Self { topic, state: State::Ok, found: found.to_owned(), reason, next_step: None }
    }

    fn lacking(topic: &'static str, state: State, found: &str, reason: &'static str, next_step: &str) -> Self {
        Self { topic, state, found: found.to_owned(), reason, next_step: Some(next_step.to_owned()) }
    }

    fn unknown(topic: &'static str, state: State, error: &FactError, reason: &'static str) -> Self {
        let next = "let the agent read this file: mount /proc and /sys into its container";
        Self::lacking(topic, state, &format!("unknown: {error}"), reason, next)
    }
}

/// The report on the machine that this process runs on.
pub fn check_this_machine() -> Report {
    Report::of(&Facts::read(Path::new("/")))
}

#[cfg(test)]
mod tests;
