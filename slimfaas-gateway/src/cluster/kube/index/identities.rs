//! The workloads whose pods the kernel is to know, and the ports of theirs that it is to guard. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use slimfaas_ebpf::contract::{GuardFlags, IdentityFlags};

use super::{Index, Tracked};
use crate::cluster::kube::Uid;
use crate::cluster::kube::pod::PodFacts;
use crate::identity::table::Workload;
use crate::model::caller::Caller;
use crate::model::function::FunctionId;
use crate::model::spec::FunctionSpec;
use crate::model::visibility::{DirectAccess, PathRule, Trust, Visibility};

/// Kind of a pod without a controller: it is its own workload.
pub(in crate::cluster::kube) const BARE_POD: &str = "Pod";

/// What of the gateway's own installation counts for identities.
pub(in crate::cluster::kube) struct Own<'a> {
    /// The workload that runs the gateway, once its pod has been seen.
    pub(in crate::cluster::kube) workload: Option<&'a Uid>,
    pub(in crate::cluster::kube) namespace: &'a str,
    pub(in crate::cluster::kube) peer_port: u16,
    /// The DaemonSet of the agents, in the gateway's namespace.
    pub(in crate::cluster::kube) agent: &'a str,
}

impl Index {
    /// Every workload that may have pods, in a stable order.
    pub(in crate::cluster::kube) fn identified(&self, own: &Own<'_>) -> Vec<Workload> {
        let mut found: BTreeMap<(FunctionId, Arc<str>), Workload> = BTreeMap::new();
        let named = self.workloads.values().map(|tracked| self.of_workload(tracked, own));
        let others = self.pods.values().filter_map(|pod| self.of_other_pod(&pod.facts, own));
        for workload in named.chain(others) {
            found.entry((workload.id.clone(), Arc::clone(&workload.kind))).or_insert(workload);
        }
        found.into_values().collect()
    }

    fn of_workload(&self, Tracked { workload, parsed }: &Tracked, own: &Own<'_>) -> Workload {
        // Of a Deployment the pods' controller is a ReplicaSet.
        let gateway = own.workload.map(|controller| self.deployments.get(controller).unwrap_or(controller));
        let is_gateway = gateway == Some(&workload.uid);
        let spec = parsed.as_ref().map(|parsed| &parsed.spec);
        let trust = spec.map_or(Trust::Trusted, |spec| spec.trust);
        let mut guarded = BTreeMap::new();
        if is_gateway {
            guarded.insert(own.peer_port, GuardFlags::PEER_PORT);
        } else if let Some(flags) = spec.and_then(|spec| guard(spec)) {
            let serving = workload.function.as_ref().and_then(|function| function.serving.as_ref());
            // Also the probe's, which pods serve on where nothing listens on the declared one.
            let ports = serving.into_iter().flat_map(|serving| serving.ports.iter().copied().chain(serving.undeclared));
            guarded.extend(ports.map(|port| (port, flags)));
        }
        Workload {
            id: workload.id.clone(),
            kind: workload.kind.as_str().into(),
            caller: match is_gateway {
                true => Caller::Gateway,
                false => Caller::Pod { workload: workload.id.clone(), trust },
            },
            flags: match (is_gateway, trust) {
                (true, _) => IdentityFlags::GATEWAY,
                (false, Trust::Untrusted) => IdentityFlags::UNTRUSTED,
                (false, Trust::Trusted) => IdentityFlags(0),
            },
            guarded,
            excludes: spec.map_or_else(BTreeSet::new, |spec| spec.excluded_callers.clone()),
        }
    }

    /// Of a pod that no Deployment or StatefulSet that is known has made.
    fn of_other_pod(&self, pod: &PodFacts, own: &Own<'_>) -> Option<Workload> {
        if self.workload_of(pod).is_some() {
            return None;
        }
        let (kind, name) = match &pod.controller {
            // Its Deployment is on its way here, or has gone.
            Some(controller) if &*controller.kind == "ReplicaSet" => return None,
            Some(controller) => (Arc::clone(&controller.kind), Arc::clone(&controller.name)),
            None => (BARE_POD.into(), Arc::clone(&pod.name)),
        };
        let id = FunctionId { namespace: Arc::clone(&pod.namespace), name };
        let is_agent = &*kind == "DaemonSet" && *id.namespace == *own.namespace && *id.name == *own.agent;
        let is_gateway = pod.controller.as_ref().is_some_and(|controller| own.workload == Some(&controller.uid));
        Some(Workload {
            caller: match &*kind {
                _ if is_gateway => Caller::Gateway,
                "Job" => Caller::Job { job: id.clone() },
                _ => Caller::Pod { workload: id.clone(), trust: Trust::Trusted },
            },
            flags: match (is_agent, is_gateway) {
                (true, _) => IdentityFlags::AGENT,
                (_, true) => IdentityFlags::GATEWAY,
                _ => IdentityFlags(0),
            },
            id,
            kind,
            guarded: BTreeMap::new(),
            excludes: BTreeSet::new(),
        })
    }
}

/// How a function's ports are guarded: where nobody outside may call any path of it, nobody outside may go round the
/// gateway either.
fn guard(spec: &FunctionSpec) -> Option<GuardFlags> {
    let is_public = |rule: &PathRule| rule.visibility == Visibility::Public;
    match spec.direct_access {
        DirectAccess::Open => None,
        DirectAccess::Guarded => Some(GuardFlags::GATEWAYS_ONLY),
        DirectAccess::ByVisibility => {
            let is_private = spec.default_visibility == Visibility::Private && !spec.path_rules.iter().any(is_public);
            is_private.then_some(GuardFlags(0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::PathPrefix;

    #[test]
    fn private_functions_are_guarded_unless_somebody_says_otherwise() {
        let check = |visibility, rules: &[Visibility], access, expected: Option<GuardFlags>| {
            let rule = |visibility: &Visibility| PathRule { prefix: PathPrefix::new("/a"), visibility: *visibility };
            let spec = FunctionSpec {
                default_visibility: visibility,
                path_rules: rules.iter().map(rule).collect(),
                direct_access: access,
                ..FunctionSpec::default()
            };
            assert_eq!(guard(&spec), expected, "{visibility:?} {rules:?} {access:?}");
        };
        use DirectAccess::{ByVisibility, Guarded, Open};
        use Visibility::{Private, Public};
        check(Private, &[], ByVisibility, Some(GuardFlags(0)));
        check(Private, &[Private], ByVisibility, Some(GuardFlags(0)));
        check(Private, &[Public], ByVisibility, None);
        check(Public, &[Private], ByVisibility, None);
        check(Private, &[], Open, None);
        check(Private, &[], Guarded, Some(GuardFlags::GATEWAYS_ONLY));
        check(Public, &[], Guarded, Some(GuardFlags::GATEWAYS_ONLY));
    }
}
