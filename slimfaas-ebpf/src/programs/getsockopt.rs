//! `cgroup/getsockopt`: answers the gateway who its caller is. It needs neither a privilege nor a map for it.

use core::ptr;

use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use slimfaas_ebpf::contract::{CallerReply, SOCKOPT_CALLER, SOCKOPT_LEVEL};
use slimfaas_ebpf::policy;
use slimfaas_ebpf::tag::TagCheck;

use super::maps;

/// The call's own result goes back.
const PROCEED: i32 = 1;
const REPLY_LEN: usize = size_of::<CallerReply>();

#[cgroup_sockopt(getsockopt)]
pub(crate) fn answer_caller(context: SockoptContext) -> i32 {
    let option = context.sockopt;
    // SAFETY: the kernel gives the context, and allows these fields to be read and written. Written one by one: merged
    // into one store of eight bytes the verifier would refuse them.
    unsafe {
        if (*option).level != SOCKOPT_LEVEL || (*option).optname != SOCKOPT_CALLER {
            // Zero: the kernel's own answer goes to the caller as it is. Without this, one that is longer than a page
            // would be refused.
            ptr::write_volatile(&raw mut (*option).optlen, 0);
            return PROCEED;
        }
        let socket = (*option).__bindgen_anon_1.sk;
        let (start, end) = ((*option).__bindgen_anon_2.optval as usize, (*option).__bindgen_anon_3.optval_end as usize);
        if socket.is_null() || start + REPLY_LEN > end {
            return PROCEED;
        }
        let check = maps::socket_tag(socket).map_or(TagCheck::Untagged, TagCheck::load);
        *(start as *mut CallerReply) = policy::answer_caller(check, maps::known(check));
        ptr::write_volatile(&raw mut (*option).retval, 0);
        // Last, as in the other case: the compiler makes one store of the two last ones, which the verifier takes only
        // at one and the same place.
        ptr::write_volatile(&raw mut (*option).optlen, REPLY_LEN as i32);
    }
    PROCEED
}
