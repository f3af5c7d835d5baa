mod cluster;
mod disk;
mod many;
mod one;
mod power;
