//! Who may call what: values only. The decision is `proxy::visibility`.

use crate::model::path::PathPrefix;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Visibility {
    #[default]
    Public,
    /// Only for callers proven to be inside.
    Private,
}

impl Visibility {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "Public",
            Self::Private => "Private",
        }
    }
}

/// Whether a workload's own calls count as internal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Trust {
    #[default]
    Trusted,
    Untrusted,
}

impl Trust {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "Trusted",
            Self::Untrusted => "Untrusted",
        }
    }
}

/// Whether callers may connect to a function's pods without passing the gateway; only node agents can prevent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DirectAccess {
    /// Those that may call every path of it. A function with a public path is open.
    #[default]
    ByVisibility,
    /// Everybody.
    Open,
    /// Nobody but the gateway: its limits and its scaling see every call.
    Guarded,
}

impl DirectAccess {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ByVisibility => "ByVisibility",
            Self::Open => "Open",
            Self::Guarded => "Guarded",
        }
    }
}

/// One entry of `SlimFaas/PathsStartWithVisibility`; the first match wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    pub prefix: PathPrefix,
    pub visibility: Visibility,
}

/// One entry of `SlimFaas/SubscribeEvents`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSubscription {
    pub event: String,
    pub visibility: Visibility,
}
