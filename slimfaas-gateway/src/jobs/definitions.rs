//! Which jobs there are: those of the configuration and those of the cluster, of which the cluster's win.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::cluster::jobs::ClusterJobs;
use crate::config::jobs::JobsConfiguration;
use crate::model::function::FunctionId;
use crate::model::job::{DEFAULT_JOB, JobSpec};
use crate::model::problem::Problem;

#[derive(Clone)]
pub struct Definitions {
    configured: Arc<JobsConfiguration>,
    cluster: watch::Receiver<Arc<ClusterJobs>>,
    namespace: Arc<str>,
}

/// One job of the moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    pub spec: Arc<JobSpec>,
    pub problems: Vec<Problem>,
}

impl Definitions {
    /// `namespace` is the gateway's own: configured jobs are there, and plain names mean it.
    pub fn new(configured: JobsConfiguration, cluster: watch::Receiver<Arc<ClusterJobs>>, namespace: &str) -> Self {
        Self { configured: Arc::new(configured), cluster, namespace: namespace.into() }
    }

    /// `name`, or `name.namespace`. Whether there is such a job is another question.
    pub fn id(&self, name: &str) -> FunctionId {
        match name.split_once('.') {
            Some((name, namespace)) => FunctionId::new(namespace, &name.to_ascii_lowercase()),
            None => FunctionId { namespace: Arc::clone(&self.namespace), name: name.to_ascii_lowercase().into() },
        }
    }

    /// The name by which this gateway knows it: the other way round.
    pub fn shown(&self, id: &FunctionId) -> String {
        if id.namespace == self.namespace { id.name.to_string() } else { format!("{}.{}", id.name, id.namespace) }
    }

    pub fn find(&self, id: &FunctionId) -> Option<Definition> {
        if let Some(job) = self.cluster.borrow().jobs.get(id) {
            return Some(Definition { spec: Arc::clone(&job.spec), problems: job.problems.clone() });
        }
        if id.namespace != self.namespace || &*id.name == DEFAULT_JOB {
            return None;
        }
        let spec = self.configured.jobs.get(&*id.name).or(self.configured.dynamic.as_ref())?;
        Some(Definition { spec: Arc::clone(spec), problems: Vec::new() })
    }

    /// Those with a name of their own, in its order.
    pub fn all(&self) -> BTreeMap<FunctionId, Definition> {
        let id = |name: &String| FunctionId { namespace: Arc::clone(&self.namespace), name: name.as_str().into() };
        let configured = self.configured.jobs.iter();
        let mut all: BTreeMap<FunctionId, Definition> = configured
            .map(|(name, spec)| (id(name), Definition { spec: Arc::clone(spec), problems: Vec::new() }))
            .collect();
        all.extend(
            self.cluster.borrow().jobs.iter().map(|(id, job)| {
                (id.clone(), Definition { spec: Arc::clone(&job.spec), problems: job.problems.clone() })
            }),
        );
        all
    }

    /// Whether [`Self::all`] is all.
    pub fn is_complete(&self) -> bool {
        self.cluster.borrow().listed
    }

    pub fn changes(&self) -> watch::Receiver<Arc<ClusterJobs>> {
        self.cluster.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::jobs::ClusterJob;

    #[test]
    fn the_clusters_win_and_dynamic_ones_need_a_name_of_the_own_namespace() {
        let spec = |parallel| Arc::new(JobSpec { parallel, ..JobSpec::default() });
        let job = |parallel| ClusterJob { spec: spec(parallel), problems: Vec::new() };
        let shown = |definitions: &Definitions, name: &str| {
            definitions.find(&definitions.id(name)).map(|definition| definition.spec.parallel)
        };
        let jobs =
            BTreeMap::from([(FunctionId::new("own", "both"), job(2)), (FunctionId::new("other", "far"), job(3))]);
        let cluster = watch::Sender::new(Arc::new(ClusterJobs { listed: true, jobs }));
        let named = BTreeMap::from([("both".to_owned(), spec(1)), ("file".to_owned(), spec(4))]);
        let fixed = JobsConfiguration { jobs: named, dynamic: None };
        let definitions = Definitions::new(fixed.clone(), cluster.subscribe(), "own");
        let all = |definitions: &Definitions| {
            ["both", "FILE", "far", "far.other", "none", "default"].map(|name| shown(definitions, name))
        };
        assert_eq!(all(&definitions), [Some(2), Some(4), None, Some(3), None, None]);
        let names: Vec<String> = definitions.all().keys().map(|id| definitions.shown(id)).collect();
        assert_eq!(names, ["far.other", "both", "file"]);
        let dynamic = JobsConfiguration { dynamic: Some(spec(9)), ..fixed };
        let definitions = Definitions::new(dynamic, cluster.subscribe(), "own");
        assert_eq!(all(&definitions), [Some(2), Some(4), Some(9), Some(3), Some(9), None]);
        assert_eq!(shown(&definitions, "none.other"), None);
    }
}
