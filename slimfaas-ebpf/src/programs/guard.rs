//! `cgroup_skb/ingress`: drops a SYN to a guarded port unless it bears the tag of somebody who may connect there. It
//! runs for every packet to a socket of the node, and is done after a look at the socket's state for all that do not
//! open a connection.

use core::ptr;

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::{bpf_skb_ancestor_cgroup_id, bpf_skb_load_bytes};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use slimfaas_ebpf::contract::{CGROUP_LEVELS, GuardEntry, GuardKey, OPTIONS_LEN_MAX, SourceAddress};
use slimfaas_ebpf::policy::{self, GuardOutcome};
use slimfaas_ebpf::segment::{Segment, read_segment};
use slimfaas_ebpf::tag::{self, Found, TagCheck};

use super::{log, maps};

const PASS: i32 = 1;
const DROP: i32 = 0;
/// A socket's state in which what arrives may open a connection.
const TCP_LISTEN: u32 = 10;

#[cgroup_skb(ingress)]
pub(crate) fn guard_ingress(context: SkBuffContext) -> i32 {
    let packet = context.skb.skb;
    // SAFETY: the kernel gives the context, and allows this field to be read.
    let socket = unsafe { (*packet).__bindgen_anon_2.sk };
    if socket.is_null() {
        return PASS;
    }
    // SAFETY: not null, and the kernel allows this field to be read.
    if unsafe { (*socket).state } != TCP_LISTEN {
        return PASS;
    }
    guard_listener(&context, socket)
}

#[inline(always)]
fn guard_listener(context: &SkBuffContext, socket: *mut bpf_sock) -> i32 {
    let packet = context.skb.skb;
    // SAFETY: not null, and the kernel allows this field to be read.
    let port = unsafe { (*socket).src_port } as u16;
    let Some(guard) = guard_of(packet, port) else { return PASS };
    // What cannot be read is not let through.
    let Some(segment) = read(packet) else { return conclude(context, port, GuardOutcome::Untagged) };
    if !policy::opens_connection(segment.flags) {
        return PASS;
    }
    let check = check(packet, segment);
    if let TagCheck::Forged(_) = check
        && let Some(address) = source_address(packet)
    {
        maps::count_forger(address);
    }
    conclude(context, port, policy::decide_guard(check, maps::known(check), guard, maps::excluded(guard, check)))
}

#[inline(always)]
fn conclude(context: &SkBuffContext, port: u16, outcome: GuardOutcome) -> i32 {
    maps::count_outcome(outcome);
    if outcome.allows() {
        return PASS;
    }
    log::dropped(context, port, outcome);
    DROP
}

/// The guard of this port in one of the cgroups that the listening socket was made in.
#[inline(always)]
fn guard_of(packet: *mut __sk_buff, port: u16) -> Option<GuardEntry> {
    for level in 0..CGROUP_LEVELS {
        // SAFETY: the context's own; the helper takes any number.
        let cgroup = unsafe { bpf_skb_ancestor_cgroup_id(packet, level) };
        if cgroup == 0 {
            break;
        }
        let key = GuardKey { cgroup, port, reserved_a: 0, reserved_b: 0 };
        // SAFETY: words of four bytes that the agent replaces together by a new element.
        if let Some(guard) = unsafe { maps::GUARDS.get(key) } {
            return Some(*guard);
        }
    }
    None
}

#[inline(always)]
fn load<const N: usize>(packet: *mut __sk_buff, at: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the context's own, and as many bytes as are named.
    let result = unsafe { bpf_skb_load_bytes(packet.cast(), at, bytes.as_mut_ptr().cast(), N as u32) };
    if result == 0 { Some(bytes) } else { None }
}

#[inline(always)]
fn read(packet: *mut __sk_buff) -> Option<Segment> {
    let byte = |at| load::<1>(packet, at).map(|[byte]| byte);
    let word = |at| load::<4>(packet, at).map(u32::from_be_bytes);
    read_segment(byte, word)
}

#[inline(always)]
fn check(packet: *mut __sk_buff, segment: Segment) -> TagCheck {
    let (Some(keys), Some(options), Some(scratch)) =
        (maps::keys(), maps::OPTIONS.get_ptr_mut(0), maps::SCRATCH.get_ptr_mut(0))
    else {
        return TagCheck::Untagged;
    };
    let forget = |number: usize| {
        // SAFETY: this processor's own; nothing else writes it while this runs.
        unsafe {
            ptr::write_volatile(scratch, number as u64);
            ptr::read_volatile(scratch) as usize
        }
    };
    let (at, len) = (forget(segment.options_at as usize) as u32, forget(segment.options_len as usize) as u32);
    let found = if len == 0 || len > OPTIONS_LEN_MAX as u32 {
        Found::Nothing
    } else {
        // SAFETY: the context's own, and the value of the map has as many bytes.
        let result = unsafe { bpf_skb_load_bytes(packet.cast(), at, options.cast(), plainly_some(len)) };
        // SAFETY: this processor's own; nothing else writes it while this runs.
        if result == 0 { tag::find(unsafe { &*options }, len as usize, forget) } else { Found::Nothing }
    };
    tag::verify(found, segment.sequence, keys)
}

/// The same number, which is a multiple of four from 4 to 64, in a form of which older verifiers see that it is not
/// zero: they do not learn it from a comparison.
#[inline(always)]
fn plainly_some(len: u32) -> u32 {
    // SAFETY: a value of our own. Read so, the compiler cannot know it, and leaves what follows in place.
    let words = unsafe { ptr::read_volatile(&raw const len) } / 4;
    (words.wrapping_sub(1) & 15) * 4 + 4
}

#[inline(always)]
fn source_address(packet: *mut __sk_buff) -> Option<SourceAddress> {
    let [first] = load::<1>(packet, 0)?;
    if first >> 4 == 6 {
        let word = |at| load::<4>(packet, at).map(u32::from_ne_bytes);
        Some(SourceAddress::from_ipv6([word(8)?, word(12)?, word(16)?, word(20)?]))
    } else {
        Some(SourceAddress::from_ipv4(u32::from_ne_bytes(load::<4>(packet, 12)?)))
    }
}
