//! Finds out that a starting pod serves, milliseconds after it does.
