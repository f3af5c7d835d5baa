//! Attaching a program to a cgroup by a kernel link, and tying the link to a file. Two calls of bpf(2), made here
//! because aya keeps the links of some program types to itself, so that they end with the process.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for this")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_LINK_CREATE: libc::c_int = 28;

/// The part of `union bpf_attr` that creates a link on a cgroup.
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    /// Links are always beside others, and refuse the flag that says so.
    flags: u32,
}

/// The part of `union bpf_attr` that pins.
#[repr(C)]
struct Pin {
    path: u64,
    object: u32,
    flags: u32,
}

/// Attaches a program; it stays attached for as long as the link is open or pinned.
pub(super) fn create_link(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let attributes = LinkCreate { program: number(program), target: number(cgroup), attach_type, flags: 0 };
    let link = bpf(BPF_LINK_CREATE, &attributes)?;
    // SAFETY: the call has just opened it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// Keeps a link open by a file of a bpffs, until the file is removed.
pub(super) fn pin(link: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Pin { path: path.as_ptr() as u64, object: number(link.as_fd()), flags: 0 };
    bpf(BPF_OBJ_PIN, &attributes).map(drop)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open file has a positive number")
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads as many bytes as are named, and writes none for these commands; what the attributes
    // point to lives until the call is over.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(libc::c_int::try_from(result).expect("the kernel answers with the number of an open file"))
}
