//! Which of the registered cgroups a process is in.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use slimfaas_ebpf::contract::{CGROUP_LEVELS, Identity};

use super::maps::{CGROUPS, POD_LEVELS};

/// Whose the innermost registered cgroup of the current process is. The agent registers the root as the node's, the
/// parent of all pods as nobody's, and the pods: so a pod that it does not know yet is nobody, and not the node.
///
/// Pods are at few levels of the hierarchy, so the levels at which some were found are looked at first; no registered
/// pod is within another. What is not a pod's is looked for at all levels.
#[inline(always)]
pub(crate) fn identity_of_current_process() -> Identity {
    let Some(pod_levels) = POD_LEVELS.get_ptr_mut(0) else { return Identity::NONE };
    // SAFETY: this processor's own; nothing else writes it while this runs.
    let levels = unsafe { *pod_levels };
    if let Some((identity, _)) = innermost(levels)
        && is_pod(identity)
    {
        return identity;
    }
    let Some((identity, level)) = innermost(u32::MAX) else { return Identity::NONE };
    if is_pod(identity) {
        // SAFETY: as above.
        unsafe { *pod_levels = levels | level };
    }
    identity
}

#[inline(always)]
fn is_pod(identity: Identity) -> bool {
    identity != Identity::NONE && identity != Identity::NODE
}

/// The identity of the innermost registered cgroup at one of these levels, and the bit of its level. From the inside
/// out: a pod's container is one level below its pod, and to be told that there is no such level costs less than to
/// look a cgroup up.
#[inline(always)]
fn innermost(levels: u32) -> Option<(Identity, u32)> {
    for below in 1..=CGROUP_LEVELS {
        let level = CGROUP_LEVELS - below;
        if levels & (1 << level) == 0 {
            continue;
        }
        // SAFETY: the helper takes any number.
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if cgroup == 0 {
            continue;
        }
        // SAFETY: a word of four bytes, read once.
        if let Some(identity) = unsafe { CGROUPS.get(cgroup) } {
            return Some((*identity, 1 << level));
        }
    }
    None
}
