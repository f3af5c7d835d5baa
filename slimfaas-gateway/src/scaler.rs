//! Brings each function to the replicas that `decide` wants.
