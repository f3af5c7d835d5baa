//! The gateway may do what it does, and nothing else: its Role against what the API server saw of it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use slimfaas_tests::require::skip_or_fail;

use super::cluster::wait;
use super::functions::{FUNCTION, Workload};
use super::site::{Install, Site};

/// The API server's audit log, one JSON object a line.
const AUDIT_LOG: &str = "SLIMFAAS_AUDIT_LOG";
const SOON: Duration = Duration::from_secs(40);

/// API group, resource with its subresource, verb.
type Rights = BTreeSet<(String, String, String)>;

#[test]
fn the_role_holds_exactly_the_verbs_that_are_used() -> Result<()> {
    let Some(site) = Site::install("rights", &Install::default())? else { return Ok(()) };
    let Some(log) = std::env::var_os(AUDIT_LOG).filter(|path| !path.is_empty()) else {
        skip_or_fail("e2e", "rights", format_args!("{AUDIT_LOG} is not set"));
        return Ok(());
    };
    // Everything that a gateway ever does.
    let idle = ("SlimFaas/TimeoutSecondBeforeSetReplicasMin", "2");
    let workloads = [("Deployment", "fibonacci"), ("StatefulSet", "ledger")];
    for (kind, name) in workloads {
        site.apply(&Workload { kind, name, annotations: &[FUNCTION, idle], ..Workload::default() }.yaml())?;
        site.wait_known(name)?;
    }
    // Twice, since the second Event of a kind is counted into the first.
    for _ in 0..2 {
        for (kind, name) in workloads {
            assert_eq!(site.call(&format!("/function/{name}/hello/x"))?.status, 200);
            site.wait_replicas(kind, name, 0, SOON)?;
        }
    }
    // A job, from its definition to its end: asked for, shown, read, forgotten.
    let job = super::jobs::Definition { ttl: 1, ..super::jobs::Definition::default() };
    site.apply(&job.yaml())?;
    let id = super::jobs::run(&site, "report", "{}")?;
    super::jobs::wait_status(&site, "report", &id, "Succeeded")?;
    assert_eq!(site.call(&format!("/job/report/{id}/logs"))?.text(), "done\n");
    wait("the run is forgotten", SOON, || Ok(super::jobs::rows(&site, "report")?.is_empty().then_some(())))?;
    let granted = granted(&site.get("role", "slimfaas")?)?;
    let (used, refused) = wait("every right is used", SOON, || {
        let (used, refused) = used(&site, &std::fs::read_to_string(&log)?)?;
        Ok((used.is_superset(&granted)).then_some((used, refused)))
    })
    .with_context(|| format!("granted: {granted:#?}"))?;
    assert_eq!(refused, Rights::new());
    assert_eq!(used, granted);
    Ok(())
}

fn granted(role: &Value) -> Result<Rights> {
    let words = |rule: &Value, key: &str| -> Vec<String> {
        let list = rule[key].as_array().into_iter().flatten();
        list.filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let mut rights = Rights::new();
    for rule in role["rules"].as_array().context("a Role has rules")? {
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                rights.extend(words(rule, "verbs").into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
            }
        }
    }
    Ok(rights)
}

/// What the gateway's service account asked for, and what of it was forbidden.
fn used(site: &Site, log: &str) -> Result<(Rights, Rights)> {
    let user = format!("system:serviceaccount:{}:slimfaas", site.namespace);
    let (mut used, mut refused) = (Rights::new(), Rights::new());
    for line in log.lines().filter(|line| line.contains(&user)) {
        // The last line may be half written.
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let object = &event["objectRef"];
        if event["user"]["username"] != user.as_str() || object.is_null() {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let resource = match object["subresource"].as_str() {
            Some(subresource) => format!("{}/{subresource}", text(&object["resource"])),
            None => text(&object["resource"]),
        };
        let right = (text(&object["apiGroup"]), resource, text(&event["verb"]));
        if event["responseStatus"]["code"] == 403 {
            refused.insert(right.clone());
        }
        used.insert(right);
    }
    Ok((used, refused))
}
