//! What the programs share with each other and with the agent.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::{HashMap, LruHashMap, PerCpuArray, SkStorage};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use slimfaas_ebpf::contract::{
    CGROUPS_MAX, Counter, EXCLUSIONS_MAX, ExclusionKey, FORGERS_MAX, GUARDS_MAX, GuardEntry, GuardKey, Identity,
    IdentityEntry, KNOWN_MAX, OPTIONS_ROOM, SocketTag, SourceAddress, TagKeys,
};
use slimfaas_ebpf::policy::{self, GuardOutcome};
use slimfaas_ebpf::tag::TagCheck;

const OUTCOMES: u32 = GuardOutcome::ALL.len() as u32;
const COUNTERS_LEN: usize = GuardOutcome::ALL.len() + Counter::ALL.len();

#[btf_map]
pub(crate) static CGROUPS: HashMap<u64, Identity, { CGROUPS_MAX as usize }> = HashMap::new();
/// A bit for each level of the hierarchy at which a pod's cgroup was found.
#[btf_map]
pub(crate) static POD_LEVELS: PerCpuArray<u32, 1> = PerCpuArray::new();
#[btf_map]
static KNOWN: HashMap<Identity, IdentityEntry, { KNOWN_MAX as usize }> = HashMap::new();
#[btf_map]
pub(crate) static GUARDS: HashMap<GuardKey, GuardEntry, { GUARDS_MAX as usize }> = HashMap::new();
#[btf_map]
static EXCLUSIONS: HashMap<ExclusionKey, u8, { EXCLUSIONS_MAX as usize }> = HashMap::new();
#[btf_map]
static KEYS: HashMap<u32, TagKeys, 1> = HashMap::new();
#[btf_map]
static SOCKETS: SkStorage<SocketTag> = SkStorage::new();
#[btf_map]
static COUNTERS: PerCpuArray<u64, COUNTERS_LEN> = PerCpuArray::new();
#[btf_map]
static FORGERS: LruHashMap<SourceAddress, u64, { FORGERS_MAX as usize }> = LruHashMap::new();
/// The options of the packet at hand: the verifier of older kernels allows a computed place in a map's value, but not
/// on the stack.
#[btf_map]
pub(crate) static OPTIONS: PerCpuArray<[u8; OPTIONS_ROOM], 1> = PerCpuArray::new();
/// For a number of which the verifier is to know nothing any more: it keeps no account of what is in a map.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<u64, 1> = PerCpuArray::new();

/// `None` before the agent has set them: then nothing is signed and nothing verified.
#[inline(always)]
pub(crate) fn keys() -> Option<&'static TagKeys> {
    // SAFETY: the agent replaces the element as a whole, and there is no other that could take its place.
    unsafe { KEYS.get(0) }
}

/// What the table of known identities has of a caller.
#[inline(always)]
pub(crate) fn known(check: TagCheck) -> Option<IdentityEntry> {
    let identity = policy::identity_to_look_up(check)?;
    // SAFETY: both fields are words of four bytes that the agent replaces together by a new element.
    unsafe { KNOWN.get(identity) }.copied()
}

#[inline(always)]
pub(crate) fn excluded(guard: GuardEntry, check: TagCheck) -> bool {
    match policy::identity_to_look_up(check) {
        Some(caller) => EXCLUSIONS.get_ptr(policy::exclusion_key(guard, caller)).is_some(),
        None => false,
    }
}

/// What is kept with a socket.
#[inline(always)]
pub(crate) fn socket_tag(socket: *mut bpf_sock) -> Option<SocketTag> {
    // SAFETY: the socket is the context's own, and the caller has seen that it is not null.
    let stored = unsafe { bpf_sk_storage_get(sockets(), socket.cast(), ptr::null_mut(), 0) }.cast::<SocketTag>();
    // SAFETY: not null, so it points to the storage, which lives as long as the socket.
    if stored.is_null() { None } else { Some(unsafe { *stored }) }
}

/// Keeps a tag with a socket, in place of an earlier one.
#[inline(always)]
pub(crate) fn keep_socket_tag(socket: *mut bpf_sock, mut tag: SocketTag) {
    let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    let initial = ptr::from_mut(&mut tag).cast();
    // SAFETY: the socket is the context's own, and the caller has seen that it is not null.
    let stored = unsafe { bpf_sk_storage_get(sockets(), socket.cast(), initial, flags) }.cast::<SocketTag>();
    if !stored.is_null() {
        // SAFETY: not null, so it points to the storage, which lives as long as the socket.
        unsafe { *stored = tag };
    }
}

#[inline(always)]
fn sockets() -> *mut c_void {
    ptr::from_ref(&SOCKETS).cast_mut().cast()
}

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    add_one(OUTCOMES + counter as u32);
}

#[inline(always)]
pub(crate) fn count_outcome(outcome: GuardOutcome) {
    add_one(outcome as u32);
}

#[inline(always)]
fn add_one(place: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(place) {
        // SAFETY: it is this processor's own.
        unsafe { *counter += 1 };
    }
}

/// Of a forged tag. Two processors that count the same address at once may lose one.
#[inline(always)]
pub(crate) fn count_forger(address: SourceAddress) {
    if let Some(count) = FORGERS.get_ptr_mut(address) {
        // SAFETY: an element of a map can be written for as long as the program runs.
        unsafe { *count += 1 };
    } else {
        // Another processor may have been first, or there may be no room: a count of one is no loss.
        let _lost = FORGERS.insert(address, 1_u64, 0);
    }
}
