//! Three gateways with one store, and everything that happens to machines: nothing that was acknowledged is lost.
//!
//! Each scenario runs real processes under continuous load, writes down what clients and the function saw, and then has
//! the history judged twice: here, and by a checker that shares no code with it. `docs/crash-suite.md` tells how to run
//! and read it. What only root can do (network namespaces, mounts) is skipped aloud elsewhere.
#![expect(
    clippy::disallowed_methods,
    reason = "the suites stand outside of the gateway: they own their environment, clock and sockets"
)]

mod crash {
    use slimfaas_tests::http1 as client;

    mod checker;
    mod cluster;
    mod history;
    mod load;
    mod namespaces;
    mod scenario;
    mod sink;
    mod verdict;

    mod clocks;
    mod damage;
    mod full_disk;
    mod kills;
    mod lost_disk;
    mod mixed;
    mod partitions;
    mod pauses;
}
