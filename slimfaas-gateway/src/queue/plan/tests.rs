mod model;

use proptest::prelude::*;

use super::*;
use crate::queue::command::Assignment;
use crate::queue::element::{PeerRun, Place, Policy};
use crate::queue::request::BodyFile;
use crate::queue::tables::{MemoryTables, pair};

/// The state machine with its tables, as a log drives it.
#[derive(Default)]
struct Machine {
    queue: Queue,
    tables: MemoryTables,
}

impl Machine {
    /// One log entry of one command.
    fn apply(&mut self, now_ms: u64, command: Command) -> (Reply, Vec<Effect>) {
        let mut effects = Vec::new();
        self.queue.advance(now_ms);
        let reply = self.queue.apply(command, &mut self.tables, &mut effects).unwrap();
        self.queue.save(&mut self.tables).unwrap();
        (reply, effects)
    }

    fn assigned(&mut self, now_ms: u64, command: Command) -> Vec<(u8, u32, bool)> {
        let (_, effects) = self.apply(now_ms, command);
        let assigned = effects.into_iter().filter_map(|effect| match effect {
            Effect::Assigned(Assignment { element, try_number, is_last_try, .. }) => {
                Some((element.0[15], try_number, is_last_try))
            }
            _ => None,
        });
        assigned.collect()
    }

    fn of(&self, name: &str) -> FunctionQueue {
        self.queue.function(&function(name)).unwrap().clone()
    }
}

fn function(name: &str) -> FunctionId {
    FunctionId::new("demo", name)
}

fn id(number: u8) -> ElementId {
    let mut bytes = [0; 16];
    bytes[15] = number;
    ElementId(bytes)
}

fn enqueue(number: u8, name: &str) -> Command {
    let policy = Policy { timeout_ms: 1000, retry_delays_ms: vec![200, 400], retry_statuses: vec![500] };
    let request = vec![number; 100].into();
    Command::Enqueue(Enqueue {
        id: id(number),
        function: function(name),
        policy,
        request,
        place: Place::default(),
        body_file: None,
    })
}

fn complete(number: u8, attempt: u32, status: u16) -> Command {
    Command::Complete { element: id(number), attempt, end: End::Status(status) }
}

fn up(node: u64) -> Command {
    Command::PeerUp(PeerRun { node, incarnation: 1 })
}

fn budget(name: &str, slots: u32) -> Command {
    Command::Budget { function: function(name), slots }
}

#[test]
fn an_element_is_tried_until_it_is_dead_and_then_replayed() {
    let mut machine = Machine::default();
    machine.apply(0, up(1));
    machine.apply(0, budget("a", 1));
    assert_eq!(machine.assigned(0, enqueue(1, "a")), [(1, 1, false)]);
    assert_eq!(machine.assigned(10, complete(1, 1, 500)), []);
    assert_eq!(machine.assigned(209, Command::Due), []);
    assert_eq!(machine.assigned(210, Command::Due), [(1, 2, false)]);
    machine.apply(220, complete(1, 2, 500));
    assert_eq!(machine.assigned(620, Command::Due), [(1, 3, true)]);
    machine.apply(630, complete(1, 3, 500));
    assert_eq!((machine.of("a").dead, machine.of("a").pending()), (1, 0));
    let dead = element(&machine.tables, id(1)).unwrap().unwrap();
    let history: Vec<_> = dead.history.iter().map(|attempt| (attempt.try_number, attempt.ended_ms)).collect();
    assert_eq!(history, [(1, 10), (2, 220), (3, 630)]);
    assert_eq!(machine.assigned(700, Command::Replay(id(1))), [(1, 1, false)]);
    assert_eq!(machine.apply(701, complete(1, 3, 200)).0, Reply::Stale);
    assert_eq!(machine.apply(701, complete(1, 4, 200)).0, Reply::Done);
    assert_eq!(machine.queue.totals(), (0, 0));
    assert_eq!(machine.tables.count(Table::Elements), 0);
}

