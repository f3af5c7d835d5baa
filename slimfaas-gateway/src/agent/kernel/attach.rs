//! Attaching a program to a cgroup by a kernel link, and tying the link to a file. Calls of bpf(2), made here
//! because aya keeps the links of some program types to itself, so that they end with the process.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for this")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_DETACH: libc::c_int = 34;

/// The part of `union bpf_attr` that creates a link on a cgroup.
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    /// Links are always beside others, and refuse the flag that says so.
    flags: u32,
}

/// The part of `union bpf_attr` that pins, and that opens what is pinned.
#[repr(C)]
struct Pin {
    path: u64,
    object: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that detaches.
#[repr(C)]
struct LinkDetach {
    link: u32,
}

/// The part of `union bpf_attr` that asks what is attached.
#[repr(C)]
struct ProgQuery {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    /// Answered.
    attach_flags: u32,
    programs: u64,
    /// Answered: how many there are.
    count: u32,
    padding: u32,
}

/// Attaches a program; it stays attached for as long as the link is open or pinned.
pub(super) fn create_link(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate { program: number(program), target: number(cgroup), attach_type, flags: 0 };
    let link = bpf(BPF_LINK_CREATE, &mut attributes)?;
    // SAFETY: the call has just opened it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// Keeps a link open by a file of a bpffs, until the file is removed.
pub(super) fn pin(link: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Pin { path: path.as_ptr() as u64, object: number(link.as_fd()), flags: 0 };
    bpf(BPF_OBJ_PIN, &mut attributes).map(drop)
}

/// Detaches the link that a file keeps, now: the kernel takes its time with a link whose file is removed. One whose
/// cgroup has gone is detached already.
pub(in crate::agent) fn detach_pinned(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Pin { path: path.as_ptr() as u64, object: 0, flags: 0 };
    let link = bpf(BPF_OBJ_GET, &mut attributes)?;
    // SAFETY: the call has just opened it, and nobody else knows of it.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    match bpf(BPF_LINK_DETACH, &mut LinkDetach { link: number(link.as_fd()) }) {
        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => Err(error),
        _ => Ok(()),
    }
}

/// How many programs, of whomever, are attached to a cgroup itself, and not to one above it.
pub(super) fn count_attached(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<usize> {
    let mut attributes = ProgQuery {
        target: number(cgroup),
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        programs: 0,
        count: 0,
        padding: 0,
    };
    bpf(BPF_PROG_QUERY, &mut attributes)?;
    Ok(attributes.count as usize)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open file has a positive number")
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes at most as many bytes as are named, all of them integers; what they point to
    // lives until the call is over.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(libc::c_int::try_from(result).expect("the kernel answers with the number of an open file"))
}
