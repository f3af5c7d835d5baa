//! Wall clocks that jump, each node's for itself, while the machine's own stays as it is (libfaketime).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use slimfaas_tests::require::skip_or_fail;

use super::cluster::{Cluster, NODES};
use super::scenario::{SUITE, Scenario};

/// Where Debian's package `libfaketime` puts it, on the processors that we build for.
const LIBRARIES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// Offsets from the true time, as libfaketime reads them.
const JUMPS: &[&str] = &["+1h", "-1h", "+0", "+30d", "-2m", "+5m"];

#[test]
fn wall_clocks_jump() -> Result<()> {
    let Some(library) = LIBRARIES.iter().find(|path| std::path::Path::new(path).is_file()) else {
        skip_or_fail(SUITE, "wall_clocks_jump", "libfaketime is missing: install the package libfaketime");
        return Ok(());
    };
    let mut scenario = Scenario::on_loopback("clock-jumps")?;
    for number in 0..NODES {
        set(&scenario.cluster, number, "+0")?;
        let file = clock(&scenario.cluster, number);
        let node = &mut scenario.cluster.nodes[number];
        for (name, value) in [
            ("LD_PRELOAD", (*library).to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            // How soon a jump is noticed, in seconds.
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            // A computer's monotonic clock does not jump.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ] {
            node.environment.push((name.to_owned(), value));
        }
    }
    scenario.cluster.start_all()?;
    scenario.load(512);
    let mut count = 0;
    while scenario.goes_on()? || count < JUMPS.len() {
        // The leader's clock is the one that stamps what is stored.
        let leader = scenario.cluster.leader()?;
        let node = if count % 2 == 0 { leader } else { scenario.random.below(NODES) };
        let jump = JUMPS[count % JUMPS.len()];
        scenario.disturb(node, &format!("clock {jump}"));
        set(&scenario.cluster, node, jump)?;
        count += 1;
        std::thread::sleep(Duration::from_millis(2500));
    }
    for node in 0..NODES {
        scenario.disturb(node, "clock +0");
        set(&scenario.cluster, node, "+0")?;
    }
    scenario.finish().map(drop)
}

fn clock(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.nodes[node].folder.with_extension("clock")
}

fn set(cluster: &Cluster, node: usize, offset: &str) -> Result<()> {
    // Renamed, so that nobody reads half of it.
    let (file, new) = (clock(cluster, node), clock(cluster, node).with_extension("new"));
    std::fs::write(&new, format!("{offset}\n"))?;
    Ok(std::fs::rename(&new, &file)?)
}
