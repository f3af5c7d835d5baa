//! Workloads and pods put together: whose pod is whose, which of them serve, what the table should say. Pure.

pub(super) mod identities;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::Uid;
use super::pod::{PodFacts, Stage};
use super::proof::Proof;
use super::serving::{Readiness, Serving};
use super::workload::Workload;
use crate::config::annotations;
use crate::config::url_template::{Target, UrlError, UrlTemplate, Values};
use crate::model::caller::Caller;
use crate::model::function::FunctionId;
use crate::model::problem::Problem;
use crate::model::spec::FunctionSpec;
use crate::model::visibility::Trust;
use crate::table::FunctionReport;
use crate::table::start::StartPhase;
use crate::table::view::{Pod, PodState};

/// Everything that the watches have shown and the probes have found.
pub(super) struct Index {
    template: UrlTemplate,
    workloads: BTreeMap<Uid, Tracked>,
    by_id: BTreeMap<FunctionId, BTreeSet<Uid>>,
    /// From a ReplicaSet to its Deployment.
    deployments: BTreeMap<Uid, Uid>,
    replica_sets: BTreeMap<Uid, BTreeSet<Uid>>,
    pods: BTreeMap<Uid, TrackedPod>,
    by_controller: BTreeMap<Uid, BTreeSet<Uid>>,
    by_ip: BTreeMap<IpAddr, BTreeSet<Uid>>,
}

struct Tracked {
    workload: Workload,
    /// Only of functions.
    parsed: Option<Parsed>,
}

struct Parsed {
    spec: Arc<FunctionSpec>,
    problems: Vec<Problem>,
}

struct TrackedPod {
    facts: PodFacts,
    proof: Option<Proof>,
    /// The instance of the serving container that Kubernetes called ready: from then on its word counts alone.
    was_ready: Option<i32>,
}

/// What a change may have changed in the table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Affected {
    pub(super) function: Option<FunctionId>,
    /// Something that others may depend on.
    pub(super) dependency: bool,
}

impl Affected {
    fn function(id: Option<FunctionId>) -> Self {
        Self { function: id, dependency: false }
    }
}

/// What must be found out about a pod before requests are sent to it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToProve {
    pub(super) uid: Uid,
    pub(super) instance: i32,
    pub(super) ip: IpAddr,
    pub(super) serving: Serving,
}

impl Index {
    pub(super) fn new(template: UrlTemplate) -> Self {
        Self {
            template,
            workloads: BTreeMap::new(),
            by_id: BTreeMap::new(),
            deployments: BTreeMap::new(),
            replica_sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            by_controller: BTreeMap::new(),
            by_ip: BTreeMap::new(),
        }
    }

    pub(super) fn put_workload(&mut self, workload: Workload) -> Affected {
        let former = self.workloads.remove(&workload.uid);
        let unchanged = former.as_ref().is_some_and(|former| former.workload == workload);
        let (id, uid) = (workload.id.clone(), Uid::clone(&workload.uid));
        let parsed = match former {
            Some(Tracked { parsed, .. }) if unchanged => parsed,
            former => self.parse(&workload, former.and_then(|former| former.parsed)),
        };
        self.by_id.entry(id.clone()).or_default().insert(Uid::clone(&uid));
        self.workloads.insert(uid, Tracked { workload, parsed });
        if unchanged { Affected::default() } else { Affected { function: Some(id), dependency: true } }
    }

    fn parse(&self, workload: &Workload, last: Option<Parsed>) -> Option<Parsed> {
        let function = workload.function.as_ref()?;
        let last = last.map(|parsed| parsed.spec);
        let (spec, mut problems) = annotations::parse_with_last_good(&function.annotations, last.as_deref());
        problems.extend(function.serving.as_ref().and_then(Serving::problem));
        let ports = function.serving.as_ref().map_or(&[][..], |serving| &serving.ports);
        if let Err(error) = self.target(&workload.id, "pod", Ipv4Addr::LOCALHOST.into(), ports) {
            problems.push(Problem::new("SlimFaas__BaseFunctionUrl", format!("its pods cannot be reached: {error}")));
        }
        Some(Parsed { spec: Arc::new(spec), problems })
    }

