//! Routes 6 and 7: what functions do. (8, the stream of it, belongs to the dashboard: `elsewhere`.)

use anyhow::Result;

use super::site::{NOT_FOUND, Site, not_allowed};

const OPEN: &str =
    r#"{"NumberReady":1,"NumberRequested":1,"PodType":"Deployment","Visibility":"Public","Name":"open"}"#;
const CLOSED: &str =
    r#"{"NumberReady":1,"NumberRequested":1,"PodType":"Deployment","Visibility":"Private","Name":"closed"}"#;

fn json(body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {length}\r\ndate: \r\n\r\n{body}"
    )
}

#[test]
fn statuses_have_the_originals_fields_in_its_order() -> Result<()> {
    let site = Site::start()?;
    assert_eq!(site.exact("GET", "/status-functions")?, json(&format!("[{CLOSED},{OPEN}]")));
    assert_eq!(site.exact("GET", "/status-functions?level=detailed")?, json(&format!("[{CLOSED},{OPEN}]")));
    assert_eq!(site.exact("GET", "/status-function/open")?, json(OPEN));
    assert_eq!(site.exact("GET", "/status-function/closed")?, json(CLOSED));
    for target in ["/status-function/absent", "/status-function/", "/status-function/open/x"] {
        assert_eq!(site.exact("GET", target)?, NOT_FOUND, "{target}");
    }
    for target in ["/status-functions", "/status-function/open"] {
        assert_eq!(site.exact("POST", target)?, not_allowed("GET, HEAD"), "{target}");
    }
    Ok(())
}
