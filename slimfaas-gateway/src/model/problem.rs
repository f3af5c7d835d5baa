//! What is wrong with somebody's configuration, in words that say what to check.

use std::fmt;

/// One bad value. It never stops the function it belongs to: the default or last good value is used instead.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Problem {
    /// The annotation, option or file key at fault.
    pub key: String,
    /// What is wrong and which value is used instead.
    pub message: String,
}

impl Problem {
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}
