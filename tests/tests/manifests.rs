//! The manifests of `deploy/`, without a cluster: they build, Helm's are kustomize's, and they say nothing that the
//! gateway does not know. Needs kubectl and Helm, which `cargo xtask cluster up` builds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use slimfaas_tests::manifests::{Renderer, chart, deploy, objects};
use slimfaas_tests::process::Scratch;
use slimfaas_tests::require::skip_or_fail;

/// All that a kustomization or the chart may use; `0.1.0` stands for the workspace's version.
const IMAGES: &[&str] = &[
    "slimfaas:0.1.0",
    "slimfaas:dev",
    "slimfaas-agent:0.1.0",
    "slimfaas-agent:dev",
    "slimfaas-example:0.1.0",
    "slimfaas-example:dev",
    // Those of the original's walkthrough.
    "axaguildev/fibonacci:pr-77-815",
    "mysql:8.4",
];

/// Every value of the chart away from its default.
const EVERYTHING: &[&str] = &[
    "replicas=3",
    "namespaces={functions,jobs}",
    "service.type=NodePort,service.nodePort=30021,service.annotations.a=b",
    "ingress.enabled=true,ingress.className=nginx,ingress.tlsSecret=certificate,ingress.annotations.a=b",
    "persistence.enabled=true,persistence.storageClass=fast,persistence.size=5Gi,persistence.whenDeleted=Delete",
    "peerKey.existingSecret=mine",
    "agent.enabled=true,agent.existingSecret=mine,agent.image.tag=dev,agent.resources.limits.memory=64Mi",
    "extraEnv[0].name=SlimFaas__Log__Format,extraEnv[0].value=json",
    "image.tag=dev,image.pullPolicy=Never,image.pullSecrets={registry}",
    "resources.limits.cpu=2,terminationGracePeriodSeconds=60,disruptionBudget.maxUnavailable=50%",
    "spread.nodes=DoNotSchedule,spread.zones=ScheduleAnyway",
    "serviceMonitor.enabled=true,serviceMonitor.labels.a=b,serviceAccount.annotations.a=b",
    "podAnnotations.a=b,podLabels.a=b,nodeSelector.a=b,tolerations[0].operator=Exists,priorityClassName=high",
];

fn renderer(test: &str) -> Option<Renderer> {
    Renderer::find().inspect_err(|error| skip_or_fail("manifests", test, format_args!("{error:#}"))).ok()
}

