//! `SLIMFAAS_SUBSCRIBE_EVENTS`: addresses outside of the cluster that get events, `event=>url1;url2,event2=>url3`.

use serde::Serialize;

use crate::config::annotations::lists::entries;
use crate::config::url_template::{UrlTemplate, Values};
use crate::model::address::Address;
use crate::model::visibility::Visibility;

/// Each is an endpoint with connections of its own.
const TARGETS_MAX: usize = 256;

const PRIVATE: &str = "private:";
const PUBLIC: &str = "public:";

/// One event of one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventTarget {
    pub event: String,
    #[serde(skip)]
    pub visibility: Visibility,
    pub address: Address,
    /// What goes before an event's path. Not shown: webhooks keep secrets there.
    #[serde(skip)]
    pub base_path: Option<std::sync::Arc<str>>,
}

/// Without a prefix (`Private:event=>…`) whoever reaches the gateway may publish to it.
pub(super) fn parse(text: &str) -> Result<Vec<EventTarget>, String> {
    let mut targets: Vec<EventTarget> = Vec::new();
    for entry in entries(text) {
        let unlike = |why: &str| format!("allowed: event=>url;url, separated by commas; {why} in {entry:?}");
        let (event, urls) = entry.split_once("=>").ok_or_else(|| unlike("there is no =>"))?;
        let (visibility, event) = split_visibility(event.trim());
        if event.is_empty() {
            return Err(unlike("there is no event"));
        }
        let mut urls = urls.split(';').map(str::trim).filter(|url| !url.is_empty()).peekable();
        if urls.peek().is_none() {
            return Err(unlike("there is no URL"));
        }
        for url in urls {
            let target = target(event, visibility, url).map_err(|why| unlike(&why))?;
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
    }
    if targets.len() > TARGETS_MAX {
        return Err(format!("allowed: at most {TARGETS_MAX} URLs"));
    }
    Ok(targets)
}

fn target(event: &str, visibility: Visibility, url: &str) -> Result<EventTarget, String> {
    if url.contains(['{', '}']) {
        return Err("a URL has placeholders".to_owned());
    }
    let nothing =
        Values { function_name: "", namespace: "", service_name: None, pod_name: None, pod_ip: None, pod_ports: &[] };
    let target = UrlTemplate::parse(url).and_then(|template| template.target(&nothing));
    // The error of a template says functions where these are URLs; what is wrong is the same.
    let target = target.map_err(|error| format!("a URL cannot be used ({error})"))?;
    Ok(EventTarget { event: event.to_owned(), visibility, address: target.address, base_path: target.base_path })
}

fn split_visibility(event: &str) -> (Visibility, &str) {
    for (prefix, visibility) in [(PRIVATE, Visibility::Private), (PUBLIC, Visibility::Public)] {
        if let Some(start) = event.get(..prefix.len())
            && start.eq_ignore_ascii_case(prefix)
        {
            return (visibility, event[prefix.len()..].trim());
        }
    }
    (Visibility::Public, event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_events() {
        let target = |event: &str, visibility, address: &str, base_path: Option<&str>| {
            let address = match address.parse() {
                Ok(socket) => Address::Socket(socket),
                Err(_) => {
                    let (host, port) = address.split_once(':').expect("a port");
                    Address::Host(host.into(), port.parse().expect("a port"))
                }
            };
            EventTarget { event: event.to_owned(), visibility, address, base_path: base_path.map(Into::into) }
        };
        use Visibility::{Private, Public};
        assert_eq!(
            parse("reload=>http://127.0.0.1:5002;http://audit/in/ , Private:pay=>http://ledger:8080/v1,"),
            Ok(vec![
                target("reload", Public, "127.0.0.1:5002", None),
                target("reload", Public, "audit:80", Some("/in")),
                target("pay", Private, "ledger:8080", Some("/v1")),
            ])
        );
        assert_eq!(parse("a=>http://x;http://x/"), Ok(vec![target("a", Public, "x:80", None)]));
        assert_eq!(parse("public:a:b=>http://x"), Ok(vec![target("a:b", Public, "x:80", None)]));
        for (text, why) in [
            ("reload", "there is no =>"),
            ("=>http://x", "there is no event"),
            ("Private:=>http://x", "there is no event"),
            ("a=>", "there is no URL"),
            ("a=>https://x", "https"),
            ("a=>ftp://x", "http://"),
            ("a=>http://x?token=1", "is not a"),
            ("a=>http://{pod_ip}", "placeholders"),
        ] {
            let message = parse(text).expect_err(text);
            assert!(message.contains(why), "{text}: {message}");
        }
        let many = |count: usize| (1..=count).map(|n| format!("e=>http://h:{n}")).collect::<Vec<_>>().join(",");
        assert!(parse(&many(TARGETS_MAX)).is_ok());
        assert!(parse(&many(TARGETS_MAX + 1)).is_err());
    }
}
