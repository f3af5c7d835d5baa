//! Manifests of example functions, as their owners would write them.

use std::fmt::Write;

/// A workload of one container of the example image.
pub(super) struct Workload<'a> {
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
    pub(super) replicas: u32,
    /// Of the pod template. Empty: an ordinary workload.
    pub(super) annotations: &'a [(&'a str, &'a str)],
    /// Seconds between two of the kubelet's readiness probes; `None`: no probe.
    pub(super) probe_period: Option<u32>,
    /// `None`: the container declares no port.
    pub(super) port: Option<u16>,
    /// Milliseconds until it listens.
    pub(super) start_delay: u32,
}

/// Goes to zero after some seconds.
pub(super) const FUNCTION: (&str, &str) = ("SlimFaas/Function", "true");

impl Default for Workload<'_> {
    fn default() -> Self {
        Self {
            kind: "Deployment",
            name: "fibonacci",
            replicas: 0,
            annotations: &[FUNCTION],
            probe_period: Some(1),
            port: Some(8080),
            start_delay: 0,
        }
    }
}

impl Workload<'_> {
    pub(super) fn yaml(&self) -> String {
        let Self { kind, name, replicas, .. } = self;
        let mut yaml = format!(
            "apiVersion: apps/v1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n  replicas: {replicas}\n  selector:\n    \
             matchLabels: {{app: {name}}}\n"
        );
        if *kind == "StatefulSet" {
            yaml += &format!("  serviceName: {name}\n");
        }
        yaml += &format!("  template:\n    metadata:\n      labels: {{app: {name}}}\n      annotations:\n");
        yaml += "        example.com/owner: tests\n";
        for (key, value) in self.annotations {
            // JSON strings are YAML strings.
            writeln!(yaml, "        {key}: {}", serde_json::Value::from(*value)).expect("writing to a string");
        }
        yaml += &format!(
            "    spec:\n      terminationGracePeriodSeconds: 10\n      containers:\n      - name: main\n        \
             image: slimfaas-example:dev\n        imagePullPolicy: Never\n        env:\n        \
             - {{name: FUNCTION_NAME, value: {name}}}\n        - {{name: PORT, value: \"8080\"}}\n        - {{name: START_DELAY_MS, value: \"{}\"}}\n",
            self.start_delay
        );
        if let Some(port) = self.port {
            yaml += &format!("        ports:\n        - {{containerPort: {port}}}\n");
        }
        if let Some(period) = self.probe_period {
            yaml += &format!(
                "        readinessProbe:\n          httpGet: {{path: /health, port: 8080}}\n          \
                 periodSeconds: {period}\n"
            );
        }
        yaml + "---\n"
    }
}