/// Every folder below `deploy/` with a kustomization that can be applied: components are parts of those.
fn kustomizations() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![deploy()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with("kustomization.yaml")
                && objects(&fs::read_to_string(&path)?)?[0]["kind"] == "Kustomization"
            {
                found.push(folder.clone());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What can be installed: a name for messages, and the objects.
fn everything(renderer: &Renderer) -> Result<Vec<(String, Vec<Value>)>> {
    let mut all = Vec::new();
    for folder in kustomizations()? {
        all.push((folder.display().to_string(), objects(&renderer.kustomize(&folder)?)?));
    }
    for values in [&[][..], EVERYTHING] {
        all.push((format!("the chart with {values:?}"), objects(&renderer.chart("default", values)?)?));
    }
    Ok(all)
}

fn base(renderer: &Renderer) -> Result<Vec<Value>> {
    objects(&renderer.kustomize(&deploy().join("kustomize/base"))?)
}

/// `Kind/namespace/name`.
fn identity(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    format!("{}/{}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

fn by_identity(objects: Vec<Value>) -> BTreeMap<String, Value> {
    objects.into_iter().map(|object| (identity(&object), object)).collect()
}

fn find<'a>(objects: &'a [Value], wanted: &str) -> Result<&'a Value> {
    let found = objects.iter().find(|object| identity(object) == wanted);
    found.with_context(|| format!("no {wanted} in {:?}", objects.iter().map(identity).collect::<Vec<_>>()))
}

/// Every container of a Deployment or StatefulSet; other objects have none.
fn containers(object: &Value) -> impl Iterator<Item = &Value> {
    object["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten()
}

#[test]
fn every_kustomization_builds() -> Result<()> {
    let Some(renderer) = renderer("every_kustomization_builds") else { return Ok(()) };
    let names: BTreeSet<String> = kustomizations()?
        .iter()
        .map(|folder| Ok(folder.strip_prefix(deploy())?.display().to_string()))
        .collect::<Result<_>>()?;
    let overlays = ["agent", "dev", "ha", "ingress", "namespaces", "nodeport", "persistent"];
    let expected = overlays.map(|name| format!("kustomize/overlays/{name}"));
    let expected = expected.into_iter().chain(
        ["kustomize/base", "kustomize/components/namespaces/functions", "examples/base", "examples/overlays/dev"]
            .map(str::to_owned),
    );
    assert_eq!(names, expected.collect());
    for (name, objects) in everything(&renderer)? {
        for object in &objects {
            let is_cluster_wide = object["kind"].as_str().is_some_and(|kind| kind.starts_with("Cluster"));
            let has_namespace = object["metadata"]["namespace"].is_string();
            ensure!(has_namespace != is_cluster_wide, "{} of {name} has no namespace", identity(object));
        }
        let count = objects.len();
        assert_eq!(by_identity(objects).len(), count, "{name} has an object twice");
    }
    Ok(())
}

#[test]
fn the_chart_installs_the_base_and_a_peer_key() -> Result<()> {
    let Some(renderer) = renderer("the_chart_installs_the_base_and_a_peer_key") else { return Ok(()) };
    let mut installed = without_labels(objects(&renderer.chart("default", &[])?)?)?;
    // 64 characters.
    assert_eq!(secret_lengths(&mut installed, "slimfaas-peer")?, [("key".to_owned(), 64)].into());
    assert_same(&installed, &without_labels(base(&renderer)?)?);
    Ok(())
}

#[test]
fn the_chart_installs_the_agents_overlay_and_its_keys() -> Result<()> {
    let Some(renderer) = renderer("the_chart_installs_the_agents_overlay_and_its_keys") else { return Ok(()) };
    let overlay = objects(&renderer.kustomize(&deploy().join("kustomize/overlays/agent"))?)?;
    let render = || without_labels(objects(&renderer.chart("default", &["agent.enabled=true"])?)?);
    let (mut installed, other) = (render()?, render()?);
    let identity = "Secret/default/slimfaas-identity";
    assert_ne!(installed[identity]["data"]["current"], installed[identity]["data"]["salt"]);
    assert_ne!(installed[identity]["data"], other[identity]["data"], "everybody's keys are the same");
    let lengths = secret_lengths(&mut installed, "slimfaas-identity")?;
    assert_eq!(lengths, [("current".to_owned(), 32), ("salt".to_owned(), 32)].into());
    secret_lengths(&mut installed, "slimfaas-peer")?;
    assert_same(&installed, &without_labels(overlay)?);
    Ok(())
}

fn without_labels(objects: Vec<Value>) -> Result<BTreeMap<String, Value>> {
    let strip = |(identity, mut object): (String, Value)| {
        object["metadata"].as_object_mut().context("an object has metadata")?.remove("labels");
        Ok((identity, object))
    };
    by_identity(objects).into_iter().map(strip).collect()
}

/// Takes a Secret out; how many characters each of its entries has.
fn secret_lengths(installed: &mut BTreeMap<String, Value>, name: &str) -> Result<BTreeMap<String, usize>> {
    let secret = installed.remove(&format!("Secret/default/{name}")).with_context(|| format!("no Secret {name}"))?;
    let entries = secret["data"].as_object().context("a Secret has data")?.iter();
    let length = |value: &Value| value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4);
    Ok(entries.map(|(name, value)| (name.clone(), length(value))).collect())
}

#[track_caller]
fn assert_same(installed: &BTreeMap<String, Value>, expected: &BTreeMap<String, Value>) {
    assert_eq!(installed.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (identity, object) in expected {
        assert_eq!(&installed[identity], object, "{identity}");
    }
}

/// How to get from `folder` to one of the kustomizations: kustomize takes no absolute paths.
fn way_to(folder: &Path, kustomization: &str) -> Result<String> {
    let up = "../".repeat(folder.canonicalize()?.components().count() - 1);
    let down = deploy().join("kustomize").join(kustomization).display().to_string();
    Ok(format!("{up}{}", down.trim_start_matches('/')))
}

fn write_kustomization(folder: &Path, mut fields: Value) -> Result<()> {
    fields["apiVersion"] = json!("kustomize.config.k8s.io/v1beta1");
    fields["kind"] = json!("Kustomization");
    fs::write(folder.join("kustomization.yaml"), fields.to_string()).context("cannot write a kustomization")
}

/// The gateway in the namespace `elsewhere`, as the documentation says how.
fn gateway_elsewhere(folder: &Path, components: &[&str]) -> Result<()> {
    let components = components.iter().map(|name| way_to(folder, &format!("components/{name}")));
    let components = components.collect::<Result<Vec<_>>>()?;
    let base = way_to(folder, "base")?;
    write_kustomization(folder, json!({"namespace": "elsewhere", "resources": [base], "components": components}))
}

#[test]
fn another_namespace_and_all_components_together() -> Result<()> {
    let Some(renderer) = renderer("another_namespace_and_all_components_together") else { return Ok(()) };
    let scratch = Scratch::new("kustomize")?;
    gateway_elsewhere(scratch.path(), &["ha", "nodeport", "ingress", "persistent"])?;
    let objects = objects(&renderer.kustomize(scratch.path())?)?;
    assert_eq!(objects.len(), base(&renderer)?.len() + 1);
    for object in &objects {
        assert_eq!(object["metadata"]["namespace"], "elsewhere", "{}", identity(object));
    }
    let binding = find(&objects, "RoleBinding/elsewhere/slimfaas")?;
    let account = json!([{"kind": "ServiceAccount", "name": "slimfaas", "namespace": "elsewhere"}]);
    assert_eq!(binding["subjects"], account);
    let set = &find(&objects, "StatefulSet/elsewhere/slimfaas")?["spec"];
    assert_eq!(set["replicas"], 3);
    let kept = set["volumeClaimTemplates"].as_array().map(Vec::len);
    let volumes: Vec<_> = set["template"]["spec"]["volumes"].as_array().into_iter().flatten().collect();
    let names: Vec<_> = volumes.iter().map(|volume| &volume["name"]).collect();
    assert_eq!((kept, names), (Some(1), vec![&json!("peer-key"), &json!("admin-token")]));
    let service = &find(&objects, "Service/elsewhere/slimfaas")?["spec"];
    assert_eq!((&service["type"], &service["ports"][0]["nodePort"]), (&json!("NodePort"), &json!(30021)));
    find(&objects, "Ingress/elsewhere/slimfaas").map(drop)
}

#[test]
fn an_agent_elsewhere_has_its_rights() -> Result<()> {
    let Some(renderer) = renderer("an_agent_elsewhere_has_its_rights") else { return Ok(()) };
    let scratch = Scratch::new("kustomize")?;
    gateway_elsewhere(scratch.path(), &["agent"])?;
    let objects = objects(&renderer.kustomize(scratch.path())?)?;
    let account = json!([{"kind": "ServiceAccount", "name": "slimfaas-agent", "namespace": "elsewhere"}]);
    assert_eq!(find(&objects, "ClusterRoleBinding//slimfaas-agent")?["subjects"], account);
    find(&objects, "DaemonSet/elsewhere/slimfaas-agent").map(drop)
}

#[test]
fn a_gateway_elsewhere_has_its_rights_in_further_namespaces() -> Result<()> {
    let Some(renderer) = renderer("a_gateway_elsewhere_has_its_rights_in_further_namespaces") else { return Ok(()) };
    let scratch = Scratch::new("kustomize")?;
    let gateway = scratch.path().join("gateway");
    fs::create_dir(&gateway)?;
    gateway_elsewhere(&gateway, &[])?;
    let component = way_to(scratch.path(), "components/namespaces")?;
    write_kustomization(scratch.path(), json!({"resources": ["gateway"], "components": [component]}))?;
    let objects = objects(&renderer.kustomize(scratch.path())?)?;
    assert_eq!(objects.len(), base(&renderer)?.len() + 2);
    find(&objects, "Role/functions/slimfaas-functions")?;
    let account = json!([{"kind": "ServiceAccount", "name": "slimfaas", "namespace": "elsewhere"}]);
    for binding in ["RoleBinding/functions/slimfaas-functions", "RoleBinding/elsewhere/slimfaas"] {
        assert_eq!(find(&objects, binding)?["subjects"], account, "{binding}");
    }
    let set = find(&objects, "StatefulSet/elsewhere/slimfaas")?;
    let variables: Vec<_> = containers(set).flat_map(|container| container["env"].as_array()).flatten().collect();
    assert!(variables.contains(&&json!({"name": "SlimFaas__Namespaces", "value": "functions"})), "{variables:?}");
    Ok(())
}

/// Whether a number that is not whole is anywhere in it, such as what YAML reads `1e3` as.
fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_fraction),
        Value::Object(fields) => fields.values().any(has_fraction),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// Names may look like numbers, and a host may begin with what is an alias in YAML.
#[test]
fn names_stay_text_in_the_chart() -> Result<()> {
    let Some(renderer) = renderer("names_stay_text_in_the_chart") else { return Ok(()) };
    let values = [
        "namespaces={2e3}",
        "ingress.enabled=true,ingress.host=*.example.com,ingress.className=3e3,ingress.tlsSecret=4e3",
        "persistence.enabled=true,persistence.storageClass=5e3,peerKey.existingSecret=6e3",
        "image.pullSecrets={7e3},priorityClassName=8e3,serviceMonitor.enabled=true",
        "agent.enabled=true,agent.existingSecret=9e3,agent.image.tag=1e4",
    ];
    let objects = objects(&renderer.chart("1e3", &values)?)?;
    for object in &objects {
        ensure!(!has_fraction(object), "{}: {object}", identity(object));
    }
    let ingress = &find(&objects, "Ingress/1e3/slimfaas")?["spec"];
    assert_eq!(ingress["rules"][0]["host"], "*.example.com");
    assert_eq!(ingress["tls"], json!([{"hosts": ["*.example.com"], "secretName": "4e3"}]));
    find(&objects, "RoleBinding/2e3/slimfaas-1e3").map(drop)
}

#[test]
fn the_chart_can_leave_replicas_to_an_autoscaler() -> Result<()> {
    let Some(renderer) = renderer("the_chart_can_leave_replicas_to_an_autoscaler") else { return Ok(()) };
    let objects = objects(&renderer.chart("default", &["replicas=null"])?)?;
    let spec = find(&objects, "StatefulSet/default/slimfaas")?["spec"].as_object().context("a spec")?;
    // Not even null, which would be a change to 1 with each upgrade.
    assert!(!spec.contains_key("replicas"), "{spec:?}");
    Ok(())
}

#[test]
fn every_option_is_in_the_reference() -> Result<()> {
    let Some(renderer) = renderer("every_option_is_in_the_reference") else { return Ok(()) };
    let reference = fs::read_to_string(deploy().with_file_name("docs").join("configuration.md"))?;
    // Those that have an effect.
    let (reference, _) = reference.split_once("## Accepted, not used").context("the reference has two parts")?;
    let known: BTreeSet<&str> = reference.split('`').skip(1).step_by(2).collect();
    let mut used = BTreeSet::new();
    for (_, objects) in everything(&renderer)? {
        let gateways = objects.iter().flat_map(containers).filter(|container| container["name"] == "slimfaas");
        for variable in gateways.flat_map(|gateway| gateway["env"].as_array().into_iter().flatten()) {
            used.insert(variable["name"].as_str().context("a variable has a name")?.to_owned());
        }
    }
    let unknown: Vec<_> = used.iter().filter(|name| !known.contains(name.as_str())).collect();
    assert_eq!(unknown, [""; 0]);
    assert!(used.contains("SlimFaas__Namespaces"), "{used:?}");
    Ok(())
}

#[test]
fn images_are_the_known_ones_of_this_version() -> Result<()> {
    let Some(renderer) = renderer("images_are_the_known_ones_of_this_version") else { return Ok(()) };
    let version = env!("CARGO_PKG_VERSION");
    let mut used = BTreeSet::new();
    for (name, objects) in everything(&renderer)? {
        let is_dev = name.ends_with("overlays/dev");
        for container in objects.iter().flat_map(containers) {
            let image = container["image"].as_str().context("a container has an image")?;
            ensure!(!is_dev || (image.ends_with(":dev") && container["imagePullPolicy"] == "Never"), "{name}: {image}");
            used.insert(image.to_owned());
        }
    }
    let known = IMAGES.iter().map(|image| image.replace("0.1.0", version));
    assert_eq!(used, known.collect());
    let chart = &objects(&fs::read_to_string(chart().join("Chart.yaml"))?)?[0];
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(version), &json!(version)));
    Ok(())
}

