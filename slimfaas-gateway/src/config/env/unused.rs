//! Options of other versions that have no effect here: known, so that they are not called unknown.

/// One such option.
pub(super) struct Unused {
    pub(super) name: &'static str,
    pub(super) old: Option<&'static str>,
    pub(super) why: &'static str,
}

impl Unused {
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.old)
    }
}

const fn unused(name: &'static str, why: &'static str) -> Unused {
    Unused { name, old: None, why }
}

const fn renamed(name: &'static str, old: &'static str, why: &'static str) -> Unused {
    Unused { name, old: Some(old), why }
}

const ONE_URL: &str = "events go where calls go: see SlimFaas__BaseFunctionUrl";
const QUEUE: &str = "the store of this version needs no such setting";
const SOCKETS: &str = "this version has no WebSocket functions";
const FRONT: &str = "this version has no dashboard and no status stream";
const SCRAPING: &str = "this version does not scale by metrics";
const EXPORT: &str = "this version exports no telemetry; scrape /metrics";
const OVERLOAD: &str = "this version sheds no load by CPU use";
const DATA: &str = "this version stores no data";
const KUBECONFIG: &str = "outside of a pod, KUBECONFIG is used by itself";
const NO_POLLING: &str = "changes are watched, nothing is polled";
const NO_TLS: &str = "functions are reached without TLS";
const LOCAL: &str = "the local mode has its manifest instead";

