//! Who is believed, and who may open a connection to a guarded port. Pure: the kernel programs look things up and do
//! what these functions say.

use crate::contract::{
    CallerReply, ExclusionKey, GuardEntry, GuardFlags, Identity, IdentityEntry, IdentityFlags, NamespaceId, Verdict,
};
use crate::tag::TagCheck;

const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// Whether a segment with these TCP flags opens a connection. Only those are guarded: an established connection has
/// been through this.
#[inline(always)]
pub const fn opens_connection(tcp_flags: u8) -> bool {
    tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN
}

/// The identity to look up in the table of known ones, where there is one worth looking up.
#[inline(always)]
pub const fn identity_to_look_up(check: TagCheck) -> Option<Identity> {
    match check {
        TagCheck::Valid(identity) if identity.0 > Identity::NODE.0 => Some(identity),
        TagCheck::Valid(_) | TagCheck::Forged(_) | TagCheck::Untagged => None,
    }
}

/// The verdict on a caller; `entry` is what the table of known identities has of it.
#[inline(always)]
pub const fn decide_verdict(check: TagCheck, entry: Option<IdentityEntry>) -> Verdict {
    match check {
        TagCheck::Untagged => Verdict::Untagged,
        TagCheck::Forged(_) => Verdict::Forged,
        TagCheck::Valid(_) => match believed(check, entry) {
            Some(_) => Verdict::Known,
            None => Verdict::Foreign,
        },
    }
}

/// The answer to the gateway. Nothing of the entry is in it unless the caller is `Known`.
#[inline(always)]
pub const fn answer_caller(check: TagCheck, entry: Option<IdentityEntry>) -> CallerReply {
    let identity = match check {
        TagCheck::Untagged => Identity::NONE,
        TagCheck::Valid(identity) | TagCheck::Forged(identity) => identity,
    };
    let verdict = decide_verdict(check, entry).as_u32();
    match believed(check, entry) {
        Some(entry) => CallerReply { identity, verdict, namespace: entry.namespace, flags: entry.flags },
        None => CallerReply { identity, verdict, namespace: NamespaceId::NONE, flags: IdentityFlags(0) },
    }
}

/// Whether a caller counts as internal for a function of this namespace. The gateway starts from it and can only
/// narrow it (per-function exclusions).
pub fn is_internal(reply: &CallerReply, function_namespace: NamespaceId) -> bool {
    Verdict::from_u32(reply.verdict) == Some(Verdict::Known)
        && same_namespace(reply.namespace, function_namespace)
        && !reply.flags.has(IdentityFlags::UNTRUSTED)
}

/// The entry, when the tag is true and the identity is one workload's alone.
#[inline(always)]
const fn believed(check: TagCheck, entry: Option<IdentityEntry>) -> Option<IdentityEntry> {
    match (identity_to_look_up(check), entry) {
        (Some(_), Some(entry)) if !entry.flags.has(IdentityFlags::CONTESTED) => Some(entry),
        _ => None,
    }
}

#[inline(always)]
const fn same_namespace(a: NamespaceId, b: NamespaceId) -> bool {
    a.0 != NamespaceId::NONE.0 && a.0 == b.0
}

/// Why a connection to a guarded port was let through or dropped; its number is its counter's place.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuardOutcome {
    /// From a gateway.
    Gateway = 0,
    /// From the agent, to the gateway's peer port.
    Agent = 1,
    /// From a workload of the function's namespace.
    Neighbour = 2,
    /// From a process outside every pod: the kubelet's probes.
    Node = 3,
    Untagged = 4,
    Forged = 5,
    /// A true tag of a workload that the table does not have, or that is contested.
    Foreign = 6,
    OtherNamespace = 7,
    /// Of the function's namespace, but its calls do not count as internal.
    Untrusted = 8,
    /// The function excludes this workload.
    Excluded = 9,
    /// To the peer port, from something that is neither gateway nor agent.
    NotAPeer = 10,
    /// To a port that only gateways may connect to, from a workload that is known and is none.
    NotAGateway = 11,
}

impl GuardOutcome {
    /// Every outcome, in the order of the counters.
    pub const ALL: [Self; 12] = [
        Self::Gateway,
        Self::Agent,
        Self::Neighbour,
        Self::Node,
        Self::Untagged,
        Self::Forged,
        Self::Foreign,
        Self::OtherNamespace,
        Self::Untrusted,
        Self::Excluded,
        Self::NotAPeer,
        Self::NotAGateway,
    ];

    /// False: the SYN is dropped.
    #[inline(always)]
    pub const fn allows(self) -> bool {
        match self {
            Self::Gateway | Self::Agent | Self::Neighbour | Self::Node => true,
            Self::Untagged
            | Self::Forged
            | Self::Foreign
            | Self::OtherNamespace
            | Self::Untrusted
            | Self::Excluded
            | Self::NotAPeer
            | Self::NotAGateway => false,
        }
    }

    /// As a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Agent => "agent",
            Self::Neighbour => "neighbour",
            Self::Node => "node",
            Self::Untagged => "untagged",
            Self::Forged => "forged",
            Self::Foreign => "foreign",
            Self::OtherNamespace => "other_namespace",
            Self::Untrusted => "untrusted",
            Self::Excluded => "excluded",
            Self::NotAPeer => "not_a_peer",
            Self::NotAGateway => "not_a_gateway",
        }
    }
}

/// Where to look whether the guarded function excludes this caller.
#[inline(always)]
pub const fn exclusion_key(guard: GuardEntry, caller: Identity) -> ExclusionKey {
    ExclusionKey { function: guard.function, caller }
}

/// Decides about a connection to a guarded port, of which a SYN arrives.
///
/// `entry` is what the table of known identities has of the caller; `excluded` whether the set of exclusions has
/// [`exclusion_key`].
#[inline(always)]
pub const fn decide_guard(
    check: TagCheck,
    entry: Option<IdentityEntry>,
    guard: GuardEntry,
    excluded: bool,
) -> GuardOutcome {
    let identity = match check {
        TagCheck::Untagged => return GuardOutcome::Untagged,
        TagCheck::Forged(_) => return GuardOutcome::Forged,
        TagCheck::Valid(identity) => identity,
    };
    let entry = believed(check, entry);
    if guard.flags.has(GuardFlags::PEER_PORT) {
        return decide_peer_port(entry);
    }
    if identity.0 == Identity::NODE.0 {
        return GuardOutcome::Node;
    }
    let Some(entry) = entry else { return GuardOutcome::Foreign };
    if entry.flags.has(IdentityFlags::GATEWAY) {
        GuardOutcome::Gateway
    } else if guard.flags.has(GuardFlags::GATEWAYS_ONLY) {
        GuardOutcome::NotAGateway
    } else if !same_namespace(entry.namespace, guard.namespace) {
        GuardOutcome::OtherNamespace
    } else if entry.flags.has(IdentityFlags::UNTRUSTED) {
        GuardOutcome::Untrusted
    } else if excluded {
        GuardOutcome::Excluded
    } else {
        GuardOutcome::Neighbour
    }
}

#[inline(always)]
const fn decide_peer_port(entry: Option<IdentityEntry>) -> GuardOutcome {
    match entry {
        Some(entry) if entry.flags.has(IdentityFlags::GATEWAY) => GuardOutcome::Gateway,
        Some(entry) if entry.flags.has(IdentityFlags::AGENT) => GuardOutcome::Agent,
        _ => GuardOutcome::NotAPeer,
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
