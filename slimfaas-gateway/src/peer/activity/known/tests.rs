use super::*;
use crate::clock;

fn peers(list: &[(&str, bool)]) -> Vec<Peer> {
    let address = ([127, 0, 0, 1], 3262).into();
    list.iter().map(|(name, ready)| Peer { name: (*name).into(), address, ready: *ready }).collect()
}

fn id(name: &str) -> FunctionId {
    FunctionId::new("demo", name)
}

/// Functions with their requests in flight; called a second before.
fn digest(run: u64, sequence: u64, scope: Scope, functions: &[(&str, u32)]) -> Digest {
    let told =
        |(name, in_flight): &(&str, u32)| Told { id: id(name), called: Tick(9_000), in_flight: *in_flight, waiting: 0 };
    Digest { run, sequence, now: Tick(10_000), scope, functions: functions.iter().map(told).collect() }
}

const WHOLE: Scope = Scope::Everything { first: true, last: true };
const FIRST: Scope = Scope::Everything { first: true, last: false };
const LAST: Scope = Scope::Everything { first: false, last: true };

fn ids(names: &[&str]) -> BTreeSet<FunctionId> {
    names.iter().map(|name| id(name)).collect()
}

/// Long after the origin of the ticks.
fn start() -> Instant {
    Tick::of(clock::now());
    clock::now() + Duration::from_secs(1000)
}

#[test]
fn sums_are_over_all_peers_and_without_those_that_leave() {
    let (mut known, now) = (Known::default(), start());
    known.follow(&peers(&[("a", true), ("b", true)]), now);
    assert_eq!(known.hear("a", digest(1, 1, WHOLE, &[("f", 2), ("g", 1)]), now), Ok(ids(&["f", "g"])));
    let later = now + Duration::from_millis(400);
    assert_eq!(known.hear("b", digest(5, 1, WHOLE, &[("f", 3)]), later), Ok(ids(&["f"])));
    let called = Tick(Tick::of(later).0 - 1000);
    assert_eq!(known.sum(&id("f")), Sum { called, in_flight: 5, waiting: 0 });
    assert_eq!(known.follow(&peers(&[("b", true)]), later), ids(&["f", "g"]));
    assert_eq!(known.sum(&id("f")), Sum { called, in_flight: 3, waiting: 0 });
    assert_eq!(known.sum(&id("g")), Sum { called: Tick::NEVER, in_flight: 0, waiting: 0 });
    assert_eq!(known.hear("a", digest(1, 2, WHOLE, &[]), later), Err(NotHeard::Stranger));
}

#[test]
fn a_call_told_twice_stays_where_it_was() {
    let (mut known, now) = (Known::default(), start());
    known.follow(&peers(&[("a", true)]), now);
    known.hear("a", digest(1, 1, WHOLE, &[("f", 1)]), now).unwrap();
    let called = known.sum(&id("f")).called;
    // The same call, told later and late.
    let again = Digest { now: Tick(15_000), ..digest(1, 2, WHOLE, &[("f", 0)]) };
    known.hear("a", again, now + Duration::from_millis(5_900)).unwrap();
    assert_eq!(known.sum(&id("f")), Sum { called, in_flight: 0, waiting: 0 });
}

#[test]
fn what_is_not_in_everything_is_gone_once_it_is_all_told() {
    let (mut known, now) = (Known::default(), start());
    known.follow(&peers(&[("a", true)]), now);
    let in_flight = |known: &Known| ["f", "g", "h"].map(|name| known.sum(&id(name)).in_flight);
    known.hear("a", digest(1, 1, WHOLE, &[("f", 1), ("g", 1)]), now).unwrap();
    known.hear("a", digest(1, 2, Scope::Changes, &[("h", 1)]), now).unwrap();
    assert_eq!(in_flight(&known), [1, 1, 1]);
    // A first part whose last one never came marks nothing for the next time.
    known.hear("a", digest(1, 3, FIRST, &[("g", 2)]), now).unwrap();
    assert_eq!(in_flight(&known), [1, 2, 1]);
    known.hear("a", digest(1, 4, FIRST, &[("f", 4)]), now).unwrap();
    assert_eq!(known.hear("a", digest(1, 5, LAST, &[("h", 5)]), now), Ok(ids(&["g", "h"])));
    assert_eq!(in_flight(&known), [4, 0, 5]);
    // Another life.
    assert_eq!(known.hear("a", digest(2, 1, WHOLE, &[]), now), Ok(ids(&["f", "h"])));
    assert_eq!(in_flight(&known), [0, 0, 0]);
}

#[test]
fn what_comes_late_is_not_believed() {
    let (mut known, now) = (Known::default(), start());
    known.follow(&peers(&[("a", true)]), now);
    known.hear("a", digest(1, 7, WHOLE, &[("f", 1)]), now).unwrap();
    for sequence in [7, 6] {
        assert_eq!(known.hear("a", digest(1, sequence, WHOLE, &[]), now), Err(NotHeard::Outdated));
    }
    assert_eq!(known.sum(&id("f")).in_flight, 1);
}

#[test]
fn a_ready_peer_is_silent_until_it_has_told_everything_and_after_six_seconds() {
    let (mut known, now) = (Known::default(), start());
    let silent = |known: &Known, after: u64| known.silent(now + Duration::from_millis(after)).len();
    known.follow(&peers(&[("a", true), ("b", false)]), now);
    assert_eq!(silent(&known, 0), 1);
    known.hear("a", digest(1, 1, FIRST, &[]), now).unwrap();
    assert_eq!(silent(&known, 0), 1);
    known.hear("a", digest(1, 2, LAST, &[]), now).unwrap();
    assert_eq!((silent(&known, 0), silent(&known, 6_000), silent(&known, 6_001)), (0, 0, 1));
    assert_eq!(known.next_change(now), Some(now + Duration::from_millis(6_001)));
    let later = now + Duration::from_millis(5_000);
    known.hear("a", digest(1, 3, Scope::Changes, &[]), later).unwrap();
    assert_eq!((silent(&known, 11_000), silent(&known, 11_001)), (0, 1));
    // A restarted node knows nothing of what it did before, and has told nothing of what it does now.
    known.hear("a", digest(2, 1, FIRST, &[]), later).unwrap();
    assert_eq!(silent(&known, 5_000), 1);
}

#[test]
fn what_a_lost_peer_told_is_forgotten_and_what_a_ready_one_told_is_not() {
    let (mut known, now) = (Known::default(), start());
    known.follow(&peers(&[("a", true), ("b", false)]), now);
    known.hear("a", digest(1, 1, WHOLE, &[("f", 1)]), now).unwrap();
    known.hear("b", digest(1, 1, WHOLE, &[("g", 1)]), now).unwrap();
    assert_eq!(known.forget_lost(now + Duration::from_millis(59_999)), ids(&[]));
    assert_eq!(known.forget_lost(now + Duration::from_secs(60)), ids(&["g"]));
    assert_eq!((known.sum(&id("f")).in_flight, known.sum(&id("g")).in_flight), (1, 0));
}
