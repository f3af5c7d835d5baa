//! Needs nothing but a loopback network: the gateway as its users see it, with real processes behind it.
#![expect(
    clippy::disallowed_methods,
    reason = "the suites stand outside of the gateway: they own their environment, clock and sockets"
)]

mod loopback {
    use slimfaas_tests::http1 as client;
    use slimfaas_tests::{backend, gateway};

    mod asynchronous;
    mod ending;
    mod events;
    mod failures;
    mod forwarding;
    mod jobs;
    mod large_bodies;
    mod limits;
    mod local;
    mod malformed;
    mod nodes;
    mod retries;
    mod scaling;
    mod slowness;
    mod smuggling;
    mod streaming;
    mod upgrades;
    mod visibility;
}
