//! The functions that the queue calls: they take simulated time, and end in every way there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use slimfaas_gateway::proxy::deliver::{Content, Delivered, Deliveries, Delivery};
use slimfaas_gateway::proxy::enqueue::ELEMENT_ID;
use slimfaas_gateway::queue::element::ElementId;
use tokio::task::JoinSet;

use crate::dice::Dice;
use crate::journal::{Event, Journal};
use crate::node::body_of;

/// Of all nodes.
#[derive(Clone)]
pub struct Functions {
    pub dice: Dice,
    /// Everything succeeds, and soon.
    pub are_well: Arc<AtomicBool>,
}

/// One answer.
#[derive(Clone, Copy)]
enum Answer {
    Status(u16),
    TimesOut,
    Breaks,
    IsNotThere,
}

impl Functions {
    fn answer(&self) -> (Duration, Answer) {
        if self.are_well.load(Ordering::Relaxed) {
            return (Duration::from_millis(self.dice.within(1..=20)), Answer::Status(200));
        }
        let took = self.dice.weighted(&[(6, (1, 20)), (4, (20, 300)), (1, (300, 900))]);
        let answers = [
            (60, Answer::Status(200)),
            (12, Answer::Status(202)),
            (10, Answer::Status(500)),
            (3, Answer::Status(404)),
            (4, Answer::TimesOut),
            (6, Answer::Breaks),
            (5, Answer::IsNotThere),
        ];
        (Duration::from_millis(self.dice.within(took.0..=took.1)), self.dice.weighted(&answers))
    }
}

pub async fn serve(mut deliveries: Deliveries, node: Arc<str>, journal: Journal, functions: Functions) {
    let mut calls = JoinSet::new();
    while let Some(delivery) = deliveries.recv().await {
        while calls.try_join_next().is_some() {}
        calls.spawn(call(delivery, Arc::clone(&node), journal.clone(), functions.clone()));
    }
    // The gateway ends: its connections break.
}

async fn call(delivery: Delivery, node: Arc<str>, journal: Journal, functions: Functions) {
    let Delivery { head, body, timeout, report, .. } = delivery;
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let element = ElementId::parse(header(ELEMENT_ID.as_str())).expect("the worker sets it");
    let number: u64 = head.uri.path().trim_start_matches('/').parse().expect("the workload sets it");
    journal.note(Event::Called {
        node: Arc::clone(&node),
        element,
        try_number: header("slimfaas-try-number").parse().expect("the worker sets it"),
        is_last_try: header("slimfaas-last-try") == "true",
        body_is_right: matches!(body, Content::Whole(body) if body == body_of(number)),
    });
    let (takes, answer) = functions.answer();
    let delivered = match answer {
        Answer::Status(status) if takes < timeout => {
            tokio::time::sleep(takes).await;
            Delivered::Status(status)
        }
        Answer::Status(_) | Answer::TimesOut => {
            tokio::time::sleep(timeout).await;
            Delivered::TimedOut
        }
        Answer::Breaks => {
            tokio::time::sleep(takes.min(timeout)).await;
            Delivered::Failed("the connection broke".to_owned())
        }
        Answer::IsNotThere => Delivered::Unsent,
    };
    if delivered == Delivered::Status(202) && functions.dice.chance(0.8) {
        let (after_ms, succeeded) = (functions.dice.within(1..=1500), functions.dice.chance(0.7));
        journal.note(Event::CallsBack { element, after_ms, succeeded });
    }
    journal.note(Event::Answered { node, element, delivered: delivered.clone() });
    let _nobody_waits = report.send(delivered).is_err();
}