#[test]
fn elements_run_in_order_of_arrival_and_on_all_peers() {
    let mut machine = Machine::default();
    for number in 1..=5 {
        assert_eq!(machine.assigned(0, enqueue(number, "a")), []);
    }
    machine.apply(0, up(1));
    machine.apply(0, up(2));
    let (_, effects) = machine.apply(0, budget("a", 4));
    let to: Vec<_> = effects
        .into_iter()
        .map(|effect| match effect {
            Effect::Assigned(assignment) => (assignment.element.0[15], assignment.to.node),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(to, [(1, 1), (2, 2), (3, 1), (4, 2)]);
    assert_eq!(machine.assigned(1, complete(2, 1, 200)), [(5, 1, false)]);
}

#[test]
fn an_accepted_element_frees_its_slot_and_waits_for_its_callback() {
    let mut machine = Machine::default();
    machine.apply(0, up(1));
    machine.apply(0, budget("a", 1));
    machine.apply(0, enqueue(1, "a"));
    machine.apply(0, enqueue(2, "a"));
    assert_eq!(machine.assigned(5, complete(1, 1, 202)), [(2, 1, false)]);
    assert_eq!((machine.of("a").accepted, machine.of("a").running), (1, 1));
    machine.apply(6, complete(2, 1, 202));
    assert_eq!(machine.apply(7, Command::Callback { element: id(1), succeeded: true }).0, Reply::Done);
    assert_eq!(machine.apply(7, Command::Callback { element: id(1), succeeded: true }).0, Reply::Stale);
    // The second is never called back: that is a failed attempt.
    assert_eq!(machine.apply(1004, Command::Due).0, Reply::Changed { count: 0, more: false });
    assert_eq!(machine.apply(1005, Command::Due).0, Reply::Changed { count: 1, more: false });
    assert_eq!(machine.of("a").waiting, 1);
    assert_eq!(machine.assigned(1205, Command::Due), [(2, 2, false)]);
}

#[test]
fn callbacks_may_be_early_or_late() {
    cov_mark::check!(callback_overtakes_its_attempt);
    cov_mark::check!(late_success_spares_an_attempt);
    let mut machine = Machine::default();
    machine.apply(0, up(1));
    machine.apply(0, budget("a", 1));
    machine.apply(0, enqueue(1, "a"));
    let called_back = |number, succeeded| Command::Callback { element: id(number), succeeded };
    assert_eq!(machine.apply(1, called_back(1, true)).0, Reply::Done);
    assert_eq!(machine.apply(2, complete(1, 1, 202)).0, Reply::Stale);
    machine.apply(3, enqueue(2, "a"));
    machine.apply(4, complete(2, 1, 500));
    assert_eq!(machine.apply(5, called_back(2, false)).0, Reply::Stale);
    assert_eq!(machine.apply(6, called_back(2, true)).0, Reply::Done);
    assert_eq!(machine.queue.totals(), (0, 0));
}

#[test]
fn what_a_lost_peer_held_is_delivered_by_another_without_losing_a_try() {
    let mut machine = Machine::default();
    machine.apply(0, up(1));
    machine.apply(0, budget("a", 2));
    machine.apply(0, enqueue(1, "a"));
    machine.apply(0, up(2));
    machine.apply(0, enqueue(2, "a"));
    let (reply, effects) = machine.apply(1, Command::PeerDown(PeerRun { node: 1, incarnation: 1 }));
    assert_eq!(reply, Reply::Done);
    let Effect::Assigned(assignment) = &effects[1] else { panic!("{effects:?}") };
    assert_eq!((assignment.to.node, assignment.attempt, assignment.try_number), (2, 2, 1));
    // Its own process comes back as another one; what the former said last no longer counts.
    machine.apply(2, Command::PeerUp(PeerRun { node: 1, incarnation: 2 }));
    assert_eq!(machine.apply(3, complete(1, 1, 200)).0, Reply::Stale);
}

#[test]
fn a_process_that_returns_releases_what_the_former_one_held() {
    let mut machine = Machine::default();
    machine.apply(0, up(1));
    machine.apply(0, budget("a", 1));
    machine.apply(0, enqueue(1, "a"));
    let (_, effects) = machine.apply(1, Command::PeerUp(PeerRun { node: 1, incarnation: 2 }));
    let Effect::Assigned(assignment) = &effects[0] else { panic!("{effects:?}") };
    assert_eq!((assignment.to.incarnation, assignment.attempt), (2, 2));
    assert_eq!(machine.apply(1, up(1)).1.len(), 1, "an older registration replaces again: incarnations have no order");
}

#[test]
fn limits_refuse_by_name() {
    let mut machine = Machine::default();
    let limits = Limits { function_elements: 1, function_bytes: 800, total_elements: 2, ..Limits::default() };
    machine.apply(0, Command::Limits(limits));
    assert_eq!(machine.apply(0, enqueue(1, "a")).0, Reply::Done);
    assert_eq!(machine.apply(0, enqueue(2, "a")).0, Reply::Refused(Limit::FunctionElements));
    assert_eq!(machine.apply(0, enqueue(1, "a")).0, Reply::Done, "what is stored already is not refused");
    machine.apply(0, enqueue(3, "b"));
    assert_eq!(machine.apply(0, enqueue(4, "c")).0, Reply::Refused(Limit::TotalElements));
    assert_eq!(machine.of("a").totals.refused, 1);
    let bytes = machine.queue.totals().1;
    assert_eq!(bytes, 2 * (100 + ELEMENT_OVERHEAD_BYTES));
    machine.apply(0, Command::Limits(Limits { total_bytes: bytes + 355, ..Limits::default() }));
    assert_eq!(machine.apply(0, enqueue(4, "c")).0, Reply::Refused(Limit::TotalBytes));
    machine.apply(0, Command::Limits(Limits { function_bytes: 711, ..Limits::default() }));
    assert_eq!(machine.apply(0, enqueue(4, "a")).0, Reply::Refused(Limit::FunctionBytes));
}

#[test]
fn dead_letters_have_limits_of_their_own() {
    cov_mark::check!(oldest_dead_letter_makes_room);
    let mut machine = Machine::default();
    machine.apply(0, Command::Limits(Limits { dead_elements: 2, dead_age_ms: 1000, ..Limits::default() }));
    machine.apply(0, up(1));
    machine.apply(0, budget("a", 10));
    for number in 1..=3 {
        machine.apply(u64::from(number), enqueue(number, "a"));
        machine.apply(u64::from(number), complete(number, 1, 400));
    }
    assert_eq!((machine.of("a").dead, machine.of("a").totals.dead_dropped), (2, 1));
    assert_eq!(element(&machine.tables, id(1)).unwrap(), None);
    assert_eq!(machine.apply(1002, Command::Due).0, Reply::Changed { count: 1, more: false });
    assert_eq!(element(&machine.tables, id(2)).unwrap(), None);
    assert_eq!(machine.of("a").dead, 1);
}

#[test]
fn bodies_are_released_with_their_element() {
    let mut machine = Machine::default();
    let file = BodyFile { digest: [1; 32], bytes: 1 << 20 };
    let Command::Enqueue(enqueue) = enqueue(1, "a") else { unreachable!() };
    machine.apply(0, Command::Enqueue(Enqueue { body_file: Some(file), ..enqueue }));
    assert_eq!(machine.queue.totals().1, (1 << 20) + 100 + ELEMENT_OVERHEAD_BYTES);
    let (_, effects) = machine.apply(0, Command::Delete(id(1)));
    assert_eq!(effects, [Effect::BodyReleased { element: id(1), file }]);
}

#[test]
fn a_lost_attempt_ends_with_its_lease() {
    let mut machine = Machine::default();
    machine.apply(0, up(1));
    machine.apply(0, budget("a", 1));
    machine.apply(0, enqueue(1, "a"));
    let lease = 1000 + attempt::LEASE_GRACE_MS;
    assert_eq!(next_due_ms(&machine.tables).unwrap(), Some(lease));
    let (_, effects) = machine.apply(lease, Command::Due);
    assert_eq!(effects, [Effect::Revoked { element: id(1), attempt: 1, from: PeerRun { node: 1, incarnation: 1 } }]);
    assert_eq!(machine.of("a").waiting, 1);
}

#[test]
fn the_clock_never_goes_back() {
    let mut machine = Machine::default();
    machine.apply(1000, Command::Due);
    machine.apply(10, enqueue(1, "a"));
    assert_eq!(element(&machine.tables, id(1)).unwrap().unwrap().enqueued_ms, 1000);
}

#[test]
fn a_function_without_anything_is_forgotten() {
    let mut machine = Machine::default();
    machine.apply(0, budget("a", 1));
    machine.apply(0, budget("a", 0));
    assert_eq!(machine.queue.function(&function("a")), None);
    assert_eq!(machine.tables.count(Table::Functions), 0);
}

#[test]
fn a_row_that_names_nothing_is_damage() {
    let mut machine = Machine::default();
    machine.tables.put(Table::Timers, &pair(1, 1), &id(1).0).unwrap();
    machine.queue.advance(5);
    let error = machine.queue.apply(Command::Due, &mut machine.tables, &mut Vec::new()).unwrap_err();
    let key = "00000000000000010000000000000001";
    assert_eq!(error.to_string(), format!("table timers is damaged at key {key}: names an element that is missing"));
}

/// Every index has exactly the rows that the elements' phases ask for, and the counters count them.
fn check_rows(machine: &Machine) {
    let mut expected = MemoryTables::default();
    let mut functions: BTreeMap<u64, [u64; 7]> = BTreeMap::new();
    let rows: Vec<_> = machine.tables.rows().filter(|(table, ..)| *table == Table::Elements).collect();
    for (_, key, value) in &rows {
        let element = Element::decode((*value).clone()).unwrap();
        let counts = functions.entry(element.function).or_default();
        let (at, bytes_at) = match element.phase {
            Phase::Ready => (0, 5),
            Phase::Running { .. } => (1, 5),
            Phase::Accepted { .. } => (2, 5),
            Phase::Waiting => (3, 5),
            Phase::Dead { .. } => (4, 6),
        };
        counts[at] += 1;
        counts[bytes_at] += element.bytes;
        match element.phase {
            Phase::Ready => expected.put(Table::Ready, &pair(element.function, element.order), key).unwrap(),
            Phase::Running { by, .. } => expected.put(Table::Held, &pair(by.node, element.order), key).unwrap(),
            Phase::Dead { order, .. } => expected.put(Table::Dead, &pair(element.function, order), key).unwrap(),
            Phase::Accepted { .. } | Phase::Waiting => {}
        }
        if let Some(file) = element.body_file {
            let mut row = Writer::default();
            file.write(&mut row);
            expected.put(Table::Bodies, key, &row.0).unwrap();
        }
        if let Some(time) = element.timer_ms {
            expected.put(Table::Timers, &pair(time, element.order), key).unwrap();
        }
    }
    for table in [Table::Ready, Table::Held, Table::Dead, Table::Timers, Table::Bodies] {
        let of = |tables: &MemoryTables| {
            let rows = tables.rows().filter(|(of, ..)| *of == table);
            rows.map(|(_, key, value)| (key.to_vec(), value.clone())).collect::<Vec<_>>()
        };
        assert_eq!(of(&machine.tables), of(&expected), "{table:?}");
    }
    for (number, queue) in &machine.queue.functions {
        let counted = [queue.ready, queue.running, queue.accepted, queue.waiting, queue.dead];
        let expected = functions.remove(number).unwrap_or_default();
        assert_eq!(counted, expected[..5]);
        assert_eq!([queue.bytes, queue.dead_bytes], expected[5..]);
    }
    assert!(functions.is_empty(), "elements of forgotten functions: {functions:?}");
    assert_eq!(machine.queue.totals().0, rows.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// A model without any index, which looks at all elements every time, answers and acts the same.
    #[test]
    fn the_model_agrees(steps in prop::collection::vec(model::step(), 1..80)) {
        let mut machine = Machine::default();
        let mut model = model::Model::default();
        for step in steps {
            let (now_ms, command) = model.concrete(step);
            let expected = model.apply(now_ms, &command);
            let found = machine.apply(now_ms, command.clone());
            prop_assert_eq!(&found, &expected, "{:?}", command);
            prop_assert_eq!(model.counts(), machine.queue.functions()
                .map(|queue| (queue.id.clone(), [queue.ready, queue.running, queue.accepted, queue.waiting, queue.dead]))
                .collect::<Vec<_>>());
        }
        check_rows(&machine);
        prop_assert_eq!(Queue::load(&machine.tables).unwrap(), machine.queue);
    }
}
