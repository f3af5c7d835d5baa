//! The static list of functions: `MOCK_KUBERNETES_FUNCTIONS`.
