//! Needs a Kubernetes cluster with the project's images: `cargo xtask test e2e` makes one, or uses that of KUBECONFIG.
//!
//! Every test installs a gateway of its own, from `deploy/`, into a namespace of its own. They run one at a time: most
//! of them measure.
#![expect(
    clippy::disallowed_methods,
    reason = "the suites stand outside of the gateway: they own their environment, clock and sockets"
)]

mod e2e {
    #[expect(dead_code, reason = "the kernel suite has it tell more")]
    #[path = "../kernel/actor.rs"]
    mod actor;
    mod cluster;
    mod functions;
    mod load;
    mod site;

    mod asynchronous;
    mod bad_manifests;
    mod cold_starts;
    mod disruptions;
    mod events;
    mod identity;
    mod jobs;
    mod manifests;
    mod many;
    mod outage;
    mod rights;
    mod walkthrough;
}
