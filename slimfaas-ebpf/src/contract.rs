//! The kernel contract: what is in a SYN, in the maps, in socket storage and in the answer to the
//! gateway's getsockopt. Numbers here are wire and map formats: they are never changed, only replaced by new ones.
//!
//! Everything zeroed is the distrustful answer: no identity, untagged, no key, no namespace, no flag.

use core::fmt;

use crate::record::{record, word};

/// TCP option kind: experimental, shared by all experiments (RFC 6994).
pub const OPTION_KIND: u8 = 254;
/// The whole option, kind and length included. With the 20 bytes of the usual SYN options, or MPTCP's 24, it fits the
/// 40 that a TCP header has.
pub const OPTION_LEN: usize = 16;
/// Tells this experiment from others of the same kind; big endian on the wire.
pub const OPTION_EXID: u16 = 0x5FA5;
/// The most that all options of one TCP header take.
pub const OPTIONS_LEN_MAX: usize = 40;
/// Room for them from which an option of ours can be copied wherever it starts, and for as many words as four bits can
/// count: so the verifier need not understand why an option that would end past the header is not copied, nor that a
/// header has ten words of them at most.
pub const OPTIONS_ROOM: usize = 64;
const _: () = assert!(OPTIONS_ROOM >= OPTIONS_LEN_MAX + OPTION_LEN);

/// Private getsockopt level that the agent's program answers. No protocol of the kernel has this number, so without
/// the agent the call fails and the gateway knows that nothing vouches for the caller.
pub const SOCKOPT_LEVEL: i32 = 0x5F;
/// Option name at that level whose value is a [`CallerReply`]. Another layout gets another name, so a gateway and an
/// agent of different versions cannot misread each other.
pub const SOCKOPT_CALLER: i32 = 1;

word! {
    /// Which workload a process belongs to; made by `identity::identity_of`.
    pub struct Identity;
}

impl Identity {
    /// Nobody known: never in a tag.
    pub const NONE: Self = Self(0);
    /// A process outside every pod, such as the kubelet.
    pub const NODE: Self = Self(1);
}

word! {
    /// Which namespace a workload is in; made by `identity::namespace_of`.
    pub struct NamespaceId;
}

impl NamespaceId {
    /// No namespace: equal to none, not even to itself, in `policy`.
    pub const NONE: Self = Self(0);
}

word! {
    /// What is special about a known workload.
    pub struct IdentityFlags;
}

impl IdentityFlags {
    /// A pod of the gateway: may open connections to every guarded port.
    pub const GATEWAY: Self = Self(1);
    /// A pod of the agent: may open connections to the gateway's peer port.
    pub const AGENT: Self = Self(1 << 1);
    /// Its own calls do not count as internal.
    pub const UNTRUSTED: Self = Self(1 << 2);
    /// Two workloads of the cluster have this identity: nothing is believed of either.
    pub const CONTESTED: Self = Self(1 << 3);

    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }
}

word! {
    /// How a guarded port is guarded.
    pub struct GuardFlags;
}

impl GuardFlags {
    /// The gateway's peer port: only gateways and agents, whatever their namespace, and not even the node.
    pub const PEER_PORT: Self = Self(1);
    /// Only gateways, and the node: not even the function's neighbours.
    pub const GATEWAYS_ONLY: Self = Self(1 << 1);

    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

/// What the kernel says of an accepted connection's caller.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Verdict {
    /// No tag: outside the cluster, a proxy in between, a node without the agent, or a SYN cookie.
    #[default]
    Untagged = 0,
    /// A true tag of a workload that the gateways know.
    Known = 1,
    /// A true tag of this cluster, of a workload that is not watched, or of the node.
    Foreign = 2,
    /// A tag that no key of this cluster made.
    Forged = 3,
}

