//! What this node may decide alone: with several gateway nodes, one leads.

use tokio::sync::watch;

use crate::scaler::decide::{Decision, Reason};

/// Who this node is among its peers, now.
#[derive(Clone)]
pub struct Authority {
    leads: watch::Receiver<bool>,
    knows_all: watch::Receiver<bool>,
}

impl Authority {
    /// `leads`: only one node's is true at a time. `knows_all`: no peer's calls are unknown to this node.
    pub fn new(leads: watch::Receiver<bool>, knows_all: watch::Receiver<bool>) -> Self {
        Self { leads, knows_all }
    }

    /// Of a gateway that is alone.
    pub fn sole() -> Self {
        Self { leads: watch::Sender::new(true).subscribe(), knows_all: watch::Sender::new(true).subscribe() }
    }

    /// Whether to act on a decision: the leader does, but takes nothing away from functions that a silent peer may be
    /// calling. Any node wakes what its own callers wait for.
    pub(super) fn allows(&self, from: u32, decision: &Decision) -> bool {
        if *self.leads.borrow() {
            return decision.replicas > from || *self.knows_all.borrow();
        }
        let is_awaited = matches!(decision.reason, Reason::WaitingRequests | Reason::DependentWaiting(_));
        from == 0 && is_awaited
    }

    /// Resolves when `allows` may answer otherwise.
    pub(super) async fn changed(&mut self) {
        let Self { leads, knows_all } = self;
        tokio::select! {
            biased;
            () = change_of(leads) => {}
            () = change_of(knows_all) => {}
        }
    }
}

async fn change_of(receiver: &mut watch::Receiver<bool>) {
    if receiver.changed().await.is_err() {
        // Nobody can change it any more.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::function::FunctionId;

    #[test]
    fn one_leads_and_all_wake() {
        let decision =
            |replicas, reason: &Reason| Decision { replicas, reason: reason.clone(), next: None, asleep: false };
        let of = |leads, knows_all| {
            Authority::new(watch::Sender::new(leads).subscribe(), watch::Sender::new(knows_all).subscribe())
        };
        let dependent = Reason::DependentWaiting(FunctionId::new("demo", "a"));
        for (from, to, reason, leader, blind_leader, follower) in [
            (0, 1, &Reason::WaitingRequests, true, true, true),
            (0, 1, &dependent, true, true, true),
            (0, 1, &Reason::Schedule, true, true, false),
            (1, 2, &Reason::WaitingRequests, true, true, false),
            (2, 0, &Reason::Idle, true, false, false),
        ] {
            let decision = decision(to, reason);
            assert_eq!(of(true, true).allows(from, &decision), leader, "{decision:?}");
            assert_eq!(of(true, false).allows(from, &decision), blind_leader, "{decision:?}");
            assert_eq!(of(false, true).allows(from, &decision), follower, "{decision:?}");
            assert_eq!(Authority::sole().allows(from, &decision), leader, "{decision:?}");
        }
    }
}
