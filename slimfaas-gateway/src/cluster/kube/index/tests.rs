use serde_json::{Value, json};

use super::*;
use crate::model::function::WorkloadKind;
use crate::table::view::Address;

const DEMO: &str = "demo";

fn index() -> Index {
    Index::new(UrlTemplate::parse("http://{pod_ip}:{pod_port}").expect("a template"))
}

fn id(name: &str) -> FunctionId {
    FunctionId::new(DEMO, name)
}

/// A workload as the API server shows it; a function unless `annotations` is null.
fn workload(kind: WorkloadKind, uid: &str, name: &str, created: u32, annotations: Value) -> Workload {
    let object = json!({
        "metadata": {
            "uid": uid, "namespace": DEMO, "name": name, "creationTimestamp": format!("1970-01-01T00:00:{created:02}Z"),
        },
        "spec": {
            "replicas": 1, "selector": {}, "serviceName": "s",
            "template": {
                "metadata": {"annotations": annotations},
                "spec": {"containers": [{"name": "main", "ports": [{"containerPort": 5000}]}]},
            },
        },
    });
    match kind {
        WorkloadKind::Deployment => Workload::of_deployment(serde_json::from_value(object).expect("valid")),
        WorkloadKind::StatefulSet => Workload::of_stateful_set(serde_json::from_value(object).expect("valid")),
    }
    .expect("complete")
}

fn function(uid: &str, name: &str) -> Workload {
    workload(WorkloadKind::Deployment, uid, name, 0, json!({"SlimFaas/Function": "true"}))
}

fn pod(uid: &str, controller: (&str, &str, &str), ip: &str, ready: bool) -> PodFacts {
    let (kind, controller_uid, controller_name) = controller;
    PodFacts::of(
        &serde_json::from_value(json!({
            "metadata": {
                "uid": uid, "namespace": DEMO, "name": format!("pod-{uid}"),
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": kind, "name": controller_name, "uid": controller_uid,
                    "controller": true,
                }],
            },
            "spec": {"nodeName": "n", "containers": [{
                "name": "main", "ports": [{"containerPort": 5000}], "readinessProbe": {"httpGet": {"port": 5000}},
            }]},
            "status": {
                "phase": "Running", "podIP": ip,
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
                "containerStatuses": [{
                    "name": "main", "ready": ready, "restartCount": 0, "image": "", "imageID": "",
                    "state": {"running": {}},
                }],
            },
        }))
        .expect("a pod"),
    )
    .expect("complete")
}

fn uid(text: &str) -> Uid {
    text.into()
}

fn states(index: &Index, name: &str) -> Vec<PodState> {
    index.report(&id(name)).expect("a function").pods.into_iter().map(|pod| pod.state).collect()
}

const LISTENS: Proof = Proof { instance: 0, port: 5000, answers: false };
const ANSWERS: Proof = Proof { instance: 0, port: 5000, answers: true };

#[test]
fn pods_belong_to_the_workload_that_controls_them_whatever_their_names() {
    let mut index = index();
    index.put_workload(function("d1", "fib"));
    index.put_workload(function("d2", "fib-api"));
    index.put_replica_set(uid("rs1"), uid("d1"));
    // The pod of `fib-api` is seen before its ReplicaSet.
    assert_eq!(index.put_pod(pod("b", ("ReplicaSet", "rs2", "fib-api-1"), "10.0.0.2", false)), Affected::default());
    let affected = index.put_replica_set(uid("rs2"), uid("d2"));
    assert_eq!(affected, Affected::function(Some(id("fib-api"))));
    let affected = index.put_pod(pod("a", ("ReplicaSet", "rs1", "fib-1"), "10.0.0.1", false));
    assert_eq!(affected, Affected::function(Some(id("fib"))));
    let names = |index: &Index, name| {
        let report = index.report(&id(name)).expect("a function");
        report.pods.iter().map(|pod| pod.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&index, "fib"), ["pod-a"]);
    assert_eq!(names(&index, "fib-api"), ["pod-b"]);
    assert_eq!(index.remove_pod(&uid("a")), Affected::function(Some(id("fib"))));
    assert!(names(&index, "fib").is_empty());
    assert_eq!(index.remove_workload(&uid("d1")), Affected { function: Some(id("fib")), dependency: true });
    assert!(index.report(&id("fib")).is_none());
}

