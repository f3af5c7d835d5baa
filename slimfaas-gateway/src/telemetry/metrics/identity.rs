//! Whether the kernel says who calls, asked at each scrape.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::{Metrics, MetricsError, gauge, gauges, named};

impl Metrics {
    /// Shows whether the kernel says who calls, asked at each scrape; once, where its word is understood.
    pub fn add_identity(&self, is_told: fn() -> bool) -> Result<(), MetricsError> {
        self.add(IdentityCollector { name: named("slimfaas_identity")?, is_told })
    }
}

/// What the node agent does for the gateway.
struct IdentityCollector {
    name: Desc,
    is_told: fn() -> bool,
}

impl Collector for IdentityCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.name]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let help =
            "1: the kernel of this node says who calls; 0: callers are known by address, since no agent is here.";
        vec![gauges("slimfaas_caller_kernel", help, vec![gauge(&[], i64::from((self.is_told)()))])]
    }
}
