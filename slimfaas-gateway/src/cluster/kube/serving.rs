//! On which port a pod serves and how that is found out, from its containers. Pure.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe as ProbeObject};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::model::problem::Problem;

/// Where a pod serves that says nothing about it.
const PORT_ASSUMED: u16 = 8080;

/// How a pod is reached and asked whether it is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Serving {
    /// The ports that its containers declare, in their order; what `{pod_port_N}` counts.
    /// Never empty: see [`Serving::assumed`].
    pub(super) ports: Vec<u16>,
    /// Nothing was declared: `ports` is a guess from this.
    pub(super) assumed: Option<Assumed>,
    pub(super) readiness: Readiness,
    /// The port of its probe, where no container declares that one: if nothing listens on the declared port, this is
    /// the one that was meant.
    pub(super) undeclared: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assumed {
    FromProbe,
    FromNothing,
}

/// The serving container's readiness probe, as far as the gateway can ask the same question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// GET of this path.
    Http { path: String, port: u16 },
    /// A connection: also for pods without any probe.
    Tcp { port: u16 },
    /// Only the kubelet can ask (a command, gRPC, TLS, headers, several successes in a row).
    Opaque,
}

impl Serving {
    /// `None` without containers.
    pub(super) fn of(containers: &[Container]) -> Option<Self> {
        let serving = container(containers)?;
        let mut ports: Vec<u16> = containers.iter().flat_map(declared_ports).collect();
        let probes = [&serving.readiness_probe, &serving.startup_probe, &serving.liveness_probe];
        let probed = probes.into_iter().flatten().find_map(|probe| probed_port(probe, serving));
        let mut assumed = None;
        if ports.is_empty() {
            assumed = Some(if probed.is_some() { Assumed::FromProbe } else { Assumed::FromNothing });
            ports.push(probed.unwrap_or(PORT_ASSUMED));
        }
        let undeclared = probed.filter(|port| !ports.contains(port));
        let readiness = match &serving.readiness_probe {
            Some(probe) => readiness(probe, serving),
            None => Readiness::Tcp { port: ports[0] },
        };
        Some(Self { ports, assumed, readiness, undeclared })
    }

    /// What its owner should know.
    pub(super) fn problem(&self) -> Option<Problem> {
        let source = match self.assumed? {
            Assumed::FromProbe => "the port of its probe",
            Assumed::FromNothing => "the usual one",
        };
        let message = format!("no container of the pod declares a port; used instead: {}, {source}", self.ports[0]);
        Some(Problem::new("containerPort", message))
    }
}

/// Of several containers, the first that declares a port serves; without any, the first.
pub(super) fn container(containers: &[Container]) -> Option<&Container> {
    containers.iter().find(|container| declared_ports(container).next().is_some()).or_else(|| containers.first())
}

fn declared_ports(container: &Container) -> impl Iterator<Item = u16> + '_ {
    let ports = container.ports.iter().flatten();
    ports
        .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
        .filter_map(|port| u16::try_from(port.container_port).ok())
}

fn readiness(probe: &ProbeObject, container: &Container) -> Readiness {
    // What asks for several successes in a row distrusts the first one.
    if probe.success_threshold.is_some_and(|successes| successes > 1) {
        return Readiness::Opaque;
    }
    if let Some(get) = &probe.http_get {
        return http(get, container).unwrap_or(Readiness::Opaque);
    }
    let tcp = probe.tcp_socket.as_ref().filter(|tcp| tcp.host.is_none());
    tcp.and_then(|tcp| port_number(&tcp.port, container)).map_or(Readiness::Opaque, |port| Readiness::Tcp { port })
}

fn http(get: &HTTPGetAction, container: &Container) -> Option<Readiness> {
    let is_plain = get.scheme.as_deref().is_none_or(|scheme| scheme == "HTTP")
        && get.host.is_none()
        && get.http_headers.as_ref().is_none_or(Vec::is_empty);
    let port = port_number(&get.port, container).filter(|_| is_plain)?;
    let path = get.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    Some(Readiness::Http { path, port })
}

