//! The one task that applies changes: watches and probes in, table, dependencies and peers out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::index::identities::Own;
use super::index::{Affected, ToProve};
use super::lease::{self, Candidate};
use super::pod::Stage;
use super::proof::{self, Proof};
use super::watches::{self, Change, Kind};
use super::{KubeCluster, Uid};
use crate::clock;
use crate::drain;
use crate::identity::table::Table as Identities;
use crate::model::function::FunctionId;
use crate::model::peer::{NOWHERE, Peer};
use crate::model::problem::Problem;
use crate::readiness::Blocker;

/// Changes that are applied together: a first list is a few views of the table instead of one for each object.
const BATCH: usize = 512;

/// The Lease's name where the gateway is not run by a workload.
const LEASE: &str = "slimfaas";

/// The DaemonSet of the node agents, in the gateway's namespace.
const AGENT: &str = "slimfaas-agent";

/// State of the running worker.
struct Worker {
    cluster: Arc<KubeCluster>,
    /// Lists that are not complete yet: until then a function would be shown without its pods.
    awaited: BTreeSet<(usize, Kind)>,
    /// Taken when everything has been listed.
    blocker: Option<Blocker>,
    /// Changed while lists were awaited.
    unpublished: BTreeSet<FunctionId>,
    tasks: JoinSet<()>,
    proofs: mpsc::UnboundedSender<(Uid, Proof)>,
    proving: BTreeMap<FunctionId, BTreeMap<Uid, Proving>>,
    /// Problems that have had their Event.
    announced: BTreeMap<Uid, Vec<Problem>>,
    end: drain::Watch,
}

struct Proving {
    instance: i32,
    task: AbortHandle,
}

impl KubeCluster {
    /// Follows the cluster until `end`. `listed` is dropped once everything has been listed. To be called once.
    pub async fn run(self: Arc<Self>, listed: Blocker, end: drain::Watch) {
        let namespaces: Vec<&str> = self.namespaces().collect();
        let numbered = |(number, namespace): (usize, &&str)| {
            watches::of_namespace(&self.client, namespace).map(move |change| (number, change)).boxed()
        };
        let changes = stream::select_all(namespaces.iter().enumerate().map(numbered));
        let mut changes = changes.ready_chunks(BATCH);
        // Bounded by two for each pod.
        let (proofs, mut proved) = mpsc::unbounded_channel();
        let kinds = |number| Kind::ALL.map(|kind| (number, kind));
        let mut worker = Worker {
            cluster: Arc::clone(&self),
            awaited: (0..namespaces.len()).flat_map(kinds).collect(),
            blocker: Some(listed),
            unpublished: BTreeSet::new(),
            tasks: JoinSet::new(),
            proofs,
            proving: BTreeMap::new(),
            announced: BTreeMap::new(),
            end: end.clone(),
        };
        worker.tasks.spawn(Arc::clone(&self).follow_jobs(end.clone()));
        let (mut end, mut leads) = (end, self.leads());
        loop {
            tokio::select! {
                biased; // proofs before changes: somebody waits for them
                () = end.signaled() => break,
                Some((uid, proof)) = proved.recv() => worker.proved(&uid, proof),
                Some(changes) = changes.next() => worker.apply(changes),
                Ok(()) = leads.changed() => worker.leadership_changed(),
                Some(_ended) = worker.tasks.join_next(), if !worker.tasks.is_empty() => {}
            }
        }
        // Probes end here; the lease's task ends by itself, having given the lease up.
        worker.proving.values().flat_map(BTreeMap::values).for_each(|proving| proving.task.abort());
        while worker.tasks.join_next().await.is_some() {}
    }

    pub(super) fn namespaces(&self) -> impl Iterator<Item = &str> {
        let others = self.options.other_namespaces.iter().filter(|other| **other != self.options.namespace);
        [&self.options.namespace].into_iter().chain(others).map(String::as_str)
    }
}

