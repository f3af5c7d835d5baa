//! The static list of functions: `MOCK_KUBERNETES_FUNCTIONS`. Nothing is started, probed or scaled here.

mod nodes;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use nodes::Nodes;

use crate::cluster::{Cluster, ClusterFuture, ScaleError, Scaling};
use crate::config::fixed_functions::FixedFunction;
use crate::model::function::{FunctionId, WorkloadKind};
use crate::model::spec::Dependency;
use crate::table::view::{Pod, PodState};
use crate::table::{FunctionReport, Table};

/// Functions that somebody else runs: each is one address that always counts as ready.
pub struct FixedCluster {
    functions: BTreeSet<FunctionId>,
}

impl FixedCluster {
    /// Puts the functions into the table, where they stay.
    pub fn new(functions: Vec<FixedFunction>, namespace: &str, table: &Table) -> Self {
        let mut ids = BTreeSet::new();
        for function in functions {
            let id = FunctionId::new(namespace, &function.name);
            table.put(report(id.clone(), function));
            ids.insert(id);
        }
        Self { functions: ids }
    }
}

fn report(id: FunctionId, function: FixedFunction) -> FunctionReport {
    let pod = Pod {
        name: Arc::clone(&id.name),
        address: Some(function.target.address),
        base_path: function.target.base_path,
        state: PodState::Ready,
    };
    FunctionReport {
        id,
        kind: WorkloadKind::Deployment,
        spec: Arc::new(function.spec),
        problems: function.problems.into(),
        replicas_requested: 1,
        pods: vec![pod],
    }
}

impl Cluster for FixedCluster {
    fn scale<'a>(&'a self, scaling: &'a Scaling) -> ClusterFuture<'a, Result<(), ScaleError>> {
        let result = match (self.functions.contains(&scaling.function), scaling.to) {
            (false, _) => Err(ScaleError::Unknown(scaling.function.clone())),
            // That is how many there are.
            (true, 1) => Ok(()),
            (true, _) => Err(ScaleError::Unsupported),
        };
        Box::pin(std::future::ready(result))
    }

    /// Only the listed functions are known, and they are always ready.
    fn dependency_ready(&self, function: &FunctionId, name: &Dependency) -> Option<bool> {
        match name {
            Dependency::Workload(name) => {
                self.functions.contains(&FunctionId::new(&function.namespace, name)).then_some(true)
            }
            Dependency::Process(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixed_functions;
    use crate::config::url_template::UrlTemplate;

    fn cluster() -> (FixedCluster, Arc<Table>) {
        let base = UrlTemplate::parse("http://{function_name}:5000/base").expect("a template");
        let text = r#"{"Functions":[{"Name":"fibonacci","NumberParallelRequest":2},{"Name":"other","Wat":1}]}"#;
        let list = fixed_functions::parse(text, &base, "demo").expect("valid");
        let table = Table::new("demo");
        (FixedCluster::new(list.functions, "demo", &table), table)
    }

    #[test]
    fn every_function_has_one_ready_endpoint() {
        let (_cluster, table) = cluster();
        let view = table.view();
        let seen: Vec<_> = view
            .functions()
            .iter()
            .map(|f| {
                let [endpoint] = &f.endpoints[..] else { panic!("one endpoint") };
                let base = endpoint.base_path.as_deref().unwrap_or_default();
                (
                    f.id.to_string(),
                    endpoint.address.to_string(),
                    base.to_owned(),
                    f.replicas_requested,
                    f.problems.len(),
                )
            })
            .collect();
        let expected = [("demo/fibonacci", "fibonacci:5000", 0), ("demo/other", "other:5000", 1)]
            .map(|(id, address, problems)| (id.to_owned(), address.to_owned(), "/base".to_owned(), 1, problems));
        assert_eq!(seen, expected);
        let function = view.route("fibonacci").expect("routed by name");
        assert_eq!(function.spec.parallel.per_function, Some(2));
        assert!(function.pods[0].is_ready());
    }

    #[tokio::test]
    async fn nothing_is_scaled() {
        let (cluster, _table) = cluster();
        let to =
            |name, to| Scaling { function: FunctionId::new("demo", name), from: 1, to, reason: "a test".to_owned() };
        assert!(matches!(cluster.scale(&to("fibonacci", 0)).await, Err(ScaleError::Unsupported)));
        assert!(matches!(cluster.scale(&to("fibonacci", 2)).await, Err(ScaleError::Unsupported)));
        assert!(cluster.scale(&to("fibonacci", 1)).await.is_ok());
        let unknown = FunctionId::new("demo", "nothing");
        assert!(matches!(cluster.scale(&to("nothing", 1)).await, Err(ScaleError::Unknown(id)) if id == unknown));
    }

    #[test]
    fn only_its_functions_are_dependencies() {
        let (cluster, _table) = cluster();
        let id = FunctionId::new("demo", "fibonacci");
        for (dependency, expected) in [
            (Dependency::Workload("other".into()), Some(true)),
            (Dependency::Workload("mysql".into()), None),
            (Dependency::Process("other".into()), None),
        ] {
            assert_eq!(cluster.dependency_ready(&id, &dependency), expected, "{dependency:?}");
        }
    }
}
