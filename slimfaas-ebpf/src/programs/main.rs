//! The kernel programs: they look things up and do what the pure modules of the library say. One file for each family,
//! named for the hook; `maps` is what they share.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "kernel programs call the kernel's helpers")]

mod cgroup;
mod connect;
mod getsockopt;
mod guard;
mod log;
mod maps;
mod sock_ops;

/// The helpers are the kernel's own, and it gives some of them to programs of this licence only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could get here.
    loop {}
}