impl Verdict {
    /// `None` for a number that no version of this contract has.
    pub const fn from_u32(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Untagged),
            1 => Some(Self::Known),
            2 => Some(Self::Foreign),
            3 => Some(Self::Forged),
            _ => None,
        }
    }

    pub const fn as_u32(self) -> u32 {
        self as u32
    }
}

/// Of which key a tag was made, or is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySlot {
    Current,
    /// Verified before it is used.
    Next,
    /// Verified after it was used.
    Previous,
}

record! {
    /// Key of SipHash: the tag keys and the identity salt. Its `Debug` says nothing of the value.
    pub struct Key: 16 bytes {
        0 => k0: u64,
        8 => k1: u64,
    }
}

impl Key {
    /// The key as SipHash reads 16 bytes: two little-endian words.
    pub const fn from_secret(secret: [u8; 16]) -> Self {
        let both = u128::from_le_bytes(secret);
        Self { k0: both as u64, k1: (both >> 64) as u64 }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

record! {
    /// The only value of the map of tag keys. A slot counts only when `present` says so: a zeroed slot is a key that
    /// everybody knows.
    #[derive(Debug)]
    pub struct TagKeys: 56 bytes {
        0 => current: Key,
        16 => next: Key,
        32 => previous: Key,
        /// Bits of the slots in use: `HAS_CURRENT`, `HAS_NEXT`, `HAS_PREVIOUS`.
        48 => present: u32,
        /// Counts rotations, so that the agent can tell what the kernel has.
        52 => generation: u32,
    }
}

impl TagKeys {
    pub const HAS_CURRENT: u32 = 1;
    pub const HAS_NEXT: u32 = 1 << 1;
    pub const HAS_PREVIOUS: u32 = 1 << 2;

    /// The key of a slot in use.
    #[inline(always)]
    pub const fn key(&self, slot: KeySlot) -> Option<Key> {
        let (bit, key) = match slot {
            KeySlot::Current => (Self::HAS_CURRENT, self.current),
            KeySlot::Next => (Self::HAS_NEXT, self.next),
            KeySlot::Previous => (Self::HAS_PREVIOUS, self.previous),
        };
        if self.present & bit != 0 { Some(key) } else { None }
    }
}

record! {
    /// In the storage of a socket. On a connecting one: the identity to put into its SYN. On an accepted one: what
    /// its SYN said, with the outcome of checking it; the verdict itself is computed when it is asked for, so that a
    /// change of the table reaches connections that are already open.
    #[derive(Debug)]
    pub struct SocketTag: 8 bytes {
        0 => identity: Identity,
        /// `tag::TagCheck` as a number.
        4 => check: u32,
    }
}

record! {
    /// The answer to [`SOCKOPT_CALLER`].
    #[derive(Debug)]
    pub struct CallerReply: 16 bytes {
        /// As the tag says; with `Forged`, as it claims.
        0 => identity: Identity,
        /// A [`Verdict`] as a number; an unknown number means that nothing is known.
        4 => verdict: u32,
        /// The caller's, when it is `Known`, else none.
        8 => namespace: NamespaceId,
        /// The caller's, when it is `Known`, else none.
        12 => flags: IdentityFlags,
    }
}

record! {
    /// Value of the map of known identities, whose key is an [`Identity`].
    #[derive(Debug)]
    pub struct IdentityEntry: 8 bytes {
        0 => namespace: NamespaceId,
        4 => flags: IdentityFlags,
    }
}

record! {
    /// Key of the map of guarded ports: a pod's cgroup and the port inside the pod.
    #[derive(Debug, PartialOrd, Ord)]
    pub struct GuardKey: 16 bytes {
        /// Inode number of the pod's directory in cgroup v2.
        0 => cgroup: u64,
        /// Host byte order.
        8 => port: u16,
        /// Zero, always: part of the key.
        10 => reserved_a: u16,
        /// Zero, always: part of the key.
        12 => reserved_b: u32,
    }
}

record! {
    /// Value of the map of guarded ports.
    #[derive(Debug)]
    pub struct GuardEntry: 12 bytes {
        /// The guarded function's workload.
        0 => function: Identity,
        4 => namespace: NamespaceId,
        8 => flags: GuardFlags,
    }
}

record! {
    /// Key of the set of callers that a private function excludes.
    #[derive(Debug, PartialOrd, Ord)]
    pub struct ExclusionKey: 8 bytes {
        0 => function: Identity,
        4 => caller: Identity,
    }
}

record! {
    /// Key of the map of addresses that sent forged tags: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`.
    #[derive(Debug, PartialOrd, Ord)]
    pub struct SourceAddress: 16 bytes {
        0 => a: u32,
        4 => b: u32,
        8 => c: u32,
        12 => d: u32,
    }
}

impl SourceAddress {
    /// From the word of an IPv4 address as it is in a header.
    pub const fn from_ipv4(word: u32) -> Self {
        Self { a: 0, b: 0, c: 0xFFFF_u32.to_be(), d: word }
    }

    /// From the words of an IPv6 address as they are in a header.
    pub const fn from_ipv6([a, b, c, d]: [u32; 4]) -> Self {
        Self { a, b, c, d }
    }
}

/// What the kernel programs count besides `policy::GuardOutcome`, in the places of the map of counters that follow
/// those of the outcomes.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// SYNs that went out with a tag; a repeated SYN counts again.
    TagWritten = 0,
    /// Tagged connections that had no room left for the tag, or for which the kernel refused it.
    TagRefused = 1,
    /// Accepted connections with a true tag, on sockets that keep the SYN.
    TagVerified = 2,
    /// Accepted connections with a tag that no key of this cluster made, on sockets that keep the SYN.
    TagForged = 3,
}

impl Counter {
    /// Every counter, in the order of its places.
    pub const ALL: [Self; 4] = [Self::TagWritten, Self::TagRefused, Self::TagVerified, Self::TagForged];
}

/// Counts what changes in the layout of the maps: maps that outlive an agent are used by its successor only under the
/// same number.
pub const MAPS_VERSION: u32 = 1;

/// Names of the programs in their object.
pub mod program_names {
    pub const CONNECT4: &str = "tag_connect4";
    pub const CONNECT6: &str = "tag_connect6";
    pub const SOCK_OPS: &str = "tag_sock_ops";
    pub const GETSOCKOPT: &str = "answer_caller";
    pub const GUARD: &str = "guard_ingress";
}

/// Names of the maps in the object of the kernel programs, as the agent asks for them.
pub mod map_names {
    /// Inode number of a cgroup v2 directory (`u64`) to [`super::Identity`].
    pub const CGROUPS: &str = "CGROUPS";
    /// [`super::Identity`] to [`super::IdentityEntry`].
    pub const KNOWN: &str = "KNOWN";
    /// [`super::GuardKey`] to [`super::GuardEntry`].
    pub const GUARDS: &str = "GUARDS";
    /// The set of [`super::ExclusionKey`].
    pub const EXCLUSIONS: &str = "EXCLUSIONS";
    /// One [`super::TagKeys`] under the key 0: unlike an array's, an element of a hash map is replaced as a whole.
    pub const KEYS: &str = "KEYS";
    /// [`super::SocketTag`] of a socket.
    pub const SOCKETS: &str = "SOCKETS";
    /// `u64` of each processor, by `policy::GuardOutcome` and then [`super::Counter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// [`super::SourceAddress`] to the number of its forged tags; the least recently seen address is forgotten.
    pub const FORGERS: &str = "FORGERS";
}

/// The most cgroups that can be told apart: a node's pods, with room for what other levels need.
pub const CGROUPS_MAX: u32 = 8192;
/// The most workloads that can be known; the whole of a large cluster.
pub const KNOWN_MAX: u32 = 65_536;
/// The most guarded ports of a node's pods.
pub const GUARDS_MAX: u32 = 16_384;
/// The most pairs of private function and excluded caller, of a node's functions.
pub const EXCLUSIONS_MAX: u32 = 65_536;
/// The most addresses of forgers that are remembered.
pub const FORGERS_MAX: u32 = 1024;
/// The deepest level of the cgroup hierarchy that is looked at; the root is 0. Pods are at 2 to 4, and at some more
/// where a node runs in a container.
pub const CGROUP_LEVELS: i32 = 16;

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;

