//! Whether a caller may call a path of a function. Pure; one decision for calls, callbacks, events and jobs.

use crate::model::caller::Caller;
use crate::model::function::FunctionId;
use crate::model::path::{Case, PathPrefix, readings};
use crate::model::spec::FunctionSpec;
use crate::model::visibility::{PathRule, Trust, Visibility};

/// Proof that the visibility stage let the request pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit(());

/// The caller may not know of it: whoever answers says that it does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied;

/// The visibility of `path` (raw, without query). In doubt it is the most restrictive one.
pub fn of_path(spec: &FunctionSpec, path: &str) -> Visibility {
    if spec.path_rules.is_empty() {
        return spec.default_visibility;
    }
    let Ok(readings) = readings(path) else { return Visibility::Private };
    let private = readings.iter().any(|reading| {
        [Case::Exact, Case::Folded].iter().any(|case| {
            let covers = |prefix: &PathPrefix| reading.starts_with(prefix, *case);
            first_match(&spec.path_rules, covers).unwrap_or(spec.default_visibility) == Visibility::Private
        })
    });
    if private { Visibility::Private } else { Visibility::Public }
}

fn first_match(rules: &[PathRule], covers: impl Fn(&PathPrefix) -> bool) -> Option<Visibility> {
    rules.iter().find(|rule| covers(&rule.prefix)).map(|rule| rule.visibility)
}

/// Whether `caller` counts as internal to `function`.
pub fn is_internal(caller: &Caller, function: &FunctionId, spec: &FunctionSpec) -> bool {
    match caller {
        Caller::Outside => false,
        Caller::Gateway => true,
        Caller::Job { job } => job.namespace == function.namespace,
        Caller::Pod { workload, trust } => {
            workload.namespace == function.namespace
                && *trust == Trust::Trusted
                && !spec.excluded_callers.contains(&*workload.name)
        }
    }
}

/// The whole decision for something of this visibility.
pub fn decide(
    visibility: Visibility,
    caller: &Caller,
    function: &FunctionId,
    spec: &FunctionSpec,
) -> Result<Permit, Denied> {
    if visibility == Visibility::Public || is_internal(caller, function, spec) { Ok(Permit(())) } else { Err(Denied) }
}
