//! Routes 4 and 5: waking.

use anyhow::Result;

use super::site::{NOT_FOUND, Site, not_allowed};

const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\ndate: \r\n\r\n";

#[test]
fn waking_is_a_204() -> Result<()> {
    let site = Site::start()?;
    // The original takes POST and documents GET; here both are taken.
    for method in ["POST", "GET"] {
        // A private function too: who wakes it learns nothing that the status does not say.
        for target in ["/wake-function/open", "/wake-function/closed", "/wake-functions"] {
            assert_eq!(site.exact(method, target)?, NO_CONTENT, "{method} {target}");
        }
        for target in ["/wake-function/absent", "/wake-function/", "/wake-function/open/x", "/wake-functions/"] {
            assert_eq!(site.exact(method, target)?, NOT_FOUND, "{method} {target}");
        }
    }
    for target in ["/wake-function/open", "/wake-functions"] {
        assert_eq!(site.exact("DELETE", target)?, not_allowed("GET, POST"), "{target}");
    }
    Ok(())
}
