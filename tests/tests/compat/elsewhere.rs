//! Routes of the original that are not here, each with its reason. What is listed here and then built moves to a file
//! of its own.

use anyhow::Result;

use super::site::{NOT_FOUND, Site};

#[test]
fn what_is_not_served_is_absent() -> Result<()> {
    let site = Site::start()?;
    for (number, method, target, _reason) in [
        (8, "GET", "/status-functions-stream", "belongs to the dashboard, which is not built yet"),
        (
            9,
            "GET",
            "/internal/activity-events?since=0",
            "belongs to the dashboard; nodes speak over a port of their own",
        ),
        (20, "GET", "/data/files", "beyond the seed: this gateway is no store"),
        (21, "GET", "/data/sets", "beyond the seed"),
        (22, "GET", "/data/hashsets", "beyond the seed, and open to everybody in the original"),
        (23, "POST", "/debug/promql/eval", "open to everybody in the original"),
        (24, "GET", "/debug/store", "open to everybody in the original: /metrics and /async-functions tell it"),
        (27, "GET", "/ws", "WebSocket functions are beyond the seed"),
        (28, "GET", "/", "the dashboard is not built yet"),
        (29, "POST", "/SlimData/LeaderChange", "nothing of the store is served on a public port"),
        (29, "GET", "/cluster/files/x", "nothing of the store is served on a public port"),
        (29, "POST", "/cluster-consensus/raft", "nothing of the store is served on a public port"),
    ] {
        assert_eq!(site.exact(method, target)?, NOT_FOUND, "{number} {target}");
    }
    Ok(())
}
