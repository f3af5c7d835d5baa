//! What is wrong in a manifest is said where its owner looks, and stops nothing.

use std::time::Duration;

use anyhow::Result;

use super::cluster::wait;
use super::functions::{FUNCTION, Workload};
use super::site::{Install, Site};

#[test]
fn a_function_works_whatever_is_wrong_with_it_and_an_event_says_what() -> Result<()> {
    let Some(site) = Site::install("bad_manifests", &Install::default())? else { return Ok(()) };
    let min = ("SlimFaas/ReplicasMin", "many");
    let zone = ("SlimFaas/Schedule", r#"{"TimeZoneID":"Europe/Atlantis","Default":{"WakeUp":["07:00"]}}"#);
    let typo = ("SlimFaas/ReplicasAtstart", "3");
    site.apply(&Workload { name: "odd", annotations: &[FUNCTION, min, zone, typo], ..Workload::default() }.yaml())?;
    site.apply(&Workload { name: "portless", port: None, ..Workload::default() }.yaml())?;
    site.apply(&Workload { name: "wrong-port", port: Some(50004), ..Workload::default() }.yaml())?;
    site.apply(&Workload { name: "twin", ..Workload::default() }.yaml())?;
    site.wait_known("twin")?;
    // The older one is the function, to the second.
    std::thread::sleep(Duration::from_millis(1100));
    site.apply(&Workload { kind: "StatefulSet", name: "twin", ..Workload::default() }.yaml())?;

    for name in ["odd", "portless", "wrong-port", "twin"] {
        site.wait_known(name)?;
        let answer = site.call(&format!("/function/{name}/hello/x"))?;
        assert_eq!(answer.status, 200, "{name}: {}", answer.head);
    }
    let said = "InvalidConfiguration";
    site.wait_event("Deployment", "odd", said, "SlimFaas/ReplicasMin: found \"many\"")?;
    site.wait_event("Deployment", "odd", said, "Europe/Atlantis")?;
    site.wait_event("Deployment", "odd", said, "did you mean SlimFaas/ReplicasAtStart?")?;
    site.wait_event("Deployment", "portless", said, "no container of the pod declares a port; used instead: 8080")?;
    site.wait_event(
        "Deployment",
        "wrong-port",
        said,
        "nothing listens on the declared port 50004; used instead: 8080",
    )?;
    site.wait_event("StatefulSet", "twin", said, "the Deployment of this name is older")?;
    assert_eq!(site.status("twin")?["PodType"], "Deployment");

    // A good value that becomes bad keeps its meaning.
    let annotate = |value: &str| {
        let patch = format!(
            r#"{{"spec":{{"template":{{"metadata":{{"annotations":{{"SlimFaas/ReplicasMin":"{value}"}}}}}}}}}}"#
        );
        site.kubectl(&["patch", "deployment", "odd", "--patch", &patch])
    };
    annotate("2")?;
    site.wait_replicas("deployment", "odd", 2, Duration::from_secs(20))?;
    annotate("two")?;
    site.wait_event("Deployment", "odd", said, "found \"two\"")?;
    assert_eq!(site.replicas("deployment", "odd")?, 2);
    wait("the status shows it", Duration::from_secs(5), || {
        Ok((site.status("odd")?["NumberRequested"] == 2).then_some(()))
    })
}
