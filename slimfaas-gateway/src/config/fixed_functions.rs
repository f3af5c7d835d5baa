//! `MOCK_KUBERNETES_FUNCTIONS`: a fixed list of functions that run somewhere already.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use crate::config::annotations;
use crate::config::suggest;
use crate::config::url_template::{Target, UrlError, UrlTemplate, Values};
use crate::model::problem::Problem;
use crate::model::spec::FunctionSpec;

/// The variable, as problems name it.
pub const KEY: &str = "MOCK_KUBERNETES_FUNCTIONS";

/// The list, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct FixedFunctions {
    pub functions: Vec<FixedFunction>,
    /// What is ignored at the top of the document.
    pub warnings: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FixedFunction {
    pub name: String,
    pub spec: FunctionSpec,
    /// What is wrong with its annotations and which of its fields are ignored.
    pub problems: Vec<Problem>,
    pub target: Target,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    functions: Vec<Entry>,
    /// Names of gateway nodes; nothing here needs them.
    #[serde(rename = "Slimfaas", default)]
    _slimfaas: serde::de::IgnoredAny,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

const DOCUMENT_FIELDS: [&str; 2] = ["Functions", "Slimfaas"];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    name: String,
    /// As the annotation `SlimFaas/NumberParallelRequest`.
    number_parallel_request: Option<Value>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    /// Instead of the base URL of all functions; a template too.
    url: Option<String>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

const ENTRY_FIELDS: [&str; 4] = ["Name", "NumberParallelRequest", "Annotations", "Url"];

/// Without a cluster that scales these have no effect.
const SCALING: [&str; 4] = ["SlimFaas/ReplicasMin", "SlimFaas/ReplicasAtStart", "SlimFaas/Schedule", "SlimFaas/Scale"];

/// The list in `text`, each function at `base_url` unless it has its own. Errors are all that make the list
/// unusable: no such JSON, names or addresses that cannot be.
pub fn parse(text: &str, base_url: &UrlTemplate, namespace: &str) -> Result<FixedFunctions, Vec<Problem>> {
    let document: Document = serde_json::from_str(text)
        .map_err(|error| vec![Problem::new(KEY, format!("it must look like {EXAMPLE}: {error}"))])?;
    let mut functions = Vec::with_capacity(document.functions.len());
    let mut errors = Vec::new();
    let mut names = BTreeSet::new();
    for entry in document.functions {
        if !names.insert(entry.name.clone()) {
            errors.push(Problem::new(KEY, format!("there is more than one function {:?}", entry.name)));
        }
        match entry.check(base_url, namespace) {
            Ok(function) => functions.push(function),
            Err(message) => errors.push(Problem::new(KEY, message)),
        }
    }
    let warnings = unknown_fields(KEY, &document.unknown, &DOCUMENT_FIELDS);
    if errors.is_empty() { Ok(FixedFunctions { functions, warnings }) } else { Err(errors) }
}

const EXAMPLE: &str = r#"{"Functions":[{"Name":"fibonacci","NumberParallelRequest":1}]}"#;

impl Entry {
    fn check(self, base_url: &UrlTemplate, namespace: &str) -> Result<FixedFunction, String> {
        let Self { name, number_parallel_request, mut annotations, url, unknown } = self;
        if !is_name(&name) {
            return Err(format!("{name:?} is not a name: use letters, digits, '-', '.' and '_', at most 253 of them"));
        }
        let template = match &url {
            None => Ok(base_url.clone()),
            Some(url) => UrlTemplate::parse(url),
        };
        let values = Values {
            function_name: &name,
            namespace,
            service_name: None,
            pod_name: None,
            pod_ip: None,
            pod_ports: &[],
        };
        let target = template.and_then(|template| template.target(&values)).map_err(|error| match (error, url) {
            (error @ UrlError::NoValue(_), None) => format!(
                "the address of {name:?}: {error}, since a fixed list has no pods: \
                 set BASE_FUNCTION_URL to something like http://{{function_name}}:5000, or give the function a Url"
            ),
            (error, _) => format!("the address of {name:?}: {error}"),
        })?;
        if let Some(number) = number_parallel_request {
            annotations.entry("SlimFaas/NumberParallelRequest".to_owned()).or_insert_with(|| number.to_string());
        }
        let (mut spec, mut problems) = annotations::parse(&annotations);
        problems.extend(unknown_fields(&name, &unknown, &ENTRY_FIELDS));
        for key in SCALING.into_iter().filter(|key| annotations.contains_key(*key)) {
            problems.push(Problem::new(key, "it is ignored, since a fixed list of functions cannot be scaled"));
        }
        // What is there is what is asked for, so that nobody tries to scale it.
        (spec.replicas_min, spec.replicas_at_start, spec.schedule, spec.scale) = (1, 1, None, None);
        Ok(FixedFunction { name, spec, problems, target })
    }
}

/// Names that fit one segment of a route.
fn is_name(name: &str) -> bool {
    matches!(name.len(), 1..=253)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

fn unknown_fields(key: &str, unknown: &BTreeMap<String, Value>, known: &[&str]) -> Vec<Problem> {
    let message = |field: &String| {
        let hint = suggest::did_you_mean(field, known.iter().copied());
        Problem::new(key, format!("there is no field {field:?}, it is ignored{hint}"))
    };
    unknown.keys().map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::ParallelLimits;

    const BASE: &str = "http://{function_name}.{namespace}:5000/base/";

    fn list(text: &str, base: &str) -> Result<FixedFunctions, Vec<String>> {
        let base = UrlTemplate::parse(base).expect("a template");
        parse(text, &base, "demo").map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_reference_example() {
        let text =
            r#"{"Functions":[{"Name":"fibonacci","NumberParallelRequest":1}],"Slimfaas":[{"Name":"slimfaas-1"}]}"#;
        let list = list(text, BASE).expect("valid");
        assert_eq!(list.warnings, []);
        let [function] = &list.functions[..] else { panic!("one function") };
        assert_eq!(function.name, "fibonacci");
        assert_eq!(function.problems, []);
        assert_eq!(function.target.address.to_string(), "fibonacci.demo:5000");
        assert_eq!(function.target.base_path.as_deref(), Some("/base"));
        let parallel = ParallelLimits { per_function: Some(1), per_pod: None };
        assert_eq!(function.spec, FunctionSpec { replicas_min: 1, parallel, ..FunctionSpec::default() });
    }

    #[test]
    fn own_urls_and_annotations() {
        let text = r#"{"Functions":[
            {"Name":"a","Url":"http://127.0.0.1:81","Annotations":{"SlimFaas/DefaultVisibility":"Private",
                "SlimFaas/Scale":"{}","SlimFaas/ReplicasMin":"x"},"NumberParalelRequest":1},
            {"Name":"b","NumberParallelRequest":"1"}], "functions": []}"#;
        let list = list(text, BASE).expect("valid");
        let shown = |problems: &[Problem]| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            shown(&list.warnings),
            [r#"MOCK_KUBERNETES_FUNCTIONS: there is no field "functions", it is ignored; did you mean Functions?"#]
        );
        let [a, b] = &list.functions[..] else { panic!("two functions") };
        assert_eq!(a.target.address.to_string(), "127.0.0.1:81");
        assert_eq!(a.target.base_path, None);
        assert_eq!(a.spec.default_visibility.as_str(), "Private");
        assert_eq!((a.spec.replicas_min, &a.spec.scale), (1, &None));
        assert_eq!(
            shown(&a.problems),
            [
                "SlimFaas/ReplicasMin: found \"x\"; allowed: a whole number from 0 to 10000; used instead: 0",
                "a: there is no field \"NumberParalelRequest\", it is ignored; did you mean NumberParallelRequest?",
                "SlimFaas/ReplicasMin: it is ignored, since a fixed list of functions cannot be scaled",
                "SlimFaas/Scale: it is ignored, since a fixed list of functions cannot be scaled",
            ]
        );
        assert_eq!(b.spec.parallel, ParallelLimits::default());
        assert_eq!(b.problems.len(), 1);
    }

    #[test]
    fn every_error_is_said_at_once() {
        let text = r#"{"Functions":[{"Name":"a/b"},{"Name":"s","Url":"https://x"},{"Name":"d"},{"Name":"d"}]}"#;
        assert_eq!(
            list(text, BASE),
            Err(vec![
                "MOCK_KUBERNETES_FUNCTIONS: \"a/b\" is not a name: use letters, digits, '-', '.' and '_', at most 253 \
                 of them"
                    .to_owned(),
                "MOCK_KUBERNETES_FUNCTIONS: the address of \"s\": https to functions is not supported: use http"
                    .to_owned(),
                "MOCK_KUBERNETES_FUNCTIONS: there is more than one function \"d\"".to_owned(),
            ])
        );
        assert_eq!(
            list(r#"{"Functions":[{"Name":"a"}]}"#, "http://{pod_ip}:{pod_port}"),
            Err(vec![
                "MOCK_KUBERNETES_FUNCTIONS: the address of \"a\": there is nothing to put in for {pod_ip} here, since \
                 a fixed list has no pods: set BASE_FUNCTION_URL to something like http://{function_name}:5000, or \
                 give the function a Url"
                    .to_owned()
            ])
        );
        for text in ["", "[]", "{}", r#"{"Functions":[{}]}"#, r#"{"Functions":[{"Name":1}]}"#] {
            let errors = list(text, BASE).expect_err("malformed");
            assert_eq!(errors.len(), 1, "{text}");
            assert!(
                errors[0].starts_with("MOCK_KUBERNETES_FUNCTIONS: it must look like {\"Functions\":[{"),
                "{errors:?}"
            );
        }
    }
}
