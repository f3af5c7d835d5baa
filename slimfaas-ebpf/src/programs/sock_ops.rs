//! `sock_ops`: puts the tag into the SYN of a connecting socket, and checks the one that an accepted socket came with.
//! Established connections cost nothing: the kernel asks us only where we have asked for it.

use core::ptr;

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_HDR_OPT_LEN_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_WRITE_HDR_OPT_CB, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, bpf_sock,
    bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{
    bpf_load_hdr_opt, bpf_reserve_hdr_opt, bpf_sock_ops_cb_flags_set, bpf_store_hdr_opt,
};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use slimfaas_ebpf::contract::{Counter, Identity, OPTION_EXID, OPTION_KIND, OPTION_LEN, SourceAddress};
use slimfaas_ebpf::policy;
use slimfaas_ebpf::tag::{self, Found, TagCheck};

use super::maps;

const AF_INET6: u32 = 10;
/// What the kernel ignores of a `sock_ops` program, for the operations here.
const DONE: u32 = 1;
/// Look in the SYN that the listening socket kept; from the kernel's `bpf.h`.
const BPF_LOAD_HDR_OPT_TCP_SYN: u64 = 1;
/// The option that was found is longer than the room given for it.
const NO_SPACE: i64 = -28;

#[sock_ops]
pub(crate) fn tag_sock_ops(context: SockOpsContext) -> u32 {
    let ops = context.ops;
    match context.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => ask_for_syn(ops),
        BPF_SOCK_OPS_HDR_OPT_LEN_CB => reserve(ops),
        BPF_SOCK_OPS_WRITE_HDR_OPT_CB => write(ops),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => ask_for_nothing(&context),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => check(ops),
        _ => {}
    }
    DONE
}

#[inline(always)]
fn socket(ops: *mut bpf_sock_ops) -> Option<*mut bpf_sock> {
    // SAFETY: the kernel gives the context, and allows this field to be read.
    let socket = unsafe { (*ops).__bindgen_anon_2.sk };
    if socket.is_null() { None } else { Some(socket) }
}

/// Whose connection a connecting socket's is; set by the connect programs.
#[inline(always)]
fn own_identity(ops: *mut bpf_sock_ops) -> Option<Identity> {
    match TagCheck::load(maps::socket_tag(socket(ops)?)?) {
        TagCheck::Valid(identity) if identity != Identity::NONE => Some(identity),
        _ => None,
    }
}

#[inline(always)]
fn ask_for_syn(ops: *mut bpf_sock_ops) {
    if own_identity(ops).is_some() {
        // SAFETY: the context's own; flags of other programs on this socket stay.
        unsafe {
            let flags = (*ops).bpf_sock_ops_cb_flags | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
            bpf_sock_ops_cb_flags_set(ops, flags as i32);
        }
    }
}

#[inline(always)]
fn ask_for_nothing(context: &SockOpsContext) {
    let flags = context.cb_flags();
    if flags & BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG != 0 && own_identity(context.ops).is_some() {
        let others = flags & !BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
        // SAFETY: the context's own.
        unsafe { bpf_sock_ops_cb_flags_set(context.ops, others as i32) };
    }
}

/// Whether the packet at hand opens a connection.
#[inline(always)]
fn is_syn(ops: *mut bpf_sock_ops) -> bool {
    // SAFETY: the kernel gives the context, and allows this field to be read.
    policy::opens_connection(unsafe { (*ops).skb_tcp_flags } as u8)
}

#[inline(always)]
fn reserve(ops: *mut bpf_sock_ops) {
    if is_syn(ops) && own_identity(ops).is_some() {
        // SAFETY: the context's own.
        if unsafe { bpf_reserve_hdr_opt(ops, OPTION_LEN as u32, 0) } != 0 {
            maps::count(Counter::TagRefused);
        }
    }
}

#[inline(always)]
fn write(ops: *mut bpf_sock_ops) {
    if !is_syn(ops) {
        return;
    }
    let (Some(identity), Some(keys)) = (own_identity(ops), maps::keys()) else { return };
    // The initial sequence number, also of a SYN that is sent again.
    // SAFETY: the kernel gives the context, and allows this field to be read.
    let isn = unsafe { (*ops).snd_una };
    let Some(option) = tag::option_for(identity, isn, keys) else { return };
    // SAFETY: the context's own, and as many bytes as are named.
    let stored = unsafe { bpf_store_hdr_opt(ops, option.as_ptr().cast(), OPTION_LEN as u32, 0) };
    maps::count(if stored == 0 { Counter::TagWritten } else { Counter::TagRefused });
}

/// Only where the listening socket keeps SYNs (`TCP_SAVE_SYN`), as the gateway's do: on others there is nothing to
/// find, and nothing is spent.
#[inline(always)]
fn check(ops: *mut bpf_sock_ops) {
    let found = load_option(ops);
    if found == Found::Nothing {
        return;
    }
    let (Some(socket), Some(keys)) = (socket(ops), maps::keys()) else { return };
    // SAFETY: the kernel gives the context, and allows this field to be read.
    let isn = unsafe { (*ops).rcv_nxt }.wrapping_sub(1);
    let checked = tag::verify(found, isn, keys);
    if let TagCheck::Forged(_) = checked {
        maps::count(Counter::TagForged);
        maps::count_forger(remote_address(ops));
    } else {
        maps::count(Counter::TagVerified);
    }
    maps::keep_socket_tag(socket, checked.store());
}

#[inline(always)]
fn load_option(ops: *mut bpf_sock_ops) -> Found {
    let [high, low] = OPTION_EXID.to_be_bytes();
    // What to look for: kind, length of what is to match, and the experiment's name.
    let mut option = [0_u8; OPTION_LEN];
    [option[0], option[1], option[2], option[3]] = [OPTION_KIND, 4, high, low];
    // SAFETY: the context's own, and as many bytes as are named.
    let len = unsafe { bpf_load_hdr_opt(ops, option.as_mut_ptr().cast(), OPTION_LEN as u32, BPF_LOAD_HDR_OPT_TCP_SYN) };
    match len {
        16 => Found::Option(option),
        NO_SPACE => Found::Malformed,
        // No such option, or no SYN that was kept: a SYN cookie, or a listener that keeps none.
        ..0 => Found::Nothing,
        _ => Found::Malformed,
    }
}

#[inline(always)]
fn remote_address(ops: *mut bpf_sock_ops) -> SourceAddress {
    // SAFETY: the kernel gives the context, and allows these fields to be read; each word by itself.
    unsafe {
        if (*ops).family == AF_INET6 {
            let word = |at: usize| ptr::read_volatile(&raw const (*ops).remote_ip6[at]);
            SourceAddress::from_ipv6([word(0), word(1), word(2), word(3)])
        } else {
            SourceAddress::from_ipv4((*ops).remote_ip4)
        }
    }
}
