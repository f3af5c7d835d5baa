//! Functions as child processes, from `slimfaas.local.yaml`.
