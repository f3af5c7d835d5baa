//! Two socket options that no crate offers.
#![expect(unsafe_code, reason = "getsockopt and setsockopt have no safe wrapper for these options")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use slimfaas_ebpf::contract::{CallerReply, SOCKOPT_CALLER, SOCKOPT_LEVEL};

const REPLY_LEN: usize = size_of::<CallerReply>();

/// What the kernel says of an accepted connection's caller; `None` where no agent's programs are attached to answer.
pub fn kernel_caller(socket: &impl AsFd) -> io::Result<Option<CallerReply>> {
    let mut reply = [0_u8; REPLY_LEN];
    let mut len = libc::socklen_t::try_from(REPLY_LEN).expect("a reply has some bytes");
    // SAFETY: the socket is open, and the kernel writes at most `len` bytes to where there are as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            SOCKOPT_LEVEL,
            SOCKOPT_CALLER,
            reply.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        // Another length is another agent's idea of the answer.
        return Ok((len as usize == REPLY_LEN).then(|| CallerReply::from_bytes(&reply)));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // What TCP sockets say of a level that they do not know.
        Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::EINVAL) => Ok(None),
        _ => Err(error),
    }
}

/// Has the kernel keep the SYN of each connection that a listening socket takes, in which the agent's programs find
/// who calls. Costs some hundred bytes for each connection, and needs no privilege.
pub fn keep_syns(socket: &impl AsFd) -> io::Result<()> {
    const TCP_SAVE_SYN: libc::c_int = 27;
    let on: libc::c_int = 1;
    let len = libc::socklen_t::try_from(size_of_val(&on)).expect("a number has some bytes");
    // SAFETY: the socket is open, and the kernel reads the bytes of one number.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_SAVE_SYN,
            std::ptr::from_ref(&on).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn without_an_agent_there_is_no_answer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        keep_syns(&listener).expect("any process may");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (accepted, _) = listener.accept().expect("the connection");
        for stream in [&client, &accepted] {
            // A machine whose agent runs answers that a process of the node calls, or nobody.
            if let Some(reply) = kernel_caller(stream).expect("an answer") {
                assert_eq!(reply.namespace.0, 0);
            }
        }
    }
}