    pub(super) fn remove_workload(&mut self, uid: &Uid) -> Affected {
        let Some(Tracked { workload, .. }) = self.workloads.remove(uid) else { return Affected::default() };
        remove_from(&mut self.by_id, &workload.id, uid);
        Affected { function: Some(workload.id), dependency: true }
    }

    /// The Deployment that controls a ReplicaSet.
    pub(super) fn put_replica_set(&mut self, uid: Uid, deployment: Uid) -> Affected {
        let affected = Affected::function(self.function_of(&deployment));
        self.replica_sets.entry(Uid::clone(&deployment)).or_default().insert(Uid::clone(&uid));
        if self.deployments.insert(uid, deployment).is_some() { Affected::default() } else { affected }
    }

    pub(super) fn remove_replica_set(&mut self, uid: &Uid) -> Affected {
        let Some(deployment) = self.deployments.remove(uid) else { return Affected::default() };
        remove_from(&mut self.replica_sets, &deployment, uid);
        Affected::function(self.function_of(&deployment))
    }

    pub(super) fn put_pod(&mut self, facts: PodFacts) -> Affected {
        let uid = Uid::clone(&facts.uid);
        let former = self.take_pod(&uid);
        let unchanged = former.as_ref().is_some_and(|former| former.facts == facts);
        let proof = former.as_ref().and_then(|former| former.proof).filter(|proof| proof.instance == facts.instance);
        let was_ready = if facts.ready { Some(facts.instance) } else { former.and_then(|former| former.was_ready) };
        if let Some(controller) = &facts.controller {
            self.by_controller.entry(Uid::clone(&controller.uid)).or_default().insert(Uid::clone(&uid));
        }
        if let Some(ip) = own_address(&facts) {
            self.by_ip.entry(ip).or_default().insert(Uid::clone(&uid));
        }
        let function = self.workload_of(&facts).map(|workload| workload.id.clone());
        self.pods.insert(uid, TrackedPod { facts, proof, was_ready });
        if unchanged { Affected::default() } else { Affected::function(function) }
    }

    pub(super) fn remove_pod(&mut self, uid: &Uid) -> Affected {
        let Some(pod) = self.take_pod(uid) else { return Affected::default() };
        Affected::function(self.workload_of(&pod.facts).map(|workload| workload.id.clone()))
    }

    fn take_pod(&mut self, uid: &Uid) -> Option<TrackedPod> {
        let pod = self.pods.remove(uid)?;
        if let Some(controller) = &pod.facts.controller {
            remove_from(&mut self.by_controller, &controller.uid, uid);
        }
        if let Some(ip) = own_address(&pod.facts) {
            remove_from(&mut self.by_ip, &ip, uid);
        }
        Some(pod)
    }

    /// Takes note of what a probe found, unless the pod has become another instance meanwhile.
    pub(super) fn put_proof(&mut self, uid: &Uid, proof: Proof) -> Affected {
        let Some(pod) = self.pods.get_mut(uid).filter(|pod| pod.facts.instance == proof.instance) else {
            return Affected::default();
        };
        pod.proof = Some(proof);
        let facts = &self.pods[uid].facts;
        Affected::function(self.workload_of(facts).map(|workload| workload.id.clone()))
    }

    /// What the API server has accepted, ahead of the watch.
    pub(super) fn set_requested(&mut self, uid: &Uid, replicas: u32) {
        if let Some(tracked) = self.workloads.get_mut(uid) {
            tracked.workload.replicas_requested = replicas;
        }
    }

    /// The workload that is the function of this name.
    pub(super) fn function_workload(&self, id: &FunctionId) -> Option<&Workload> {
        self.chosen(id).map(|tracked| &tracked.workload)
    }

    fn chosen(&self, id: &FunctionId) -> Option<&Tracked> {
        let all = self.by_id.get(id)?.iter().filter_map(|uid| self.workloads.get(uid));
        all.filter(|tracked| tracked.parsed.is_some())
            .min_by(|one, other| one.workload.precedence().cmp(&other.workload.precedence()))
    }

    fn function_of(&self, workload: &Uid) -> Option<FunctionId> {
        self.workloads.get(workload).map(|tracked| tracked.workload.id.clone())
    }

    fn workload_of(&self, pod: &PodFacts) -> Option<&Workload> {
        let controller = &pod.controller.as_ref()?.uid;
        let owner = self.deployments.get(controller).unwrap_or(controller);
        self.workloads.get(owner).map(|tracked| &tracked.workload)
    }

