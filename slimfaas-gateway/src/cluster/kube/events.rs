//! Kubernetes Events on workloads: why their replicas changed, and what is wrong with their annotations.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::drain;
use crate::model::problem::Problem;

/// Events that wait to be sent; more are dropped. They are for people, and nobody reads more than this.
const WAITING_MAX: usize = 256;

/// The API allows 1024 bytes of note.
const NOTE_MAX: usize = 1000;

/// The API allows 128 characters of action.
const ACTION_MAX: usize = 120;

/// Takes events; never waits.
#[derive(Clone)]
pub(super) struct Announcer(mpsc::Sender<Announcement>);

/// Sends what its [`Announcer`]s take.
pub(super) struct Announcements(mpsc::Receiver<Announcement>);

pub(super) struct Announcement {
    about: ObjectReference,
    event: Event,
}

pub(super) fn channel() -> (Announcer, Announcements) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Announcer(sender), Announcements(receiver))
}

impl Announcer {
    pub(super) fn scaled(&self, about: ObjectReference, from: u32, to: u32, why: &str) {
        let reason = if to > from { "ScaledUp" } else { "ScaledDown" };
        let note = format!("from {from} to {to} replicas: {why}");
        // The recorder counts events of the same action as one: these are the same when the numbers are.
        self.send(about, EventType::Normal, reason, format!("Scale{from}To{to}"), note);
    }

    pub(super) fn not_scaled(&self, about: ObjectReference, to: u32, error: &str) {
        self.send(about, EventType::Warning, "NotScaled", format!("ScaleTo{to}"), error.to_owned());
    }

    pub(super) fn problem(&self, about: ObjectReference, problem: &Problem) {
        let action = format!("Read {} {}", problem.key, problem.message);
        self.send(about, EventType::Warning, "InvalidConfiguration", action, problem.to_string());
    }

    fn send(&self, about: ObjectReference, type_: EventType, reason: &str, action: String, note: String) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(shortened(note, NOTE_MAX)),
            action: shortened(action, ACTION_MAX),
            secondary: None,
        };
        if self.0.try_send(Announcement { about, event }).is_err() {
            tracing::warn!("a Kubernetes Event was dropped: {WAITING_MAX} wait to be sent already");
        }
    }
}

impl Announcements {
    /// `instance`: the name of this gateway's pod.
    pub(super) async fn run(mut self, client: Client, instance: String, mut end: drain::Watch) {
        let reporter = Reporter { controller: "slimfaas".to_owned(), instance: Some(instance) };
        let recorder = Recorder::new(client, reporter);
        loop {
            let Announcement { about, event } = tokio::select! {
                biased;
                () = end.signaled() => return,
                next = self.0.recv() => match next {
                    Some(next) => next,
                    None => return,
                },
            };
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::warn!(%error, reason = event.reason, "a Kubernetes Event could not be written");
            }
        }
    }
}

fn shortened(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_within_the_limits_of_the_api() {
        assert_eq!(shortened("é".repeat(3), 5), "éé…");
        assert_eq!(shortened("short".to_owned(), 5), "short");
        assert!(shortened("x".repeat(5000), NOTE_MAX).len() < 1024);
        assert!(shortened("x".repeat(5000), ACTION_MAX).len() < 128);
    }

    #[tokio::test]
    async fn what_nobody_sends_is_dropped_and_blocks_nobody() {
        let (announcer, mut announcements) = channel();
        for number in 0..WAITING_MAX + 10 {
            announcer.scaled(ObjectReference::default(), 0, u32::try_from(number).unwrap(), "a test");
        }
        drop(announcer);
        let mut count = 0;
        while announcements.0.recv().await.is_some() {
            count += 1;
        }
        assert_eq!(count, WAITING_MAX);
    }
}