    use super::*;

    #[test]
    fn verdict_numbers_are_fixed() {
        let numbers = [(Verdict::Untagged, 0), (Verdict::Known, 1), (Verdict::Foreign, 2), (Verdict::Forged, 3)];
        for (verdict, number) in numbers {
            assert_eq!(verdict.as_u32(), number);
            assert_eq!(Verdict::from_u32(number), Some(verdict));
        }
        assert_eq!(Verdict::from_u32(4), None);
        assert_eq!(Verdict::from_u32(u32::MAX), None);
    }

    #[test]
    fn zeroed_memory_is_distrustful() {
        let reply = CallerReply::from_bytes(&[0; 16]);
        assert_eq!(reply.identity, Identity::NONE);
        assert_eq!(Verdict::from_u32(reply.verdict), Some(Verdict::Untagged));
        let keys = TagKeys::from_bytes(&[0; 56]);
        for slot in [KeySlot::Current, KeySlot::Next, KeySlot::Previous] {
            assert_eq!(keys.key(slot), None);
        }
    }

    #[test]
    fn each_present_bit_opens_its_own_slot() {
        let key = |k0| Key { k0, k1: 0 };
        let keys = |present| TagKeys { current: key(1), next: key(2), previous: key(3), present, generation: 0 };
        assert_eq!(keys(TagKeys::HAS_CURRENT).key(KeySlot::Current), Some(key(1)));
        assert_eq!(keys(TagKeys::HAS_NEXT).key(KeySlot::Next), Some(key(2)));
        assert_eq!(keys(TagKeys::HAS_PREVIOUS).key(KeySlot::Previous), Some(key(3)));
        assert_eq!(keys(TagKeys::HAS_NEXT | TagKeys::HAS_PREVIOUS).key(KeySlot::Current), None);
        assert_eq!(keys(TagKeys::HAS_CURRENT | TagKeys::HAS_PREVIOUS).key(KeySlot::Next), None);
        assert_eq!(keys(TagKeys::HAS_CURRENT | TagKeys::HAS_NEXT).key(KeySlot::Previous), None);
    }

