use super::*;
use crate::model::function::WorkloadKind;
use crate::table::FunctionReport;

#[test]
fn a_scrape_shows_traffic_and_functions() {
    let table = Table::new("default");
    table.put(FunctionReport {
        id: FunctionId::new("default", "fibonacci"),
        kind: WorkloadKind::Deployment,
        spec: Arc::default(),
        problems: Arc::default(),
        replicas_requested: 3,
        pods: Vec::new(),
    });
    let traffic = Arc::new(TrafficStats::default());
    let metrics = Metrics::new(&table, &traffic).expect("sets up");
    traffic.ended(&http::Method::GET, 200, Duration::from_millis(2));
    traffic.rejected("wake-timeout");
    metrics.scale_decided(&FunctionId::new("default", "fibonacci"), 0, 1, "call");
    let peers = Arc::new(PeerStats::default());
    metrics.add_peers(&peers).expect("is the only one");
    peers.calls[0][3].fetch_add(2, Ordering::Relaxed);
    peers.incoming.fetch_add(1, Ordering::Relaxed);
    let text = metrics.render();
    for line in [
        r#"http_requests_received_total{code="2xx",method="GET"} 1"#,
        r#"http_request_duration_seconds_bucket{le="0.002"} 1"#,
        r#"http_request_duration_seconds_count 1"#,
        r#"slimfaas_rejections_total{reason="wake-timeout"} 1"#,
        r#"slimfaas_autoscaler_desired_replicas{function="fibonacci",namespace="default"} 3"#,
        r#"slimfaas_peer_calls_total{kind="activity",outcome="unknown"} 2"#,
        r#"slimfaas_peer_connections{direction="incoming"} 1"#,
        r#"slimfaas_peers_silent 0"#,
        r#"slimfaas_scale_decisions_total{direction="up",function="fibonacci",namespace="default",reason="call"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}
