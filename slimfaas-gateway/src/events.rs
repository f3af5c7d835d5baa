//! Events: what an event is called, what a CloudEvent has to be, and where its body waits while it is delivered.
//! Who gets it and how is `proxy::publish`.

pub mod cloud_event;
pub mod name;
pub mod prefer;
pub mod publisher;
pub mod spool;
