//! Which of the registered cgroups a process is in.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use slimfaas_ebpf::contract::{CGROUP_LEVELS, Identity};

use super::maps::CGROUPS;

/// A registered cgroup.
#[derive(Clone, Copy)]
pub(crate) struct Registered {
    pub(crate) cgroup: u64,
    pub(crate) identity: Identity,
}

/// The innermost registered cgroup of the current process. The agent registers the root as the node's, the parent of
/// all pods as nobody's, and the pods: so a pod that it does not know yet is nobody, and not the node.
#[inline(always)]
pub(crate) fn of_current_process() -> Registered {
    let mut found = Registered { cgroup: 0, identity: Identity::NONE };
    for level in 0..CGROUP_LEVELS {
        // SAFETY: the helper takes any number.
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if cgroup == 0 {
            break;
        }
        // SAFETY: a word of four bytes, read once.
        if let Some(identity) = unsafe { CGROUPS.get(cgroup) } {
            found = Registered { cgroup, identity: *identity };
        }
    }
    found
}