#[test]
fn a_pod_serves_before_kubernetes_says_so_and_never_after_it_says_no() {
    let mut index = index();
    let set = ("StatefulSet", "s1", "fib");
    index.put_workload(workload(WorkloadKind::StatefulSet, "s1", "fib", 0, json!({"SlimFaas/Function": "true"})));
    let at = |ready| pod("a", set, "10.0.0.1", ready);
    index.put_pod(at(false));
    assert_eq!(states(&index, "fib"), [PodState::Starting]);
    index.put_proof(&uid("a"), LISTENS);
    assert_eq!(states(&index, "fib"), [PodState::Starting]);
    assert_eq!(index.to_prove(&id("fib")).len(), 1);
    index.put_proof(&uid("a"), ANSWERS);
    assert_eq!(states(&index, "fib"), [PodState::Ready]);
    assert!(index.to_prove(&id("fib")).is_empty());
    let pod = &index.report(&id("fib")).expect("a function").pods[0];
    assert_eq!(pod.address, Some(Address::Socket("10.0.0.1:5000".parse().unwrap())));
    index.put_pod(at(true));
    assert_eq!(states(&index, "fib"), [PodState::Ready]);
    // From now on Kubernetes' word counts alone.
    index.put_pod(at(false));
    assert_eq!(states(&index, "fib"), [PodState::Starting]);
    index.put_pod(at(true));
    assert_eq!(states(&index, "fib"), [PodState::Ready]);
    // Another instance of the container is another matter.
    let mut restarted = at(false);
    restarted.instance = 1;
    index.put_pod(restarted);
    assert_eq!(states(&index, "fib"), [PodState::Starting]);
    assert_eq!(index.put_proof(&uid("a"), ANSWERS), Affected::default());
    index.put_proof(&uid("a"), Proof { instance: 1, ..ANSWERS });
    assert_eq!(states(&index, "fib"), [PodState::Ready]);
}

#[test]
fn a_ready_pod_without_a_listener_gets_nothing() {
    let mut index = index();
    index.put_workload(function("d", "fib"));
    index.put_replica_set(uid("rs"), uid("d"));
    index.put_pod(pod("a", ("ReplicaSet", "rs", "fib-1"), "10.0.0.1", true));
    assert_eq!(states(&index, "fib"), [PodState::Starting]);
    index.put_proof(&uid("a"), LISTENS);
    assert_eq!(states(&index, "fib"), [PodState::Ready]);
    let mut ending = pod("a", ("ReplicaSet", "rs", "fib-1"), "10.0.0.1", true);
    ending.stage = Stage::Terminating;
    index.put_pod(ending);
    assert_eq!(states(&index, "fib"), [PodState::Terminating]);
}

#[test]
fn readiness_gates_and_opaque_probes_wait_for_kubernetes() {
    let mut index = index();
    index.put_workload(function("d", "fib"));
    index.put_replica_set(uid("rs"), uid("d"));
    let mut gated = pod("a", ("ReplicaSet", "rs", "fib-1"), "10.0.0.1", false);
    gated.others_ready = false;
    let mut opaque = pod("b", ("ReplicaSet", "rs", "fib-1"), "10.0.0.2", false);
    opaque.serving.readiness = Readiness::Opaque;
    index.put_pod(gated);
    index.put_pod(opaque.clone());
    index.put_proof(&uid("a"), ANSWERS);
    index.put_proof(&uid("b"), LISTENS);
    assert_eq!(states(&index, "fib"), [PodState::Starting, PodState::Starting]);
    opaque.ready = true;
    index.put_pod(opaque);
    assert_eq!(states(&index, "fib"), [PodState::Starting, PodState::Ready]);
}

#[test]
fn a_wrong_port_is_replaced_and_said() {
    let mut index = index();
    index.put_workload(function("d", "fib"));
    index.put_replica_set(uid("rs"), uid("d"));
    index.put_pod(pod("a", ("ReplicaSet", "rs", "fib-1"), "10.0.0.1", true));
    index.put_proof(&uid("a"), Proof { port: 5001, ..ANSWERS });
    let report = index.report(&id("fib")).expect("a function");
    assert_eq!(report.pods[0].address, Some(Address::Socket("10.0.0.1:5001".parse().unwrap())));
    assert_eq!(
        report.problems[0].to_string(),
        "containerPort: nothing listens on the declared port 5000; used instead: 5001, the port of its probe"
    );
}