fn probed_port(probe: &ProbeObject, container: &Container) -> Option<u16> {
    let http = probe.http_get.as_ref().map(|get| &get.port);
    let port = http.or_else(|| probe.tcp_socket.as_ref().map(|tcp| &tcp.port))?;
    port_number(port, container)
}

/// A probe names a port by its number or by its name in the same container.
fn port_number(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|number| *number != 0),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_deref() == Some(name));
            named.and_then(|port| u16::try_from(port.container_port).ok()).or_else(|| name.parse().ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn serving(containers: Value) -> Serving {
        let containers: Vec<Container> = serde_json::from_value(containers).expect("containers");
        Serving::of(&containers).expect("a container")
    }

    #[test]
    fn the_first_declared_port_serves() {
        let all = serving(json!([
            {"name": "sidecar"},
            {"name": "main", "ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 5000},
                {"containerPort": 9090, "protocol": "TCP"}]},
            {"name": "other", "ports": [{"containerPort": 1}]},
        ]));
        assert_eq!(all.ports, [5000, 9090, 1]);
        assert_eq!((all.assumed, all.undeclared), (None, None));
        assert_eq!(all.readiness, Readiness::Tcp { port: 5000 });
        assert_eq!(all.problem(), None);
    }

    #[test]
    fn probes_that_can_be_asked_from_outside() {
        let check = |probe: Value, expected: Readiness| {
            let ports = json!([{"name": "web", "containerPort": 5000}]);
            let found = serving(json!([{"name": "main", "ports": ports, "readinessProbe": probe}]));
            assert_eq!(found.readiness, expected, "{probe}");
        };
        let http = |path: &str, port| Readiness::Http { path: path.to_owned(), port };
        check(json!({"httpGet": {"path": "/health", "port": 5000}}), http("/health", 5000));
        check(json!({"httpGet": {"path": "health", "port": "web", "scheme": "HTTP"}}), http("/health", 5000));
        check(json!({"httpGet": {"port": 81}}), http("/", 81));
        check(json!({"tcpSocket": {"port": "web"}}), Readiness::Tcp { port: 5000 });
        for opaque in [
            json!({"exec": {"command": ["true"]}}),
            json!({"grpc": {"port": 5000}}),
            json!({"httpGet": {"port": 5000, "scheme": "HTTPS"}}),
            json!({"httpGet": {"port": 5000, "httpHeaders": [{"name": "Host", "value": "x"}]}}),
            json!({"httpGet": {"port": 5000, "host": "10.0.0.1"}}),
            json!({"httpGet": {"port": "nowhere"}}),
            json!({"httpGet": {"port": 5000}, "successThreshold": 2}),
        ] {
            check(opaque, Readiness::Opaque);
        }
    }

    #[test]
    fn without_a_declared_port_the_probe_says_it() {
        let probed = serving(json!([{"name": "main", "livenessProbe": {"tcpSocket": {"port": 3306}}}]));
        assert_eq!((&probed.ports[..], probed.assumed), (&[3306][..], Some(Assumed::FromProbe)));
        assert_eq!(
            probed.problem().map(|problem| problem.to_string()).as_deref(),
            Some("containerPort: no container of the pod declares a port; used instead: 3306, the port of its probe"),
        );
        let silent = serving(json!([{"name": "main"}]));
        assert_eq!((&silent.ports[..], silent.assumed), (&[8080][..], Some(Assumed::FromNothing)));
    }

    #[test]
    fn a_probe_on_another_port_is_remembered() {
        let probe = json!({"httpGet": {"path": "/health", "port": 5000}});
        let seed = serving(json!([
            {"name": "main", "ports": [{"containerPort": 50004}], "readinessProbe": probe}
        ]));
        assert_eq!((&seed.ports[..], seed.undeclared), (&[50004][..], Some(5000)));
    }
}