    /// The 16-byte images of the records, spelled for a little-endian machine.
    #[test]
    #[cfg(target_endian = "little")]
    fn records_have_the_stated_bytes() {
        let reply = CallerReply {
            identity: Identity(0xAABB_CCDD),
            verdict: Verdict::Known.as_u32(),
            namespace: NamespaceId(7),
            flags: IdentityFlags::GATEWAY.with(IdentityFlags::UNTRUSTED),
        };
        let bytes = [0xDD, 0xCC, 0xBB, 0xAA, 1, 0, 0, 0, 7, 0, 0, 0, 5, 0, 0, 0];
        assert_eq!(reply.to_bytes(), bytes);
        assert_eq!(CallerReply::from_bytes(&bytes), reply);
    }

    #[test]
    fn nested_records_survive_their_bytes() {
        let key = |first| Key { k0: first, k1: first + 1 };
        let keys = TagKeys { current: key(1), next: key(3), previous: key(5), present: 7, generation: 9 };
        assert_eq!(TagKeys::from_bytes(&keys.to_bytes()), keys);
    }

    #[test]
    fn a_key_is_two_little_endian_words_and_is_not_printed() {
        let key = Key::from_secret([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!((key.k0, key.k1), (0x0706_0504_0302_0100, 0x0F0E_0D0C_0B0A_0908));
        assert_eq!(format!("{key:?}"), "Key(…)");
    }
}
