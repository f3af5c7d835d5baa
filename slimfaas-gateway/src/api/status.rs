//! `/status-functions` and `/status-function/{name}` (reference §1.11).

use http::Response;
use serde::Serialize;

use super::json;
use crate::cluster::Cluster;
use crate::model::function::FunctionId;
use crate::model::problem::Problem;
use crate::proxy::body::Body;
use crate::proxy::rejection::Rejection;
use crate::scaler::dependency_problems;
use crate::table::Table;
use crate::table::view::Function;

/// The original's five fields, in its order and casing; what we add comes after and only when there is something.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status<'a> {
    number_ready: u32,
    number_requested: u32,
    pod_type: &'static str,
    visibility: &'static str,
    name: &'a str,
    /// Annotations that could not be used as they are, and dependencies that cannot be met.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<&'a Problem>,
}

impl<'a> Status<'a> {
    /// `unmet`: what is wrong with the dependencies of any function.
    fn of(function: &'a Function, unmet: &'a [(FunctionId, Problem)]) -> Self {
        let unmet = unmet.iter().filter(|(id, _)| *id == function.id).map(|(_, problem)| problem);
        Self {
            number_ready: function.replicas_ready(),
            number_requested: function.replicas_requested,
            pod_type: function.kind.as_str(),
            visibility: function.spec.default_visibility.as_str(),
            name: &function.id.name,
            problems: function.problems.iter().chain(unmet).collect(),
        }
    }
}

pub(super) fn all(table: &Table, cluster: &dyn Cluster) -> Response<Body> {
    let view = table.view();
    let unmet = dependency_problems(view.functions(), cluster);
    json(&view.functions().iter().map(|function| Status::of(function, &unmet)).collect::<Vec<_>>())
}

pub(super) fn one(table: &Table, cluster: &dyn Cluster, name: &str) -> Result<Response<Body>, Rejection> {
    let view = table.view();
    let function = view.route(name).ok_or(Rejection::NotFound)?;
    let unmet = dependency_problems(view.functions(), cluster);
    Ok(json(&Status::of(function, &unmet)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::function::WorkloadKind;
    use crate::table::FunctionReport;

    fn report(name: &str, problems: Vec<Problem>) -> FunctionReport {
        FunctionReport {
            id: FunctionId::new("default", name),
            kind: WorkloadKind::Deployment,
            spec: Arc::default(),
            problems: problems.into(),
            replicas_requested: 2,
            pods: Vec::new(),
        }
    }

    #[test]
    fn the_fields_are_those_of_the_original_in_its_casing() {
        let table = Table::new("default");
        table.put(report("fibonacci", Vec::new()));
        let view = table.view();
        let text = serde_json::to_string(&Status::of(view.route("fibonacci").expect("put"), &[])).expect("serializes");
        assert_eq!(
            text,
            r#"{"NumberReady":0,"NumberRequested":2,"PodType":"Deployment","Visibility":"Public","Name":"fibonacci"}"#
        );
    }

    #[test]
    fn problems_show() {
        let table = Table::new("default");
        table.put(report("f", vec![Problem::new("SlimFaas/ReplicasMin", "not a number")]));
        let view = table.view();
        let unmet = [
            (FunctionId::new("default", "f"), Problem::new("SlimFaas/DependsOn", "no such workload")),
            (FunctionId::new("default", "g"), Problem::new("SlimFaas/DependsOn", "of another function")),
        ];
        let status = serde_json::to_value(Status::of(view.route("f").expect("put"), &unmet)).expect("serializes");
        let expected = serde_json::json!([
            {"Key": "SlimFaas/ReplicasMin", "Message": "not a number"},
            {"Key": "SlimFaas/DependsOn", "Message": "no such workload"},
        ]);
        assert_eq!(status["Problems"], expected);
    }
}