impl Worker {
    fn apply(&mut self, changes: Vec<(usize, Change)>) {
        let mut dependency = false;
        let mut pods_changed = false;
        for (number, change) in changes {
            pods_changed |= matches!(change, Change::Pod(_) | Change::PodGone(_));
            let affected = match change {
                Change::Listed(kind) => {
                    self.awaited.remove(&(number, kind));
                    Affected::default()
                }
                Change::Failed(kind, error) => {
                    complain(kind, &error);
                    Affected::default()
                }
                change => self.index(change),
            };
            dependency |= affected.dependency;
            self.unpublished.extend(affected.function);
        }
        if !self.awaited.is_empty() {
            return;
        }
        let functions = std::mem::take(&mut self.unpublished);
        self.publish(&functions);
        if pods_changed || self.blocker.is_some() {
            self.follow_peers();
            self.cluster.jobs.pod_changed();
        }
        if pods_changed || dependency || self.blocker.is_some() {
            self.publish_identities();
        }
        if let Some(blocker) = self.blocker.take() {
            tracing::info!(functions = self.cluster.table.view().functions().len(), "the cluster has been listed");
            self.contend_for_lease();
            self.cluster.listed.send_replace(true);
            drop(blocker);
        }
        if dependency {
            self.cluster.dependencies.send_modify(|generation| *generation += 1);
        }
    }

    fn index(&self, change: Change) -> Affected {
        let mut index = self.cluster.index();
        match change {
            Change::Workload(workload) => index.put_workload(*workload),
            Change::WorkloadGone(uid) => index.remove_workload(&uid),
            Change::ReplicaSet { uid, deployment } => index.put_replica_set(uid, deployment),
            Change::ReplicaSetGone(uid) => index.remove_replica_set(&uid),
            Change::Pod(facts) => index.put_pod(*facts),
            Change::PodGone(uid) => index.remove_pod(&uid),
            Change::Listed(_) | Change::Failed(..) => Affected::default(),
        }
    }

    fn proved(&mut self, uid: &Uid, proof: Proof) {
        let affected = self.cluster.index().put_proof(uid, proof);
        if self.awaited.is_empty() {
            self.publish(&affected.function.into_iter().collect());
        }
    }

    /// Brings the table, the probes and the Events up to date with the index.
    fn publish(&mut self, functions: &BTreeSet<FunctionId>) {
        if functions.is_empty() {
            return;
        }
        let now = clock::now();
        let (mut reports, mut removed, mut reached, mut to_prove) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        {
            let index = self.cluster.index();
            for id in functions {
                match index.report(id) {
                    Some(report) => reports.push(report),
                    None => removed.push(id.clone()),
                }
                reached.extend(index.phase_reached(id).map(|phase| (id, phase)));
                to_prove.push((id, index.to_prove(id)));
            }
        }
        // Before the table, which wakes those who read it.
        for (id, phase) in reached {
            self.cluster.table.note_start(id, phase, now);
        }
        self.cluster.table.update(reports, &removed);
        for (id, wanted) in to_prove {
            self.prove(id, wanted);
        }
        if *self.cluster.leads.borrow() {
            functions.iter().for_each(|id| self.announce_problems(id));
        }
    }

    /// Starts the probes that are wanted, ends those that are not.
    fn prove(&mut self, function: &FunctionId, wanted: Vec<ToProve>) {
        let mut former = self.proving.remove(function).unwrap_or_default();
        let mut proving = BTreeMap::new();
        for pod in wanted {
            let (uid, instance) = (Uid::clone(&pod.uid), pod.instance);
            let same = former.remove(&uid).filter(|former| former.instance == instance);
            let entry = same.unwrap_or_else(|| {
                let (proofs, about) = (self.proofs.clone(), Uid::clone(&uid));
                let found = move |proof| {
                    // An error means that the worker has ended.
                    let _told = proofs.send((Uid::clone(&about), proof)).is_ok();
                };
                Proving { instance, task: self.tasks.spawn(proof::prove(pod, found)) }
            });
            proving.insert(uid, entry);
        }
        former.values().for_each(|former| former.task.abort());
        if !proving.is_empty() {
            self.proving.insert(function.clone(), proving);
        }
    }

    fn leadership_changed(&mut self) {
        if *self.cluster.leads.borrow() {
            // Those that the leader before has announced are counted again: the API keeps Events for an hour only.
            let ids = self.cluster.index().ids();
            ids.iter().for_each(|id| self.announce_problems(id));
        } else {
            self.announced.clear();
        }
    }

