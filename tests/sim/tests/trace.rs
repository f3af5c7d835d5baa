//! The same seed twice gives the same trace: without that, no line that reproduces a failure would.

use slimfaas_sim::run::{Options, run};

#[test]
fn a_seed_is_a_whole_history() {
    if cfg!(not(tokio_unstable)) {
        println!("SKIP simulation/trace: tokio's select! is seeded only with --cfg tokio_unstable: cargo xtask sim");
        return;
    }
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 1..=10 {
        let first = run(seed, Options::default());
        // On another thread, after other simulations: nothing of a process that goes on may show.
        let again = std::thread::spawn(move || run(seed, Options::default())).join().unwrap();
        assert_eq!(first.fingerprint, again.fingerprint, "seed {seed}");
        hashes.insert(first.fingerprint.hash);
    }
    assert_eq!(hashes.len(), 10, "each seed has a history of its own");
}
