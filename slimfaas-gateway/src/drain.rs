//! The end of the process's life: stop taking work, let what runs finish, then cut what is left.

use std::time::Duration;

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
    Forced,
}

/// The one who ends the process.
pub struct Trigger {
    phase: watch::Sender<Phase>,
}

/// Held by everything that must end first; dropping it says "I have ended".
#[derive(Clone)]
pub struct Watch {
    phase: watch::Receiver<Phase>,
}

pub fn channel() -> (Trigger, Watch) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (Trigger { phase: sender }, Watch { phase: receiver })
}

impl Trigger {
    /// Asks all to end and waits until they have. After `deadline` they are told to drop what they hold;
    /// returns whether that was needed.
    pub async fn drain(self, deadline: Duration) -> bool {
        self.phase.send_replace(Phase::Draining);
        if tokio::time::timeout(deadline, self.phase.closed()).await.is_ok() {
            return false;
        }
        self.phase.send_replace(Phase::Forced);
        self.phase.closed().await;
        true
    }
}

impl Watch {
    /// Resolves when draining starts: take no more work.
    pub async fn signaled(&mut self) {
        // An error means that the trigger is gone, which is an end too.
        let _ended = self.phase.wait_for(|phase| *phase >= Phase::Draining).await.is_ok();
    }

    /// Resolves at the deadline: drop everything now.
    pub async fn forced(&mut self) {
        let _ended = self.phase.wait_for(|phase| *phase >= Phase::Forced).await.is_ok();
    }

    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drains_when_the_last_watch_is_dropped() {
        let (trigger, mut watch) = channel();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { watch.signaled().await });
        assert!(!trigger.drain(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn forces_what_does_not_end_by_itself() {
        let (trigger, mut watch) = channel();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { watch.forced().await });
        assert!(trigger.drain(Duration::from_millis(10)).await);
    }
}