    fn announce_problems(&mut self, id: &FunctionId) {
        let index = self.cluster.index();
        for (workload, problems) in index.problems(id) {
            let former = self.announced.insert(Uid::clone(&workload.uid), problems.clone()).unwrap_or_default();
            for problem in problems.iter().filter(|problem| !former.contains(problem)) {
                tracing::warn!(function = %id, key = problem.key, "{}", problem.message);
                self.cluster.announcer.problem(workload.reference(), problem);
            }
        }
    }

    /// Who the other gateway nodes are: the pods of the workload that runs this one.
    fn follow_peers(&self) {
        let (options, index) = (&self.cluster.options, self.cluster.index());
        let mut own = self.cluster.own_workload();
        if own.is_none() {
            // Looked for until it is found, since it means a look at every pod.
            let pod = index.pod_named(&options.namespace, &options.pod_name);
            *own = pod.and_then(|pod| pod.controller.as_ref()).map(|controller| Uid::clone(&controller.uid));
        }
        let Some(workload) = own.clone() else { return };
        drop(own);
        // Also those that are ending: they still work on requests.
        let others =
            index.controlled_by(&workload).filter(|pod| *pod.name != *options.pod_name && pod.stage != Stage::Ended);
        let peer = |pod: &super::pod::PodFacts| {
            let address = pod.ip.map_or(NOWHERE, |ip| SocketAddr::new(ip, options.peer_port));
            Peer { name: Arc::clone(&pod.name), address, ready: pod.ready && pod.can_serve() }
        };
        let mut peers: Vec<Peer> = others.map(peer).collect();
        peers.sort_by(|one, other| one.name.cmp(&other.name));
        let alone = peers.is_empty();
        self.cluster.alone.send_if_modified(|known| std::mem::replace(known, alone) != alone);
        self.cluster.peers.send_if_modified(|known| {
            let changed = **known != *peers;
            if changed {
                *known = peers.into();
            }
            changed
        });
    }

    /// Whom the kernel is to know, and what it is to guard.
    fn publish_identities(&self) {
        let options = &self.cluster.options;
        let Some(salt) = options.salt else { return };
        let workloads = {
            let own = self.cluster.own_workload().clone();
            self.cluster.index().identified(&Own {
                workload: own.as_ref(),
                namespace: &options.namespace,
                peer_port: options.peer_port,
                agent: AGENT,
            })
        };
        let table = Identities::new(salt, &workloads);
        self.cluster.identities.send_if_modified(|known| {
            if **known == table {
                return false;
            }
            for (one, other) in table.contested.iter().filter(|pair| !known.contested.contains(pair)) {
                tracing::error!(
                    one,
                    other,
                    "two have one identity: the calls of neither count as internal; rename one"
                );
            }
            *known = Arc::new(table);
            true
        });
    }

    fn contend_for_lease(&mut self) {
        let cluster = &self.cluster;
        let options = &cluster.options;
        let lease = {
            let index = cluster.index();
            let own = index.pod_named(&options.namespace, &options.pod_name);
            own.and_then(|own| own.controller.as_ref())
                .map_or(LEASE.to_owned(), |controller| controller.name.to_string())
        };
        let candidate = Candidate {
            namespace: options.namespace.clone(),
            lease,
            name: options.pod_name.clone(),
            ordinal: ordinal(&options.pod_name),
        };
        let leads = cluster.leads.clone();
        self.tasks.spawn(lease::run(cluster.client.clone(), candidate, leads, self.end.clone()));
        let announcements = cluster.announcements.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(announcements) = announcements {
            let instance = options.pod_name.clone();
            self.tasks.spawn(announcements.run(cluster.client.clone(), instance, self.end.clone()));
        }
    }
}

/// The number of a StatefulSet's pod; other pods count as the first.
fn ordinal(pod_name: &str) -> u32 {
    pod_name.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

fn complain(kind: Kind, error: &kube::runtime::watcher::Error) {
    let kind = kind.as_str();
    tracing::warn!(
        kind,
        error = %format_args!("{error:#}"),
        "a watch failed and is taken up again; if it goes on, check the API server and the Role of the gateway"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_of_pods() {
        assert_eq!([ordinal("slimfaas-0"), ordinal("slimfaas-12"), ordinal("laptop"), ordinal("a-b")], [0, 12, 0, 0]);
    }
}