#[test]
fn bad_annotations_keep_the_last_good_value() {
    let mut index = index();
    let with = |min: &str| {
        let annotations = json!({"SlimFaas/Function": "true", "SlimFaas/ReplicasMin": min});
        workload(WorkloadKind::Deployment, "d", "fib", 0, annotations)
    };
    index.put_workload(with("2"));
    assert_eq!(index.put_workload(with("2")), Affected::default());
    index.put_workload(with("two"));
    let report = index.report(&id("fib")).expect("a function");
    assert_eq!((report.spec.replicas_min, report.problems.len()), (2, 1));
    // The same again does not forget it.
    let mut scaled = with("two");
    scaled.replicas_requested = 5;
    index.put_workload(scaled);
    assert_eq!(index.report(&id("fib")).expect("a function").spec.replicas_min, 2);
}

#[test]
fn of_two_workloads_with_one_name_the_older_is_the_function() {
    let mut index = index();
    let annotations = json!({"SlimFaas/Function": "true"});
    index.put_workload(workload(WorkloadKind::StatefulSet, "young", "fib", 9, annotations.clone()));
    index.put_workload(workload(WorkloadKind::Deployment, "old", "fib", 1, annotations));
    assert_eq!(index.report(&id("fib")).expect("a function").kind, WorkloadKind::Deployment);
    let problems: Vec<(String, usize, String)> = index
        .problems(&id("fib"))
        .into_iter()
        .map(|(workload, problems)| {
            let text = problems.first().map(ToString::to_string).unwrap_or_default();
            (workload.uid.to_string(), problems.len(), text)
        })
        .collect();
    let expected = "metadata.name: the Deployment of this name is older and is the function fib; this one is not used: \
                    rename it";
    assert_eq!(problems, [("old".into(), 0, String::new()), ("young".into(), 1, expected.into())]);
    index.remove_workload(&uid("old"));
    assert_eq!(index.report(&id("fib")).expect("a function").kind, WorkloadKind::StatefulSet);
}

#[test]
fn any_workload_can_be_depended_on() {
    let mut index = index();
    let mut mysql = workload(WorkloadKind::StatefulSet, "s", "mysql", 0, json!(null));
    assert_eq!(index.dependency_ready(&id("mysql")), None);
    index.put_workload(mysql.clone());
    assert_eq!(index.dependency_ready(&id("mysql")), Some(false));
    assert!(index.report(&id("mysql")).is_none());
    mysql.replicas_ready = 1;
    assert!(index.put_workload(mysql).dependency);
    assert_eq!(index.dependency_ready(&id("mysql")), Some(true));
}

#[test]
fn callers_are_known_by_the_exact_address_of_their_pod() {
    let mut index = index();
    let untrusted = json!({"SlimFaas/Function": "true", "SlimFaas/DefaultTrust": "Untrusted"});
    index.put_workload(workload(WorkloadKind::Deployment, "d", "fib", 0, untrusted));
    index.put_replica_set(uid("rs"), uid("d"));
    index.put_pod(pod("a", ("ReplicaSet", "rs", "fib-1"), "10.0.0.1", true));
    index.put_pod(pod("j", ("Job", "job", "import-1"), "10.0.0.2", true));
    index.put_pod(pod("g", ("StatefulSet", "gw", "slimfaas"), "10.0.0.3", true));
    index.put_pod(pod("x", ("DaemonSet", "ds", "logger"), "10.0.0.4", true));
    let mut on_host = pod("h", ("DaemonSet", "ds", "logger"), "10.0.0.5", true);
    on_host.host_network = true;
    index.put_pod(on_host);
    let check = |index: &Index, ip: &str, expected: Option<Caller>| {
        assert_eq!(index.caller(ip.parse().unwrap(), Some(&uid("gw"))), expected, "{ip}");
    };
    let of = |name: &str, trust| Some(Caller::Pod { workload: id(name), trust });
    check(&index, "10.0.0.1", of("fib", Trust::Untrusted));
    check(&index, "10.0.0.10", None);
    check(&index, "10.0.0.2", Some(Caller::Job { job: id("import-1") }));
    check(&index, "10.0.0.3", Some(Caller::Gateway));
    check(&index, "10.0.0.4", of("logger", Trust::Trusted));
    check(&index, "10.0.0.5", None);
    // An address that two pods claim proves nothing, until one of them has ended.
    let mut reused = pod("b", ("ReplicaSet", "rs", "fib-1"), "10.0.0.4", true);
    index.put_pod(reused.clone());
    check(&index, "10.0.0.4", None);
    reused.stage = Stage::Ended;
    index.put_pod(reused);
    check(&index, "10.0.0.4", of("logger", Trust::Trusted));
    index.remove_pod(&uid("x"));
    check(&index, "10.0.0.4", None);
}