pub(super) const UNUSED: &[Unused] = &[
    renamed("SlimFaas__BaseFunctionPodUrl", "BASE_FUNCTION_POD_URL", ONE_URL),
    renamed("SlimFaas__BaseSlimDataUrl", "BASE_SLIMDATA_URL", QUEUE),
    renamed("SlimFaas__AllowUnsecureSsl", "SLIMFAAS_ALLOW_UNSECURE_SSL", NO_TLS),
    unused("SlimFaas__WebSocketPort", SOCKETS),
    unused("SlimFaas__EnableFront", FRONT),
    unused("SlimFaas__RateLimiting__Enabled", OVERLOAD),
    unused("SlimFaas__RateLimiting__CpuHighThreshold", OVERLOAD),
    unused("SlimFaas__RateLimiting__CpuLowThreshold", OVERLOAD),
    unused("SlimFaas__RateLimiting__SampleIntervalMs", OVERLOAD),
    unused("SlimFaas__RateLimiting__RetryAfterSeconds", OVERLOAD),
    unused("SlimFaas__RateLimiting__ExcludedPaths", OVERLOAD),
    unused("SlimFaas__StatusStream__StateIntervalMilliseconds", FRONT),
    unused("SlimFaas__StatusStream__QueueLengthsCacheMilliseconds", FRONT),
    unused("SlimFaas__StatusStream__JobsCacheMilliseconds", FRONT),
    unused("SlimFaas__StatusStream__PeerSyncIntervalMilliseconds", FRONT),
    unused("SlimFaas__StatusStream__PeerSyncInitialDelayMilliseconds", FRONT),
    unused("SlimFaas__StatusStream__MaxSseClients", FRONT),
    unused("SlimFaas__StatusStream__SubscriberChannelCapacity", FRONT),
    unused("SlimFaas__StatusStream__RecentActivityLimit", FRONT),
    unused("SlimFaas__StatusStream__KnownIdsLimit", FRONT),
    unused("SlimFaas__StatusStream__MaxLiveEventsPerSecond", FRONT),
    unused("SlimFaas__StatusStream__LiveEventSamplingRatio", FRONT),
    unused("SlimFaas__StatusStream__LiveActivityBatchSize", FRONT),
    unused("SlimFaas__MetricsScraping__ScrapeIntervalMilliseconds", SCRAPING),
    unused("SlimFaas__MetricsScraping__MaxConcurrentTargets", SCRAPING),
    unused("SlimFaas__MetricsScraping__MaxResponseBytes", SCRAPING),
    unused("SlimFaas__MetricsScraping__MaxLineBytes", SCRAPING),
    unused("SlimFaas__MetricsScraping__MaxSelectedSeriesPerTarget", SCRAPING),
    unused("SlimFaas__MetricsScraping__RequestTimeoutSeconds", SCRAPING),
    unused("SlimFaas__Local__NodeCount", LOCAL),
    unused("SlimFaas__Local__NodeNamePrefix", LOCAL),
    unused("SlimFaas__Local__SlimDataPortBase", LOCAL),
    unused("SlimFaas__Local__HttpPortBase", LOCAL),
    unused("SlimFaas__Local__FunctionName", LOCAL),
    unused("SlimFaas__Local__FunctionHost", LOCAL),
    unused("SlimFaas__Local__FunctionPort", LOCAL),
    unused("SlimFaas__Local__NumberParallelRequest", LOCAL),
    unused("SlimFaas__Process__SupervisorUrl", LOCAL),
    unused("SlimFaas__Process__Token", LOCAL),
    unused("UseKubeConfig", KUBECONFIG),
    unused("Data__DefaultVisibility", DATA),
    unused("OpenTelemetry__Enable", EXPORT),
    unused("OpenTelemetry__Endpoint", EXPORT),
    unused("OpenTelemetry__ServiceName", EXPORT),
    unused("OpenTelemetry__EnableConsoleExporter", EXPORT),
    unused("OpenTelemetry__ExcludedUrls", EXPORT),
    renamed("Workers__QueuesDelayMilliseconds", "SLIM_WORKER_DELAY_MILLISECONDS", NO_POLLING),
    unused("Workers__DelayMilliseconds", NO_POLLING),
    renamed("Workers__JobsDelayMilliseconds", "SLIM_JOBS_WORKER_DELAY_MILLISECONDS", NO_POLLING),
    unused("Workers__JobsConfigurationDelayMilliseconds", NO_POLLING),
    renamed(
        "Workers__ReplicasSynchronizationDelayMilliseconds",
        "REPLICAS_SYNCHRONISATION_WORKER_DELAY_MILLISECONDS",
        NO_POLLING,
    ),
    renamed(
        "Workers__HistorySynchronizationDelayMilliseconds",
        "HISTORY_SYNCHRONISATION_WORKER_DELAY_MILLISECONDS",
        NO_POLLING,
    ),
    renamed("Workers__ScaleReplicasDelayMilliseconds", "SCALE_REPLICAS_WORKER_DELAY_MILLISECONDS", NO_POLLING),
    renamed("Workers__HealthDelayMilliseconds", "HEALTH_WORKER_DELAY_MILLISECONDS", NO_POLLING),
    renamed("Workers__HealthDelayToExitSeconds", "HEALTH_WORKER_DELAY_TO_EXIT_SECONDS", NO_POLLING),
    renamed(
        "Workers__HealthDelayToStartHealthCheckSeconds",
        "HEALTH_WORKER_DELAY_TO_START_HEALTH_CHECK_SECONDS",
        NO_POLLING,
    ),
    renamed("RaftClientHandler__ConnectTimeoutMilliseconds", "SLIMDATA_SOCKETS_HTTP_HANDLER_TIMEOUT", QUEUE),
    unused("RaftClientHandler__PooledConnectionLifetimeMinutes", QUEUE),
    unused("RaftClientHandler__PooledConnectionIdleTimeoutSeconds", QUEUE),
    unused("RaftClientHandler__MaxConnectionsPerServer", QUEUE),
    renamed("SlimData__Configuration", "SLIMDATA_CONFIGURATION", QUEUE),
    unused("SlimData__AllowColdStart", QUEUE),
    unused("SlimData__WarmupRounds", QUEUE),
    unused("SlimData__BatchMode", QUEUE),
    unused("SlimData__BatchPartitionCount", QUEUE),
    unused("SlimData__LowLoadFastPath", QUEUE),
    unused("SlimData__LowLoadRequestsPerSecond", QUEUE),
    unused("SlimData__QueueLowLatencyEnabled", QUEUE),
    unused("SlimData__QueueMutationMaxWaitMilliseconds", QUEUE),
    unused("SlimData__BackupDirectory", QUEUE),
    unused("SlimData__BackupIntervalSeconds", QUEUE),
    unused("SlimData__WalMemoryManagement", QUEUE),
    unused("SlimData__SnapshotIntervalEntries", QUEUE),
    unused("SlimData__SnapshotIntervalBytes", QUEUE),
    unused("SlimData__Files__MaxInFlightBytes", QUEUE),
    unused("SlimData__Files__UnknownLengthReservationBytes", QUEUE),
    unused("SlimData__Files__MaxPendingTransfers", QUEUE),
    unused("SlimData__Files__QueueWaitTimeoutSeconds", QUEUE),
    unused("SlimData__Files__DropPageCache", QUEUE),
    unused("SlimData__Membership__ChangeTimeoutSeconds", QUEUE),
    unused("SlimData__Membership__AnnouncementTimeoutSeconds", QUEUE),
    unused("SlimData__Membership__RemovalMissingCycles", QUEUE),
];
