//! Needs nothing but a loopback network: every public route, with its exact statuses, headers and bodies.
//!
//! Whoever has clients of the original reads here what they get. Where an answer is not the original's, the test's
//! comment says `Differs:` and why. Numbers are those of the behaviour reference's route catalogue.

mod compat {
    mod site;

    mod asynchronous;
    mod calls;
    mod elsewhere;
    mod events;
    mod health;
    mod jobs;
    mod queues;
    mod status;
    mod wake;
}
