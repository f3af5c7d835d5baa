//! The documents that a newcomer looks for exist, and the map of the tree is true: every module folder stands in
//! ARCHITECTURE.md, and every folder that it names exists.

use std::collections::BTreeSet;

use super::Finding;
use super::imports::GATEWAY_SOURCE;

/// The map of the tree.
pub(crate) const MAP: &str = "ARCHITECTURE.md";

const DOCUMENTS: &[&str] = &["README.md", MAP, "CHANGELOG.md"];

/// Checks `files` (all of the repository) against the text of the map.
pub(crate) fn check(files: &[String], map: Option<&str>, findings: &mut Vec<Finding>) {
    for document in DOCUMENTS {
        if !files.iter().any(|file| file == document) {
            findings.push(Finding::of(document, "is missing"));
        }
    }
    let Some(map) = map else { return };
    let named = named_paths(map);
    let folders = folders(files);
    for folder in module_folders(&folders) {
        let below = format!("{folder}/");
        if !named.iter().any(|path| path.starts_with(&below)) {
            findings.push(Finding::of(MAP, format!("does not name the module folder `{folder}/`")));
        }
    }
    for path in named.iter().filter_map(|path| path.strip_suffix('/')) {
        if !folders.contains(path) && !folders.contains(&format!("{GATEWAY_SOURCE}{path}")) {
            findings.push(Finding::of(MAP, format!("names the folder `{path}/`, which does not exist")));
        }
    }
}

/// Every folder with a file in it or below it.
fn folders(files: &[String]) -> BTreeSet<String> {
    let ends = files.iter().flat_map(|file| file.match_indices('/').map(|(at, _)| file[..at].to_owned()));
    ends.collect()
}

/// The gateway's module folders, seen from its source folder (`proxy`, `store/raft`).
fn module_folders(folders: &BTreeSet<String>) -> impl Iterator<Item = &str> {
    folders.iter().filter_map(|folder| folder.strip_prefix(GATEWAY_SOURCE))
}

/// Paths in backticks, with `a/{b,c}.rs` taken apart. A folder ends in a slash. Routes and globs are no paths.
fn named_paths(map: &str) -> BTreeSet<String> {
    let spans = map.split('`').skip(1).step_by(2);
    let paths =
        spans.filter(|span| span.contains('/') && !span.starts_with('/') && !span.contains([' ', '*', ':', '<']));
    paths.flat_map(expand).collect()
}

fn expand(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let Some((choices, after)) = rest.split_once('}') else { return vec![path.to_owned()] };
    choices.split(',').flat_map(|choice| expand(&format!("{before}{}{after}", choice.trim()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &[&str] = &[
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "xtask/src/main.rs",
        "slimfaas-gateway/src/proxy.rs",
        "slimfaas-gateway/src/proxy/slot.rs",
        "slimfaas-gateway/src/store/raft/log.rs",
    ];

    #[track_caller]
    fn check_tree(files: &[&str], map: Option<&str>, expected: &[&str]) {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        let mut findings = Vec::new();
        check(&files, map, &mut findings);
        let found: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_true_map_passes() {
        check_tree(TREE, Some("`proxy.rs`, `proxy/{slot,wake}.rs`, `store/{raft}/`, `xtask/`; GET `/health/`"), &[]);
    }

    #[test]
    fn a_folder_that_the_map_lacks_is_found() {
        check_tree(TREE, Some("`store/raft/`"), &["ARCHITECTURE.md: does not name the module folder `proxy/`"]);
    }

    #[test]
    fn a_folder_that_only_the_map_has_is_found() {
        check_tree(
            TREE,
            Some("`proxy/`, `store/raft/`, `jobs/`"),
            &["ARCHITECTURE.md: names the folder `jobs/`, which does not exist"],
        );
    }

    #[test]
    fn a_missing_document_is_found() {
        check_tree(&["README.md", "CHANGELOG.md"], None, &["ARCHITECTURE.md: is missing"]);
    }
}
