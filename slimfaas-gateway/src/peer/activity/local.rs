//! What this node has to tell: which functions have changed, and since when.

use std::collections::BTreeMap;

use crate::clock::Tick;
use crate::model::function::FunctionId;
use crate::peer::digest::{FUNCTIONS_MAX, Scope, Told};
use crate::table::activity::Live;
use crate::table::view::View;

/// The functions as they were last looked at.
#[derive(Default)]
pub(super) struct Local {
    functions: BTreeMap<FunctionId, Seen>,
    /// Of the last look that found a change.
    version: u64,
}

struct Seen {
    told: Told,
    /// Of the look that found it changed.
    version: u64,
}

/// What a look has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) version: u64,
    /// Nothing changes until there is news.
    pub(super) quiet: bool,
}

impl Local {
    pub(super) fn look(&mut self, view: &View) -> Look {
        let next = self.version + 1;
        let mut changed = false;
        let mut quiet = true;
        let present = |id: &FunctionId| view.functions().binary_search_by(|function| function.id.cmp(id)).is_ok();
        self.functions.retain(|id, _| present(id));
        for function in view.functions() {
            let mut told = read(&function.id, &function.live);
            let known = self.functions.get(&function.id);
            if known.is_none() && told.called == Tick::NEVER && !is_busy(&told) {
                // Nobody has called it here: there is nothing to tell.
                function.live.await_news();
                told = read(&function.id, &function.live);
                if told.called == Tick::NEVER && !is_busy(&told) {
                    continue;
                }
            }
            if known.is_none_or(|known| known.told != told) {
                changed = true;
                quiet = false;
                self.functions.insert(function.id.clone(), Seen { told, version: next });
            } else if is_busy(&told) {
                quiet = false;
            } else {
                function.live.await_news();
                quiet &= read(&function.id, &function.live) == told;
            }
        }
        if changed {
            self.version = next;
        }
        Look { version: self.version, quiet }
    }

    /// The functions that have changed after `since` (without it: all), in parts for one digest each; at least one.
    pub(super) fn parts(&self, since: Option<u64>) -> Vec<(Scope, Vec<Told>)> {
        let is_new = |seen: &&Seen| since.is_none_or(|since| seen.version > since);
        let functions: Vec<Told> = self.functions.values().filter(is_new).map(|seen| seen.told.clone()).collect();
        let mut parts: Vec<Vec<Told>> = functions.chunks(FUNCTIONS_MAX).map(<[Told]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let last = parts.len() - 1;
        let scope = |index| match since {
            Some(_) => Scope::Changes,
            None => Scope::Everything { first: index == 0, last: index == last },
        };
        parts.into_iter().enumerate().map(|(index, part)| (scope(index), part)).collect()
    }
}

fn read(id: &FunctionId, live: &Live) -> Told {
    Told {
        id: id.clone(),
        called: live.last_local_call(),
        in_flight: live.local_in_flight(),
        waiting: live.local_waiting(),
    }
}

fn is_busy(told: &Told) -> bool {
    told.in_flight > 0 || told.waiting > 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::model::function::WorkloadKind;
    use crate::table::{FunctionReport, Table};

    fn report(name: &str) -> FunctionReport {
        FunctionReport {
            id: FunctionId::new("demo", name),
            kind: WorkloadKind::Deployment,
            spec: Arc::default(),
            problems: Arc::default(),
            replicas_requested: 0,
            pods: Vec::new(),
        }
    }

    fn names(local: &Local, since: Option<u64>) -> Vec<String> {
        let parts = local.parts(since);
        parts.iter().flat_map(|(_, part)| part.iter().map(|told| told.id.name.to_string())).collect()
    }

    #[test]
    fn only_what_has_changed_is_told_again() {
        let table = Table::new("demo");
        ["a", "b"].into_iter().for_each(|name| table.put(report(name)));
        let live = |name| Arc::clone(&table.view().function(&FunctionId::new("demo", name)).unwrap().live);
        let mut local = Local::default();
        assert_eq!(local.look(&table.view()), Look { version: 0, quiet: true });
        assert_eq!(local.parts(None), [(Scope::Everything { first: true, last: true }, Vec::new())]);

        live("a").note_call(Tick(5));
        live("a").in_flight.store(1, Ordering::Relaxed);
        assert_eq!(local.look(&table.view()), Look { version: 1, quiet: false });
        assert_eq!(local.look(&table.view()), Look { version: 1, quiet: false });
        assert_eq!(names(&local, Some(0)), ["a"]);
        assert_eq!(names(&local, Some(1)), [""; 0]);

        live("a").in_flight.store(0, Ordering::Relaxed);
        live("b").note_call(Tick(6));
        assert_eq!(local.look(&table.view()), Look { version: 2, quiet: false });
        assert_eq!(local.look(&table.view()), Look { version: 2, quiet: true });
        assert_eq!(
            (names(&local, Some(1)), names(&local, None)),
            (vec!["a".into(), "b".into()], vec!["a".into(), "b".into()])
        );
        live("b").note_remote_call(Tick(9));
        live("b").set_remote(3, 3);
        assert_eq!(local.look(&table.view()), Look { version: 2, quiet: true }, "what others told is not news");

        table.remove(&FunctionId::new("demo", "a"));
        assert_eq!(local.look(&table.view()), Look { version: 2, quiet: true });
        assert_eq!(names(&local, None), ["b"]);
    }

    #[test]
    fn many_functions_are_told_in_parts() {
        let table = Table::new("demo");
        table.update((0..FUNCTIONS_MAX + 1).map(|n| report(&format!("f{n:05}"))).collect(), &[]);
        table.view().functions().iter().for_each(|function| function.live.note_call(Tick(1)));
        let mut local = Local::default();
        local.look(&table.view());
        let scopes: Vec<_> = local.parts(None).iter().map(|(scope, part)| (*scope, part.len())).collect();
        let everything = |first, last| Scope::Everything { first, last };
        assert_eq!(scopes, [(everything(true, false), FUNCTIONS_MAX), (everything(false, true), 1)]);
        let scopes: Vec<_> = local.parts(Some(0)).iter().map(|(scope, part)| (*scope, part.len())).collect();
        assert_eq!(scopes, [(Scope::Changes, FUNCTIONS_MAX), (Scope::Changes, 1)]);
    }
}
