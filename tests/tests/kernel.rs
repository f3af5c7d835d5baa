//! Needs root, cgroup v2 and the object of kernel programs: what the kernel does with tags and guarded ports. Each test
//! makes cgroups and network namespaces of its own, and attaches programs to nothing else.
#![expect(
    clippy::disallowed_methods,
    reason = "the suites stand outside of the gateway: they own their environment, clock and sockets"
)]

mod kernel {
    mod actor;
    mod agent;
    mod api_server;
    mod network;
    mod site;

    mod churn;
    mod forged;
    mod guard;
    mod lifetime;
    mod older;
    mod tags;
}