    fn pods_of<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a TrackedPod> {
        let sets = self.replica_sets.get(&workload.uid).into_iter().flatten();
        let controllers = sets.chain([&workload.uid]);
        let uids = controllers.filter_map(|controller| self.by_controller.get(controller)).flatten();
        uids.filter_map(|uid| self.pods.get(uid)).filter(|pod| pod.facts.stage != Stage::Ended)
    }

    /// What the table should hold of a function; `None`: nothing.
    pub(super) fn report(&self, id: &FunctionId) -> Option<FunctionReport> {
        let Tracked { workload, parsed } = self.chosen(id)?;
        let Parsed { spec, problems } = parsed.as_ref()?;
        let mut problems = problems.clone();
        problems.extend(self.pods_of(workload).find_map(wrong_port));
        let mut pods: Vec<Pod> = self.pods_of(workload).map(|pod| self.shown(id, pod)).collect();
        pods.sort_by(|one, other| one.name.cmp(&other.name));
        Some(FunctionReport {
            id: id.clone(),
            kind: workload.kind,
            spec: Arc::clone(spec),
            problems: problems.into(),
            replicas_requested: workload.replicas_requested,
            pods,
        })
    }

    fn shown(&self, id: &FunctionId, pod: &TrackedPod) -> Pod {
        let facts = &pod.facts;
        let mut ports = facts.serving.ports.clone();
        if let Some(proof) = pod.proof {
            ports[0] = proof.port;
        }
        let target = facts.ip.and_then(|ip| self.target(id, &facts.name, ip, &ports).ok());
        let (address, base_path) = target.map_or((None, None), |target| (Some(target.address), target.base_path));
        Pod { name: Arc::clone(&facts.name), address, base_path, state: pod.state() }
    }

    fn target(&self, id: &FunctionId, pod: &str, ip: IpAddr, ports: &[u16]) -> Result<Target, UrlError> {
        self.template.target(&Values {
            function_name: &id.name,
            namespace: &id.namespace,
            // A Service of the function's own name, as the original's documents have it.
            service_name: Some(&id.name),
            pod_name: Some(pod),
            pod_ip: Some(ip),
            pod_ports: ports,
        })
    }

    /// How far the furthest pod of a function is.
    pub(super) fn phase_reached(&self, id: &FunctionId) -> Option<StartPhase> {
        let workload = self.function_workload(id)?;
        self.pods_of(workload).filter_map(TrackedPod::phase).max()
    }

    /// The pods of functions that requests cannot be sent to yet, and about which a probe can find out more.
    pub(super) fn to_prove(&self, id: &FunctionId) -> Vec<ToProve> {
        let Some(Tracked { workload, .. }) = self.chosen(id) else { return Vec::new() };
        let wanted = |pod: &TrackedPod| {
            let is_settled = pod.proof.is_some_and(|proof| proof.answers || pod.facts.ready);
            let ip = pod.facts.ip.filter(|_| pod.facts.can_serve() && !is_settled)?;
            Some(ToProve {
                uid: Uid::clone(&pod.facts.uid),
                instance: pod.facts.instance,
                ip,
                serving: pod.facts.serving.clone(),
            })
        };
        self.pods_of(workload).filter_map(wanted).collect()
    }

    /// Whether a workload that is not a function serves; `None`: there is none of this name.
    pub(super) fn dependency_ready(&self, id: &FunctionId) -> Option<bool> {
        let uids = self.by_id.get(id)?;
        Some(uids.iter().filter_map(|uid| self.workloads.get(uid)).any(|tracked| tracked.workload.replicas_ready > 0))
    }

    /// Who has this address now. An address of two pods proves neither.
    pub(super) fn caller(&self, ip: IpAddr, gateway: Option<&Uid>) -> Option<Caller> {
        let uids = self.by_ip.get(&ip)?;
        let uid = uids.first().filter(|_| uids.len() == 1)?;
        let facts = &self.pods.get(uid)?.facts;
        let Some(controller) = &facts.controller else {
            let workload = FunctionId { namespace: Arc::clone(&facts.namespace), name: Arc::clone(&facts.name) };
            return Some(Caller::Pod { workload, trust: Trust::Trusted });
        };
        if gateway == Some(&controller.uid) {
            return Some(Caller::Gateway);
        }
        let owner = self.deployments.get(&controller.uid).unwrap_or(&controller.uid);
        if let Some(Tracked { workload, parsed }) = self.workloads.get(owner) {
            let trust = parsed.as_ref().map_or(Trust::Trusted, |parsed| parsed.spec.trust);
            return Some(Caller::Pod { workload: workload.id.clone(), trust });
        }
        let name = Arc::clone(&controller.name);
        let owner = FunctionId { namespace: Arc::clone(&facts.namespace), name };
        Some(match &*controller.kind {
            "Job" => Caller::Job { job: owner },
            _ => Caller::Pod { workload: owner, trust: Trust::Trusted },
        })
    }

