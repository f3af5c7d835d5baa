//! Which of the registered cgroups a process is in.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use slimfaas_ebpf::contract::{CGROUP_LEVELS, Identity};

use super::maps::CGROUPS;

/// Whose the innermost registered cgroup of the current process is. The agent registers the root as the node's, the
/// parent of all pods as nobody's, and the pods: so a pod that it does not know yet is nobody, and not the node.
///
/// From the inside out: a pod's container is one level below its pod, and to be told that there is no such level costs
/// less than to look a cgroup up.
#[inline(always)]
pub(crate) fn identity_of_current_process() -> Identity {
    for below in 1..=CGROUP_LEVELS {
        // SAFETY: the helper takes any number.
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(CGROUP_LEVELS - below) };
        if cgroup == 0 {
            continue;
        }
        // SAFETY: a word of four bytes, read once.
        if let Some(identity) = unsafe { CGROUPS.get(cgroup) } {
            return *identity;
        }
    }
    Identity::NONE
}
