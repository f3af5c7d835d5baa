//! Log lines on standard error: text for people, JSON for machines.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

#[derive(Debug, thiserror::Error)]
#[error("bad log filter {filter:?}: {reason} (an example of a good one: info,access=debug)")]
pub struct FilterError {
    filter: String,
    reason: String,
}

/// Starts logging for the whole process. Once.
pub fn start(log: &Log) -> Result<(), FilterError> {
    let filter = EnvFilter::builder()
        .parse(&log.filter)
        .map_err(|error| FilterError { filter: log.filter.clone(), reason: error.to_string() })?;
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => base.with_ansi(std::io::stderr().is_terminal() && !log.no_color).init(),
        LogFormat::Json => base.json().flatten_event(true).init(),
    }
    Ok(())
}