#[test]
fn rights_are_exactly_these() -> Result<()> {
    let Some(renderer) = renderer("rights_are_exactly_these") else { return Ok(()) };
    let everywhere = [
        json!({"apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "replicasets"], "verbs": ["list", "watch"]}),
        json!({"apiGroups": ["apps"], "resources": ["deployments/scale", "statefulsets/scale"], "verbs": ["patch"]}),
        json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}),
        json!({"apiGroups": ["batch"], "resources": ["cronjobs"], "verbs": ["list", "watch"]}),
        json!({"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]}),
        json!({"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}),
        json!({"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]}),
    ];
    let lease = [
        json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]}),
        json!({
            "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["slimfaas"],
            "verbs": ["get", "update"],
        }),
    ];
    let own = Value::from([&everywhere[..], &lease[..]].concat());
    let mut others = 0;
    for (name, objects) in everything(&renderer)? {
        for role in objects.iter().filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Role"))) {
            // Of ClusterRoles only the agent's: what one namespace's gateway may do ends there.
            let may_have_agent = name.ends_with("overlays/agent") || name.contains("agent.enabled=true");
            if may_have_agent && role["metadata"]["name"] == "slimfaas-agent" {
                assert_eq!(identity(role), "ClusterRole//slimfaas-agent");
                assert_eq!(
                    role["rules"],
                    json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}])
                );
                continue;
            }
            assert_eq!(role["kind"], "Role", "{name}");
            let is_own = role["metadata"]["namespace"] == "default";
            others += usize::from(!is_own);
            let expected = if is_own { &own } else { &Value::from(&everywhere[..]) };
            assert_eq!(&role["rules"], expected, "{} of {name}", identity(role));
        }
        // Each Role has its binding, to the account of the one gateway.
        for binding in objects.iter().filter(|object| object["kind"] == "RoleBinding") {
            let account = json!([{"kind": "ServiceAccount", "name": "slimfaas", "namespace": "default"}]);
            assert_eq!(binding["subjects"], account, "{name}");
            let metadata = &binding["metadata"];
            assert_eq!(binding["roleRef"]["name"], metadata["name"], "{name}");
            find(&objects, &identity(binding).replace("RoleBinding/", "Role/")).with_context(|| name.clone())?;
        }
    }
    // The component by itself and in its overlay, and two namespaces of the chart.
    assert_eq!(others, 4);
    Ok(())
}

