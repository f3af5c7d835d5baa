//! Environment variables to `Config`.
