//! The import table can fail, and says nothing about code that keeps to it.

use super::*;

/// The findings about `code` in `module` (`proxy/slot`), without their file name.
#[track_caller]
fn check_module(module: &str, code: &str, expected: &[&str]) {
    let file = format!("{GATEWAY_SOURCE}{module}.rs");
    let mut findings = Vec::new();
    check(&file, code, &mut findings);
    let found: Vec<String> =
        findings.iter().map(|finding| finding.to_string().replace(&format!("{file}:"), "")).collect();
    assert_eq!(found, expected, "{module}: {code}");
}

#[test]
fn the_direction_holds() {
    check_module("proxy/wake", "use crate::cluster::Cluster;", &["1: `proxy` may not import `cluster::Cluster`"]);
    check_module("proxy", "fn f() { crate::agent::run(); }", &["1: `proxy` may not import `agent::run`"]);
    check_module(
        "proxy/upstream",
        "\nuse super::super::store::raft::Peer;",
        &["2: `proxy` may not import `store::raft::Peer`"],
    );
    check_module(
        "model/spec",
        "use crate::{clock::Tick, table::Table};",
        &["1: `model` may not import `table::Table`"],
    );
    check_module("table", "use crate::proxy;", &["1: `table` may not import `proxy`"]);
    check_module("config/env", "use crate::app::App;", &["1: `config` may not import `app::App`"]);
    check_module("queue/worker", "use crate::proxy::slot::Slot;", &["1: `queue` may not import `proxy::slot::Slot`"]);
    check_module("bin/slimfaas", "use slimfaas_gateway::proxy;", &["1: `bin` may not import `proxy`"]);
    check_module(
        "store/state",
        "use crate::store::raft::Log;",
        &["1: `store::state` may not import `store::raft::Log`"],
    );
    check_module("scaler/decide", "use crate::table::Table;", &["1: `scaler::decide` may not import `table::Table`"]);
}

#[test]
fn a_module_without_a_row_is_found() {
    check_module(
        "novel",
        "use crate::model::spec::FunctionSpec;",
        &["1: module `novel` has no row in xtask/src/tidy/imports.rs"],
    );
}

#[test]
fn what_the_table_allows_passes() {
    check_module("proxy/slot", "use crate::table::{Table, view::View}; use super::rejection::Rejection;", &[]);
    check_module("proxy/slot", "use crate::clock::{self, Tick}; fn f() { clock::now(); }", &[]);
    check_module("scaler", "mod decide; use crate::cluster::Cluster; use decide::Wanted;", &[]);
    check_module("scaler/decide", "use crate::scaler::schedule::next; use crate::clock::Tick;", &[]);
    check_module("app", "use crate::{agent, cluster::kube, proxy, store::raft};", &[]);
    check_module("bin/slimfaas", "use slimfaas_gateway::app; use slimfaas_gateway::config::Config;", &[]);
    check_module("proxy/slot", "#[cfg(test)]\nmod tests { use crate::cluster::fixed; }", &[]);
    check_module("proxy/slot/tests", "use crate::cluster::fixed;", &[]);
    check_module("lib", "pub mod agent;", &[]);
}

#[test]
fn heavy_crates_have_one_importer() {
    check_module("app", "use openraft::Raft;", &["1: only `store::raft` may know the crate `openraft`"]);
    check_module("store", "fn f(x: redb::Database) {}", &["1: only `store::raft` may know the crate `redb`"]);
    check_module("cluster", "use kube::Client;", &["1: only `cluster::kube` may know the crate `kube`"]);
    check_module(
        "proxy",
        "use opentelemetry_sdk::metrics;",
        &["1: only `telemetry` may know the crate `opentelemetry_sdk`"],
    );
    check_module("api", "prometheus::gather();", &["1: only `telemetry` may know the crate `prometheus`"]);
    check_module("config", "use serde_saphyr;", &["1: only `cluster::local` may know the crate `serde_saphyr`"]);
    check_module("agent", "use aya::maps::HashMap;", &[]);
    check_module("cluster/kube/watch", "use k8s_openapi::api; use kube::Api;", &[]);
    check_module("telemetry/metrics", "use opentelemetry::metrics::Meter; use prometheus::Registry;", &[]);
    check_module("proxy", "use opentelemetryish::X; let kube = kube_name;", &[]);
}

#[test]
fn pure_modules_stay_pure() {
    check_module(
        "model/path",
        "use std::collections::HashMap;",
        &["1: pure module `model::path` contains `HashMap`: it has an order: use BTreeMap"],
    );
    check_module(
        "scaler/decide",
        "async fn f() {}",
        &["1: pure module `scaler::decide` contains `async`: it waits for nothing"],
    );
    check_module("queue/plan", "use crate::clock;", &["1: pure module `queue::plan` names `crate::clock`"]);
    check_module("queue/plan", "use crate::clock::utc;", &["1: pure module `queue::plan` names `crate::clock::utc`"]);
    check_module(
        "store/command",
        "fn f() { std::fs::read(p); }",
        &["1: pure module `store::command` names `std::fs::read`"],
    );
    check_module(
        "store/state",
        "let now = Instant::now();",
        &["1: pure module `store::state` reads a clock (`Instant::now`)"],
    );
    check_module("scaler/schedule", "use crate::clock::{Instant, Tick}; fn f(now: Instant) { /* HashMap */ }", &[]);
    check_module("scaler", "async fn run() {}", &[]);
}

/// Rows that would break what ARCHITECTURE.md promises, whoever adds them.
#[test]
fn the_table_keeps_the_promises() {
    for promised in ["cluster", "agent", "store::raft"] {
        for row in TABLE.iter().filter(|row| is_within(row.module, "proxy")) {
            let breaks = |allowed: &'static str| is_within(allowed, promised) || is_within(promised, allowed);
            assert!(!row.allowed().any(breaks), "`{}` reaches `{promised}`", row.module);
        }
    }
    for pure in PURE.iter().copied().flatten() {
        let row = row_of(pure).expect("every pure module has a row");
        assert_eq!(row.module, *pure, "a pure module has a row of its own");
        for allowed in row.allowed() {
            assert!(is_pure(allowed), "pure `{pure}` may import `{allowed}`, which is not");
        }
    }
    for row in TABLE {
        assert!(
            row.module == "bin" || !row.allowed().any(|allowed| allowed == "bin" || allowed == ROOT),
            "{}",
            row.module
        );
    }
}