    /// Everything that is wrong with a workload in its owner's hands: what its Events should say.
    pub(super) fn problems(&self, id: &FunctionId) -> Vec<(&Workload, Vec<Problem>)> {
        let uids = self.by_id.get(id).into_iter().flatten();
        let functions = uids.filter_map(|uid| self.workloads.get(uid)).filter(|tracked| tracked.parsed.is_some());
        let Some(report) = self.report(id) else { return Vec::new() };
        let chosen = self.function_workload(id).map(|workload| &workload.uid);
        let problems = |tracked: &Tracked| {
            if Some(&tracked.workload.uid) == chosen {
                return report.problems.to_vec();
            }
            let message = format!(
                "the {} of this name is older and is the function {}; this one is not used: rename it",
                report.kind.as_str(),
                id.name
            );
            vec![Problem::new("metadata.name", message)]
        };
        functions.map(|tracked| (&tracked.workload, problems(tracked))).collect()
    }

    /// A pod of a gateway with this name: who its peers are follows from it.
    pub(super) fn pod_named(&self, namespace: &str, name: &str) -> Option<&PodFacts> {
        self.pods.values().map(|pod| &pod.facts).find(|pod| &*pod.namespace == namespace && &*pod.name == name)
    }

    pub(super) fn controlled_by(&self, controller: &Uid) -> impl Iterator<Item = &PodFacts> {
        let uids = self.by_controller.get(controller).into_iter().flatten();
        uids.filter_map(|uid| self.pods.get(uid)).map(|pod| &pod.facts)
    }

    /// Every name that has a workload.
    pub(super) fn ids(&self) -> Vec<FunctionId> {
        self.by_id.keys().cloned().collect()
    }
}

impl TrackedPod {
    /// Kubernetes' verdict counts once there is one. Before, and only for the first time of each instance, our own
    /// probe may be quicker; and in any case somebody must listen.
    fn is_ready(&self) -> bool {
        let Some(proof) = self.proof.filter(|_| self.facts.can_serve()) else { return false };
        let is_first = self.was_ready != Some(self.facts.instance);
        let may_ask = self.facts.serving.readiness != Readiness::Opaque;
        self.facts.ready || (proof.answers && is_first && may_ask && self.facts.others_ready)
    }

    fn state(&self) -> PodState {
        match &self.facts.stage {
            _ if self.is_ready() => PodState::Ready,
            Stage::Terminating | Stage::Ended => PodState::Terminating,
            Stage::Pending(reason) => PodState::Pending(reason.clone()),
            Stage::Failing(reason) => PodState::Failed(reason.clone()),
            Stage::Scheduled | Stage::Running => PodState::Starting,
        }
    }

    fn phase(&self) -> Option<StartPhase> {
        match self.facts.stage {
            Stage::Terminating | Stage::Ended | Stage::Pending(_) => None,
            _ if self.is_ready() => Some(StartPhase::Listening),
            Stage::Running => Some(StartPhase::Started),
            Stage::Scheduled | Stage::Failing(_) => Some(StartPhase::Scheduled),
        }
    }
}

/// The address by which a pod is known as a caller.
fn own_address(facts: &PodFacts) -> Option<IpAddr> {
    facts.ip.filter(|_| !facts.host_network && facts.stage != Stage::Ended)
}

fn wrong_port(pod: &TrackedPod) -> Option<Problem> {
    let declared = pod.facts.serving.ports[0];
    let proof = pod.proof.filter(|proof| proof.port != declared)?;
    let message =
        format!("nothing listens on the declared port {declared}; used instead: {}, the port of its probe", proof.port);
    Some(Problem::new("containerPort", message))
}

fn remove_from<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
