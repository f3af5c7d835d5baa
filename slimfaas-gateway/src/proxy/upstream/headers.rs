//! Heads on their way through: what concerns one connection only is taken out, who forwarded it is put in.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Uri};

/// Headers that belong to one connection (RFC 9110 §7.6.1), besides those that `Connection` lists.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("http2-settings"),
];

/// Claims about the caller that only the gateway may make.
const CLAIMS: [HeaderName; 2] =
    [HeaderName::from_static("x-slimfaas-job"), HeaderName::from_static("x-slimfaas-job-signature")];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Takes out what `Connection` names and what always belongs to one connection.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // `TE: trailers` is how a client asks for the trailers that gRPC needs; it is safe to pass on.
    let trailers = headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in HOP_BY_HOP.iter().chain(&listed) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// A request's headers as the function gets them.
/// `Host` stays for whoever sends it to replace. `authority` is that of the request's target, which wins over `Host`.
pub(super) fn prepare_request(headers: &mut HeaderMap, authority: Option<&Authority>, peer: &HeaderValue) {
    remove_hop_by_hop(headers);
    for claim in &CLAIMS {
        headers.remove(claim);
    }
    // Whether the body is wanted is decided between the client and us.
    headers.remove(header::EXPECT);
    let host = match authority {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => headers.get(header::HOST).cloned(),
    };
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
    match headers.entry(X_FORWARDED_FOR) {
        header::Entry::Vacant(entry) => {
            entry.insert(peer.clone());
        }
        header::Entry::Occupied(mut entry) => {
            let mut chain: Vec<u8> = entry.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b", "[..]);
            chain.extend_from_slice(b", ");
            chain.extend_from_slice(peer.as_bytes());
            let value = HeaderValue::from_bytes(&chain).expect("values joined by commas are a value");
            entry.insert(value);
        }
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
}

/// The function's own part of the target: everything from `offset` on, byte for byte.
pub(super) fn inner_target(target: &PathAndQuery, offset: usize) -> Uri {
    let rest = &target.as_str()[offset..];
    let inner = match rest.as_bytes().first() {
        Some(b'/') => PathAndQuery::try_from(rest),
        // `/function/name` or `/function/name?query`
        _ => PathAndQuery::try_from(format!("/{rest}")),
    };
    Uri::from(inner.expect("a suffix of a valid target that starts with a slash is one"))
}

/// `inner` below an endpoint's base path (which starts with a slash and does not end with one).
pub(super) fn below(base: &str, inner: &Uri) -> Uri {
    let inner = inner.path_and_query().map_or("/", PathAndQuery::as_str);
    let joined = PathAndQuery::try_from(format!("{base}{inner}"));
    Uri::from(joined.expect("a checked base and a valid target joined by a slash are one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        headers.iter().map(pair).collect()
    }

    #[track_caller]
    fn check(given: &[(&'static str, &'static str)], forwarded: &[(&'static str, &'static str)]) {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_static(value));
        }
        prepare_request(&mut headers, None, &HeaderValue::from_static("1.2.3.4"));
        assert_eq!(headers, map(forwarded));
    }

    #[test]
    fn a_request_says_who_forwarded_it() {
        check(
            &[("host", "api.example.com"), ("accept", "*/*")],
            &[
                ("host", "api.example.com"),
                ("accept", "*/*"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-host", "api.example.com"),
                ("x-forwarded-proto", "http"),
            ],
        );
    }

    #[test]
    fn what_an_ingress_said_is_kept_and_continued() {
        check(
            &[
                ("host", "slimfaas"),
                ("x-forwarded-for", "9.9.9.9"),
                ("x-forwarded-for", "8.8.8.8"),
                ("x-forwarded-host", "api.example.com"),
                ("x-forwarded-proto", "https"),
            ],
            &[
                ("host", "slimfaas"),
                ("x-forwarded-for", "9.9.9.9, 8.8.8.8, 1.2.3.4"),
                ("x-forwarded-host", "api.example.com"),
                ("x-forwarded-proto", "https"),
            ],
        );
    }

    #[test]
    fn connection_headers_and_claims_do_not_pass() {
        check(
            &[
                ("host", "h"),
                ("connection", "close, X-Private"),
                ("x-private", "1"),
                ("keep-alive", "timeout=5"),
                ("transfer-encoding", "chunked"),
                ("te", "trailers"),
                ("expect", "100-continue"),
                ("x-slimfaas-job", "j"),
                ("x-slimfaas-job-signature", "s"),
            ],
            &[
                ("host", "h"),
                ("te", "trailers"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-host", "h"),
                ("x-forwarded-proto", "http"),
            ],
        );
    }

    #[test]
    fn a_base_path_goes_in_front() {
        let inner: Uri = "/a/?b=c".parse().expect("a valid target");
        assert_eq!(below("/api/v1", &inner).to_string(), "/api/v1/a/?b=c");
    }

    #[test]
    fn the_target_is_cut_byte_for_byte() {
        for (target, offset, expected) in [
            ("/function/f", 11, "/"),
            ("/function/f/", 11, "/"),
            ("/function/f?a=b", 11, "/?a=b"),
            ("/function/f/a%2Fb//c/?x=/function/g", 11, "/a%2Fb//c/?x=/function/g"),
        ] {
            let target: PathAndQuery = target.parse().expect("a valid target");
            assert_eq!(inner_target(&target, offset).to_string(), expected);
        }
    }
}
