//! Where functions come from and how they are scaled. Each implementation writes the table and owns nothing above it.

pub mod fixed;
pub mod jobs;
pub mod kube;
pub mod local;
pub mod seen_runs;

use std::future::Future;
use std::pin::Pin;

use crate::model::function::FunctionId;

/// A boxed future of a [`Cluster`]'s method; none of them is on a request's path.
pub type ClusterFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A source of functions that can also change their replica counts.
pub trait Cluster: Send + Sync + 'static {
    /// Asks for other replicas; returns once the cluster has taken note, not once they run.
    /// The new count shows in the table before this returns.
    fn scale<'a>(&'a self, scaling: &'a Scaling) -> ClusterFuture<'a, Result<(), ScaleError>>;

    /// Whether a dependency that is not a function (a helper process, a plain workload) is up.
    /// `None`: there is no such thing.
    fn dependency_ready(&self, function: &FunctionId, name: &crate::model::spec::Dependency) -> Option<bool>;
}

/// A change of a function's replicas.
#[derive(Clone, Debug)]
pub struct Scaling {
    pub function: FunctionId,
    /// What the table showed when it was decided.
    pub from: u32,
    pub to: u32,
    /// For people.
    pub reason: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ScaleError {
    #[error("this cluster cannot scale: its functions are a fixed list")]
    Unsupported,
    #[error("no function {0} in this cluster")]
    Unknown(FunctionId),
    /// Somebody else has changed them since; the table will show it.
    #[error("its replicas are not what they were when this was decided")]
    Outdated,
    #[error("scaling refused: {0}")]
    Refused(String),
}