#[test]
fn pods_of_this_repository_need_no_privilege() -> Result<()> {
    let Some(renderer) = renderer("pods_of_this_repository_need_no_privilege") else { return Ok(()) };
    for (name, objects) in everything(&renderer)? {
        for object in &objects {
            let pod = &object["spec"]["template"]["spec"];
            for container in containers(object) {
                let image = container["image"].as_str().unwrap_or_default();
                if !image.starts_with("slimfaas") || image == "slimfaas-example:dev" {
                    continue;
                }
                let what = format!("{} of {name}", identity(object));
                let mut expected = json!({
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                });
                let is_agent = image.starts_with("slimfaas-agent");
                if is_agent {
                    // What loading and attaching kernel programs takes, and not the whole of root.
                    expected["runAsUser"] = json!(0);
                    expected["capabilities"]["add"] = json!(["BPF", "PERFMON", "NET_ADMIN"]);
                }
                assert_eq!(container["securityContext"], expected, "{what}");
                assert_eq!(
                    pod["securityContext"]["runAsNonRoot"],
                    if is_agent { Value::Null } else { json!(true) },
                    "{what}"
                );
                assert_eq!(pod["securityContext"]["seccompProfile"], json!({"type": "RuntimeDefault"}), "{what}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_chart_refuses_bad_values() -> Result<()> {
    let Some(renderer) = renderer("the_chart_refuses_bad_values") else { return Ok(()) };
    for (values, said) in [
        ("replica=3", "'replica' not allowed"),
        ("replicas=0", "at '/replicas'"),
        ("replicas=many", "at '/replicas'"),
        ("service.type=Nodeport", "at '/service/type'"),
        ("service.nodePort=30021", "service.nodePort needs service.type"),
        ("service.type=NodePort,service.nodePort=70000", "at '/service/nodePort'"),
        ("namespaces={Not-A-Name}", "at '/namespaces/0'"),
        ("namespaces={default}", "is the gateway's own namespace"),
        ("ingress.paths[0].path=function,ingress.paths[0].pathType=Prefix", "at '/ingress/paths/0/path'"),
        ("extraEnv[0].name=X,extraEnv[0].value=1", "at '/extraEnv/0/value'"),
        ("resources.limits.memory=256MB", "at '/resources/limits/memory'"),
        ("disruptionBudget.maxUnavailable=200%", "at '/disruptionBudget/maxUnavailable'"),
        ("spread.nodes=Always", "at '/spread/nodes'"),
        ("agent.enabled=yes", "at '/agent/enabled'"),
        ("agent.existingSecret=Mine", "at '/agent/existingSecret'"),
    ] {
        let refused = renderer.chart("default", &[values]).err().with_context(|| format!("{values} is taken"))?;
        assert!(format!("{refused:#}").contains(said), "{values}: {refused:#}");
    }
    Ok(())
}

#[test]
fn every_value_of_the_chart_is_explained() -> Result<()> {
    let text = fs::read_to_string(chart().join("README.md"))?;
    let values = &objects(&fs::read_to_string(chart().join("values.yaml"))?)?[0];
    let schema: Value = serde_json::from_str(&fs::read_to_string(chart().join("values.schema.json"))?)?;
    for (name, value) in values.as_object().context("values are a map")? {
        let in_schema = &schema["properties"][name];
        assert!(in_schema.is_object(), "{name} is not in the schema");
        assert!(text.contains(&format!("`{name}")), "{name} is not in the README");
        let parts = in_schema["properties"].as_object().into_iter().flatten();
        for (part, _) in parts.filter(|_| !matches!(name.as_str(), "resources")) {
            assert!(value.get(part).is_some(), "{name}.{part} has no default");
            let named = [format!("`{name}.{part}`"), format!("`.{part}`")];
            assert!(named.iter().any(|named| text.contains(named)), "{name}.{part} is not in the README");
        }
    }
    Ok(())
}

/// The examples speak the language of the reference.
#[test]
fn every_annotation_of_the_examples_is_in_the_reference() -> Result<()> {
    let Some(renderer) = renderer("every_annotation_of_the_examples_is_in_the_reference") else { return Ok(()) };
    let reference = fs::read_to_string(deploy().with_file_name("docs").join("annotations.md"))?;
    let mut functions = BTreeSet::new();
    for object in objects(&renderer.kustomize(&deploy().join("examples/base"))?)? {
        let annotations = object["spec"]["template"]["metadata"]["annotations"].as_object().into_iter().flatten();
        for (key, value) in annotations {
            assert!(reference.contains(&format!("| `{key}` |")), "{key} of {}", identity(&object));
            let value = value.as_str().with_context(|| format!("{key} of {} is no text", identity(&object)))?;
            if key == "SlimFaas/Schedule" {
                serde_json::from_str::<Value>(value).context(key.clone())?;
            }
            functions.insert(identity(&object));
        }
        // A number in the file would undo the gateway's each time that it is applied.
        if functions.contains(&identity(&object)) {
            assert_eq!(object["spec"]["replicas"], Value::Null, "{}", identity(&object));
        }
    }
    assert_eq!(functions.len(), 8, "{functions:?}");
    assert!(deploy().join("examples/README.md").is_file());
    Ok(())
}
