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
