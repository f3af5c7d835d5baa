//! `SlimFaas/…` annotations to `FunctionSpec`.
