//! Routes 25 and 26: health and metrics.

use anyhow::Result;

use super::site::{Site, not_allowed};

#[test]
fn health_and_readiness() -> Result<()> {
    let site = Site::start()?;
    for (target, body) in [("/health", "OK"), ("/ready", "READY")] {
        let length = body.len();
        let expected = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\ndate: \r\n\r\n{body}"
        );
        assert_eq!(site.exact("GET", target)?, expected);
        // Differs: the original takes any method; a probe that changes something is a mistake.
        assert_eq!(site.exact("POST", target)?, not_allowed("GET, HEAD"), "{target}");
    }
    Ok(())
}

#[test]
fn metrics_have_the_originals_names() -> Result<()> {
    let site = Site::start()?;
    assert_eq!(site.call("GET", "/function/open/x")?.status, 200);
    let _id = site.stored("/async-function/open/x")?;
    let answer = site.call("GET", "/metrics")?;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    for name in [
        "slimfaas_function_queue_ready_items",
        "slimfaas_function_queue_in_flight_items",
        "slimfaas_function_queue_retry_pending_items",
        "slimfaas_autoscaler_current_replicas",
        "slimfaas_autoscaler_desired_replicas",
        "slimfaas_autoscaler_ready_replicas",
    ] {
        let series = format!("{name}{{function=\"open\",namespace=\"default\"}} ");
        // Differs: each has the namespace too.
        assert!(text.contains(&series), "{series} is not in {text}");
    }
    for name in ["http_requests_received_total", "http_request_duration_seconds_bucket", "http_requests_in_progress"] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in {text}");
    }
    Ok(())
}
