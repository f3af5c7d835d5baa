//! What the gateway says of itself: logs and metrics.

pub mod events;
pub mod log;
pub mod metrics;
pub mod traffic;
