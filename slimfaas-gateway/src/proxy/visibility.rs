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
    of_path_or(spec, path, spec.default_visibility)
}

/// The visibility of an event of this subscription that goes to `path`. What owners say of an event stands before what
/// they say of the function; but a path that they have closed stays so, since publishers choose it.
pub fn of_event(spec: &FunctionSpec, subscription: Visibility, path: &str) -> Visibility {
    match subscription {
        Visibility::Private => Visibility::Private,
        Visibility::Public => of_path_or(spec, path, Visibility::Public),
    }
}

fn of_path_or(spec: &FunctionSpec, path: &str, default: Visibility) -> Visibility {
    if spec.path_rules.is_empty() {
        return default;
    }
    let Ok(readings) = readings(path) else { return Visibility::Private };
    let private = readings.iter().any(|reading| {
        [Case::Exact, Case::Folded].iter().any(|case| {
            let covers = |prefix: &PathPrefix| reading.starts_with(prefix, *case);
            first_match(&spec.path_rules, covers).unwrap_or(default) == Visibility::Private
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

/// The same for a job of this namespace, whose owner can exclude nobody.
pub fn is_inside(caller: &Caller, namespace: &str) -> bool {
    match caller {
        Caller::Outside => false,
        Caller::Gateway => true,
        Caller::Job { job } => &*job.namespace == namespace,
        Caller::Pod { workload, trust } => &*workload.namespace == namespace && *trust == Trust::Trusted,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(default: Visibility, rules: &[(Visibility, &str)]) -> FunctionSpec {
        let rule = |(visibility, prefix): &(Visibility, &str)| PathRule {
            prefix: PathPrefix::new(prefix),
            visibility: *visibility,
        };
        let path_rules = rules.iter().map(rule).collect();
        FunctionSpec { default_visibility: default, path_rules, ..FunctionSpec::default() }
    }

    #[track_caller]
    fn check(spec: &FunctionSpec, path: &str, expected: Visibility) {
        assert_eq!(of_path(spec, path), expected, "{path}");
    }

    #[test]
    fn the_first_matching_rule_decides() {
        use Visibility::{Private, Public};
        let admin = spec(Public, &[(Public, "/admin/open"), (Private, "/admin")]);
        for (path, expected) in [
            ("/", Public),
            ("/administrator", Public),
            ("/admin", Private),
            ("/admin/", Private),
            ("/admin/open", Public),
            ("/admin/open/door", Public),
            ("/admin/opened", Private),
            ("/admin/open/../secret", Private),
            ("/admin/open/%2e%2e/secret", Private),
            ("/admin/open%2f..%2fsecret", Private),
        ] {
            check(&admin, path, expected);
        }
        let closed = spec(Private, &[(Public, "/health")]);
        for (path, expected) in
            [("/health", Public), ("/health/live", Public), ("/", Private), ("/health/../x", Private)]
        {
            check(&closed, path, expected);
        }
        // On a server that distinguishes case, this is another path than the public one.
        check(&closed, "/HEALTH", Private);
        check(&admin, "/ADMIN", Private);
        check(&admin, "/%zz", Private);
        check(&spec(Public, &[]), "/%zz", Public);
    }

    #[test]
    fn an_events_subscription_decides_but_for_closed_paths() {
        use Visibility::{Private, Public};
        let closed = spec(Private, &[(Private, "/admin"), (Public, "/open")]);
        for (subscription, path, expected) in [
            (Public, "/", Public),
            (Public, "/reload", Public),
            (Public, "/admin", Private),
            (Public, "/x/..%2fADMIN", Private),
            (Public, "/%zz", Private),
            (Private, "/", Private),
            (Private, "/open", Private),
        ] {
            assert_eq!(of_event(&closed, subscription, path), expected, "{subscription:?} {path}");
        }
        assert_eq!(of_event(&spec(Private, &[]), Public, "/%zz"), Public);
    }

    #[test]
    fn inside_is_the_callees_namespace_without_those_it_excludes() {
        let function = FunctionId::new("shop", "orders");
        let mut spec = FunctionSpec::default();
        spec.excluded_callers.insert("tracker".to_owned());
        let pod =
            |namespace: &str, name: &str, trust| Caller::Pod { workload: FunctionId::new(namespace, name), trust };
        for (caller, expected) in [
            (Caller::Outside, false),
            (Caller::Gateway, true),
            (pod("shop", "web", Trust::Trusted), true),
            (pod("shop", "web", Trust::Untrusted), false),
            (pod("shop", "tracker", Trust::Trusted), false),
            (pod("bank", "web", Trust::Trusted), false),
            (Caller::Job { job: FunctionId::new("shop", "nightly") }, true),
            (Caller::Job { job: FunctionId::new("bank", "nightly") }, false),
        ] {
            assert_eq!(is_internal(&caller, &function, &spec), expected, "{caller:?}");
            assert_eq!(decide(Visibility::Private, &caller, &function, &spec).is_ok(), expected);
            assert!(decide(Visibility::Public, &caller, &function, &spec).is_ok());
        }
    }

    /// Ways to write one segment that some server takes for the segment itself.
    fn disguised(segment: &'static str) -> impl Strategy<Value = String> {
        let letters = segment.chars().map(|letter| {
            let hex = format!("%{:02x}", u32::from(letter));
            let upper = letter.to_ascii_uppercase().to_string();
            let twice = format!("%25{:02X}", u32::from(letter));
            proptest::sample::select(vec![letter.to_string(), hex, upper, twice])
        });
        let before =
            proptest::sample::select(vec!["/", "//", "/./", "/x/../", "\\", "%2f", "/%2e/", "/y/%2E%2e/", "/;a=b/../"]);
        let after = proptest::sample::select(vec!["", ";v=1", "/.", "/", "%2f", "/a/.."]);
        (before, letters.collect::<Vec<_>>(), after)
            .prop_map(|(before, letters, after)| format!("{before}{}{after}", letters.concat()))
    }

    proptest! {
        #[test]
        fn no_disguise_opens_a_private_path(path in disguised("admin"), tail in "[a-z/.]{0,12}") {
            let spec = spec(Visibility::Public, &[(Visibility::Private, "/admin")]);
            // A tail may climb out again (`/..`) or make another name (`adminx`): only those that stay below count.
            let tail = if tail.contains("..") || !tail.starts_with('/') { String::new() } else { tail };
            prop_assert_eq!(of_path(&spec, &format!("{path}{tail}")), Visibility::Private, "{}{}", path, tail);
        }

        #[test]
        fn any_path_has_an_answer_and_a_private_function_opens_only_by_rule(path in "\\PC{0,40}") {
            let path = format!("/{path}");
            prop_assert_eq!(of_path(&spec(Visibility::Private, &[]), &path), Visibility::Private);
            let opened = spec(Visibility::Private, &[(Visibility::Public, "/open")]);
            if of_path(&opened, &path) == Visibility::Public {
                prop_assert!(path.starts_with("/open") || path.starts_with("//"), "{}", path);
            }
        }

        #[test]
        fn a_plain_path_below_a_public_prefix_is_public(tail in "(/[a-z0-9_-]{1,8}){0,4}") {
            let opened = spec(Visibility::Private, &[(Visibility::Public, "/open")]);
            prop_assert_eq!(of_path(&opened, &format!("/open{tail}")), Visibility::Public);
        }
    }
}
