//! Annotations that are lists of names, paths or events.

use super::{Draft, Source, VISIBILITIES, quoted};
use crate::model::path::PathPrefix;
use crate::model::spec::Dependency;
use crate::model::visibility::{EventSubscription, PathRule, Visibility};

/// Entries of one list: path rules are tried one after the other for each request.
const ENTRIES_MAX: usize = 256;

const PROCESS: &str = "processes:";

/// Of a list with commas.
pub(crate) fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

pub(super) fn depends_on(draft: &mut Draft<'_>, from: Source<'_>) {
    let names: Vec<String> = if from.text.trim_start().starts_with('[') {
        match serde_json::from_str(from.text) {
            Ok(names) => names,
            Err(error) => {
                let found = format!("{} ({error})", quoted(from.text));
                let used = "the last good list, else none";
                draft.problems.bad(from.key, &found, "comma-separated names, or a JSON array of names", used);
                draft.spec.depends_on.clone_from(&draft.last.depends_on);
                return;
            }
        }
    } else {
        entries(from.text).map(str::to_owned).collect()
    };
    for name in names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
        let dependency = match name.strip_prefix(PROCESS).map(str::trim) {
            Some("") => {
                let message = format!("found {}; allowed: {PROCESS}<name>; the entry is skipped", quoted(name));
                draft.problems.push(from.key, message);
                continue;
            }
            Some(process) => Dependency::Process(process.to_owned()),
            None => Dependency::Workload(name.to_owned()),
        };
        if draft.spec.depends_on.contains(&dependency) {
            continue;
        }
        if draft.spec.depends_on.len() == ENTRIES_MAX {
            report_too_many(draft, from, "the rest is ignored");
            break;
        }
        draft.spec.depends_on.push(dependency);
    }
}

pub(super) fn excluded_callers(draft: &mut Draft<'_>, from: Source<'_>) {
    draft.spec.excluded_callers.extend(entries(from.text).map(str::to_owned));
}

pub(super) fn subscribe_events(draft: &mut Draft<'_>, from: Source<'_>) {
    for entry in entries(from.text) {
        let (visibility, event) = split_visibility(draft, from, entry);
        if event.is_empty() {
            let message = format!("found {}, which names no event; the entry is skipped", quoted(entry));
            draft.problems.push(from.key, message);
            continue;
        }
        if draft.spec.subscribe_events.len() == ENTRIES_MAX {
            return report_too_many(draft, from, "the rest is ignored");
        }
        draft.spec.subscribe_events.push(EventSubscription { event: event.to_owned(), visibility });
    }
}

pub(super) fn path_rules(draft: &mut Draft<'_>, from: Source<'_>) {
    for entry in entries(from.text) {
        if draft.spec.path_rules.len() >= ENTRIES_MAX {
            let rest = PathRule { prefix: PathPrefix::new("/"), visibility: Visibility::Private };
            draft.spec.path_rules.push(rest);
            return report_too_many(draft, from, "the rest is replaced by Private:/");
        }
        let (visibility, path) = split_visibility(draft, from, entry);
        let Some(covered) = literal_prefix(path) else {
            draft.spec.path_rules.push(PathRule { prefix: PathPrefix::new(path), visibility });
            continue;
        };
        // No request matches such an entry as it stands. Read as less, it may only close.
        let used = match visibility {
            Visibility::Private => {
                draft.spec.path_rules.push(PathRule { prefix: PathPrefix::new(covered), visibility });
                format!("Private:/{}", covered.trim_matches('/'))
            }
            Visibility::Public => "nothing, the entry is skipped".to_owned(),
        };
        let allowed = "a path, of which every continuation is covered, without * ? # or ;";
        draft.problems.bad(from.key, &quoted(entry), allowed, &used);
    }
}

/// For an entry that is no plain path: the whole segments before what makes it so.
fn literal_prefix(path: &str) -> Option<&str> {
    if path.is_empty() {
        return Some("");
    }
    let special = path.find(['*', '?', '#', ';'])?;
    let end = path[..special].rfind('/').unwrap_or(0);
    Some(&path[..end])
}

/// `Private:x` to its parts. A path's own colon is no prefix: `/items:batch`.
fn split_visibility<'t>(draft: &mut Draft<'_>, from: Source<'_>, entry: &'t str) -> (Visibility, &'t str) {
    let (prefix, rest) = match entry.split_once(':') {
        Some((prefix, rest)) if !prefix.contains('/') => (prefix.trim(), rest.trim()),
        _ => return (draft.spec.default_visibility, entry),
    };
    if let Some((_, visibility)) = VISIBILITIES.iter().find(|(word, _)| word.eq_ignore_ascii_case(prefix)) {
        return (*visibility, rest);
    }
    draft.problems.bad(
        from.key,
        &quoted(entry),
        "Public: or Private: or no prefix",
        &format!("Private:{}", super::excerpt(rest)),
    );
    (Visibility::Private, rest)
}

fn report_too_many(draft: &mut Draft<'_>, from: Source<'_>, used: &str) {
    draft.problems.push(from.key, format!("found more than {ENTRIES_MAX} entries; {used}"));
}
