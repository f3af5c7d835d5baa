//! What the black-box suites share: finding the gateway and the public conformance suites, starting and ending
//! processes, and skipping aloud. A suite is one file of `tests/`, named for what it needs.
#![expect(
    clippy::disallowed_methods,
    reason = "the suites stand outside of the gateway: they own their environment, clock and sockets"
)]

pub mod backend;
pub mod forge;
pub mod gateway;
pub mod http1;
pub mod http2;
pub mod manifests;
pub mod metrics;
pub mod process;
pub mod report;
pub mod require;
pub mod tools;
pub mod websocket;
