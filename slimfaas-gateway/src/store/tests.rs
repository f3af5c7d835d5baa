pub(crate) mod cluster;
pub(crate) mod disk;
mod many;
mod one;
mod power;
