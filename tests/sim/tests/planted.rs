//! Bugs that are put in on purpose are found, each within a few seeds. Otherwise a simulation that finds nothing would
//! prove nothing.

use slimfaas_sim::faults::Fault;
use slimfaas_sim::run::{Options, Planted, Scenario, run};

const SEEDS: u64 = 20;

/// The invariants that told, of which `expected` has to be one.
#[track_caller]
fn check(planted: Planted, kinds: &[Fault], expected: &[&str]) {
    let told = (1..=SEEDS).find_map(|seed| {
        let scenario = Scenario { size: 3, kinds: kinds.to_vec(), every_ms: 400 };
        let options = |planted| Options { steps: 8000, planted, scenario: Some(scenario.clone()), shown: None };
        let (invariant, problem) = run(seed, options(Some(planted))).violation?;
        assert_eq!(run(seed, options(None)).violation, None, "seed {seed} is sound without the bug");
        Some((seed, invariant, problem))
    });
    let (seed, invariant, problem) = told.expect("the bug is found");
    assert!(expected.contains(&invariant), "seed {seed}: {invariant}: {problem}");
}

#[test]
fn disks_that_acknowledge_syncs_without_keeping_anything_are_found() {
    check(Planted::LyingDisks, &[Fault::Kill], &["lost", "leaders", "logs", "progress", "completed", "store"]);
}

#[test]
fn disks_that_go_back_in_time_are_found() {
    check(Planted::OldDisks, &[Fault::Kill, Fault::KillLeader], &["lost", "leaders", "logs", "completed", "store"]);
}

#[test]
fn a_network_that_invents_answers_is_found() {
    let kinds = [Fault::BadWeather, Fault::KillLeader];
    check(Planted::InventedAnswers, &kinds, &["lost", "logs", "completed", "progress", "store"]);
}

#[test]
fn deliveries_that_are_made_twice_are_found() {
    check(Planted::RepeatedEffects, &[Fault::Replicas], &["attempts"]);
}

#[test]
fn runs_that_are_started_twice_are_found() {
    check(Planted::ForgetfulCluster, &[Fault::ApiServer], &["runs"]);
}
