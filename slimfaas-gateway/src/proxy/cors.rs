//! Cross-origin calls from browsers (the fetch standard's CORS protocol).

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode, request};

use crate::config::CorsOrigins;
use crate::proxy::body::Body;

/// The answer to a preflight, if the request is one.
pub(super) fn preflight(origins: &CorsOrigins, head: &request::Parts) -> Option<Response<Body>> {
    if head.method != Method::OPTIONS {
        return None;
    }
    let wanted = head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?.clone();
    let origin = head.headers.get(header::ORIGIN)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    if allow(origins, origin, headers) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, wanted);
        if let Some(names) = head.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
    }
    Some(response)
}

/// Lets the browser show a response to `origin`; a function's own CORS headers are left alone.
pub(super) fn annotate(origins: &CorsOrigins, origin: &HeaderValue, headers: &mut HeaderMap) {
    if !headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        allow(origins, origin, headers);
    }
}

fn allow(origins: &CorsOrigins, origin: &HeaderValue, headers: &mut HeaderMap) -> bool {
    match origins {
        CorsOrigins::Any => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            true
        }
        CorsOrigins::Listed(allowed) => {
            // Caches must not give one origin's answer to another.
            headers.append(header::VARY, HeaderValue::from(header::ORIGIN));
            let is_allowed = allowed.iter().any(|one| one.as_bytes() == origin.as_bytes());
            if is_allowed {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            }
            is_allowed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preflight_of(origins: &CorsOrigins, origin: &str) -> HeaderMap {
        let request = http::Request::options("/function/f")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "x-one, x-two")
            .body(())
            .expect("a valid request");
        let response = preflight(origins, &request.into_parts().0).expect("a preflight");
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        response.headers().clone()
    }

    #[test]
    fn any_origin_may_call_by_default() {
        let headers = preflight_of(&CorsOrigins::Any, "https://a.example");
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(headers["access-control-allow-methods"], "PUT");
        assert_eq!(headers["access-control-allow-headers"], "x-one, x-two");
    }

    #[test]
    fn a_listed_origin_is_named_and_others_are_not_allowed() {
        let origins = CorsOrigins::Listed(vec!["https://a.example".to_owned()]);
        let headers = preflight_of(&origins, "https://a.example");
        assert_eq!(headers["access-control-allow-origin"], "https://a.example");
        assert_eq!(headers["vary"], "origin");
        let headers = preflight_of(&origins, "https://a.example.evil");
        assert!(!headers.contains_key("access-control-allow-origin"));
        assert!(!headers.contains_key("access-control-allow-methods"));
    }

    #[test]
    fn a_plain_options_call_goes_to_the_function() {
        let request = http::Request::options("/function/f").header("origin", "https://a").body(()).expect("valid");
        assert!(preflight(&CorsOrigins::Any, &request.into_parts().0).is_none());
    }

    #[test]
    fn the_functions_own_answer_stands() {
        let mut headers = HeaderMap::new();
        headers.insert("access-control-allow-origin", HeaderValue::from_static("https://own.example"));
        annotate(&CorsOrigins::Any, &HeaderValue::from_static("https://a.example"), &mut headers);
        assert_eq!(headers["access-control-allow-origin"], "https://own.example");
    }
}
