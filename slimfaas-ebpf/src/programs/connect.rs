//! `cgroup/connect4` and `connect6`: whose process it is that connects. This runs in the process's context, which the
//! SYN does not.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use slimfaas_ebpf::contract::Identity;
use slimfaas_ebpf::tag::TagCheck;

use super::{cgroup, maps};

const PROCEED: i32 = 1;
const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;

#[cgroup_sock_addr(connect4)]
pub(crate) fn tag_connect4(context: SockAddrContext) -> i32 {
    remember_identity(&context)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn tag_connect6(context: SockAddrContext) -> i32 {
    remember_identity(&context)
}

#[inline(always)]
fn remember_identity(context: &SockAddrContext) -> i32 {
    let address = context.sock_addr;
    // SAFETY: the kernel gives the context, and allows these fields to be read.
    let (kind, protocol, socket) = unsafe { ((*address).type_, (*address).protocol, (*address).__bindgen_anon_1.sk) };
    if kind != SOCK_STREAM || protocol != IPPROTO_TCP || socket.is_null() {
        return PROCEED;
    }
    let identity = cgroup::identity_of_current_process();
    // Nobody's process leaves nothing behind, unless it has been given somebody's socket.
    if identity != Identity::NONE || maps::socket_tag(socket).is_some() {
        maps::keep_socket_tag(socket, TagCheck::Valid(identity).store());
    }
    PROCEED
}
