//! Who is needed because of whom. Pure: names and counts in, indices and problems out.
//!
//! A function keeps what it depends on awake, through any number of steps. Functions that depend on each other in a
//! circle could never start if each waited for the next: they do not wait for each other, and the circle is reported.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use crate::model::function::FunctionId;
use crate::model::problem::Problem;
use crate::model::spec::Dependency;
use crate::scaler::decide::Own;

/// Nothing says that something which is no function became ready, so it is asked this often, and only while a
/// function that is needed now waits for it. A fifth of a second is little beside what it waits for.
const RECHECK_OTHER: Duration = Duration::from_millis(200);

/// A name that means nothing is most likely a typing error; it may also be a workload yet to be made.
const RECHECK_UNKNOWN: Duration = Duration::from_secs(5);

/// A function's name and what it depends on.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub id: &'a FunctionId,
    pub depends_on: &'a [Dependency],
}

/// The dependencies among some functions, by their index in the order given.
#[derive(Debug, Default)]
pub struct Graph {
    /// For each function, in the order of its `depends_on`.
    edges: Vec<Vec<Edge>>,
    /// For each function, all that depend on it, directly or not; sorted, without itself.
    dependents: Vec<Vec<usize>>,
    /// Each from a function back to itself (which is not repeated).
    cycles: Vec<Vec<usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    Function(usize),
    /// Part of a circle, so it is never waited for.
    Circular(usize),
    /// Not a function: the cluster knows.
    Other,
}

impl Edge {
    fn function(self) -> Option<usize> {
        match self {
            Self::Function(index) | Self::Circular(index) => Some(index),
            Self::Other => None,
        }
    }
}

/// A dependency that is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    pub dependency: Dependency,
    pub kind: BlockerKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockerKind {
    Function,
    /// A helper process or a plain workload.
    Other,
    /// There is nothing of that name.
    Unknown,
}

impl Blocker {
    /// After which time to ask again; `None`: the table says when it changes.
    pub fn recheck(&self) -> Option<Duration> {
        match self.kind {
            BlockerKind::Function => None,
            BlockerKind::Other => Some(RECHECK_OTHER),
            BlockerKind::Unknown => Some(RECHECK_UNKNOWN),
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(&self.dependency))
    }
}

fn name(dependency: &Dependency) -> &str {
    match dependency {
        Dependency::Workload(name) | Dependency::Process(name) => name,
    }
}

/// What the dependents of one function ask of it, each by the index of one that asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub busy: Option<usize>,
    pub starting: Option<usize>,
    pub used: Option<(Duration, usize)>,
}

impl Graph {
    /// A name means the function of the same namespace, if there is one.
    pub fn new(nodes: &[Node<'_>]) -> Self {
        let by_name: BTreeMap<(&str, &str), usize> =
            nodes.iter().enumerate().map(|(index, node)| ((&*node.id.namespace, &*node.id.name), index)).collect();
        let edge = |node: &Node<'_>, dependency: &Dependency| match dependency {
            Dependency::Workload(name) => {
                by_name.get(&(&*node.id.namespace, name.as_str())).map_or(Edge::Other, |index| Edge::Function(*index))
            }
            Dependency::Process(_) => Edge::Other,
        };
        let edges: Vec<Vec<Edge>> =
            nodes.iter().map(|node| node.depends_on.iter().map(|on| edge(node, on)).collect()).collect();
        let dependents = transitive_dependents(&edges);
        let mut graph = Self { edges, dependents, cycles: Vec::new() };
        graph.mark_circular();
        graph.cycles = graph.find_cycles();
        graph
    }

    /// All functions that depend on `function`, directly or not.
    pub fn dependents(&self, function: usize) -> &[usize] {
        &self.dependents[function]
    }

    /// What the dependents of `function` ask of it; `own` holds what each function asks by itself.
    pub fn asked(&self, function: usize, own: &[Own]) -> Asked {
        let mut asked = Asked::default();
        for dependent in &self.dependents[function] {
            let Own { busy, starting, since_used } = own[*dependent];
            asked.busy = asked.busy.or(busy.then_some(*dependent));
            asked.starting = asked.starting.or(starting.then_some(*dependent));
            if let Some(age) = since_used
                && asked.used.is_none_or(|(least, _)| age < least)
            {
                asked.used = Some((age, *dependent));
            }
        }
        asked
    }

    /// The first dependency of `node`, the function of index `function`, that is not ready.
    ///
    /// `ready` answers for a function; `other` for anything else, with `None` for what does not exist.
    pub fn blocker(
        &self,
        function: usize,
        node: Node<'_>,
        ready: impl Fn(usize) -> bool,
        other: impl Fn(&Dependency) -> Option<bool>,
    ) -> Option<Blocker> {
        node.depends_on.iter().zip(&self.edges[function]).find_map(|(dependency, edge)| {
            let kind = match *edge {
                Edge::Circular(_) => return None,
                Edge::Function(index) if ready(index) => return None,
                Edge::Function(_) => BlockerKind::Function,
                Edge::Other => match other(dependency) {
                    Some(true) => return None,
                    Some(false) => BlockerKind::Other,
                    None => BlockerKind::Unknown,
                },
            };
            Some(Blocker { dependency: dependency.clone(), kind })
        })
    }

    /// What is wrong with the dependencies, by the index of the function: circles, and names that mean nothing.
    pub fn problems(
        &self,
        nodes: &[Node<'_>],
        other: impl Fn(&FunctionId, &Dependency) -> Option<bool>,
    ) -> Vec<(usize, Problem)> {
        let mut problems = Vec::new();
        for (cycle, text) in self.cycles.iter().zip(self.circles(nodes)) {
            problems.extend(cycle.iter().map(|index| (*index, Problem::new("DependsOn", text.clone()))));
        }
        for (index, node) in nodes.iter().enumerate() {
            for (dependency, edge) in node.depends_on.iter().zip(&self.edges[index]) {
                if *edge == Edge::Other && other(node.id, dependency).is_none() {
                    problems.push((index, unknown(node.id, dependency)));
                }
            }
        }
        problems
    }

    /// Every circle in words, such that each function on some circle is named.
    pub fn circles(&self, nodes: &[Node<'_>]) -> Vec<String> {
        let words = |cycle: &Vec<usize>| {
            let names: Vec<&str> = cycle.iter().chain(cycle.first()).map(|index| &*nodes[*index].id.name).collect();
            format!("circle {}; these functions do not wait for each other", names.join(" -> "))
        };
        self.cycles.iter().map(words).collect()
    }

    /// An edge lies on a circle when what it leads to depends on where it comes from.
    fn mark_circular(&mut self) {
        for (from, edges) in self.edges.iter_mut().enumerate() {
            for edge in edges {
                if let Edge::Function(to) = *edge
                    && (to == from || self.dependents[from].binary_search(&to).is_ok())
                {
                    *edge = Edge::Circular(to);
                }
            }
        }
    }

    /// Shortest circles, such that each function on some circle is on one of these.
    fn find_cycles(&self) -> Vec<Vec<usize>> {
        let mut named = BTreeSet::new();
        let mut cycles = Vec::new();
        for start in 0..self.edges.len() {
            if named.contains(&start) {
                continue;
            }
            if let Some(cycle) = self.shortest_cycle(start) {
                named.extend(cycle.iter().copied());
                cycles.push(cycle);
            }
        }
        cycles
    }

    fn shortest_cycle(&self, start: usize) -> Option<Vec<usize>> {
        let mut came_from: BTreeMap<usize, usize> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(at) = queue.pop_front() {
            for edge in &self.edges[at] {
                let Edge::Circular(to) = *edge else { continue };
                if to == start {
                    let mut cycle = vec![at];
                    while let Some(before) = came_from.get(cycle.last().expect("starts with one")) {
                        cycle.push(*before);
                    }
                    cycle.reverse();
                    return Some(cycle);
                }
                came_from.entry(to).or_insert_with(|| {
                    queue.push_back(to);
                    at
                });
            }
        }
        None
    }
}

fn unknown(function: &FunctionId, dependency: &Dependency) -> Problem {
    let what = match dependency {
        Dependency::Workload(name) => format!("no workload {name} in namespace {}", function.namespace),
        Dependency::Process(name) => format!("no process {name} in the manifest"),
    };
    Problem::new("DependsOn", format!("{what}; the function does not start until there is one"))
}

fn transitive_dependents(edges: &[Vec<Edge>]) -> Vec<Vec<usize>> {
    let mut direct: Vec<Vec<usize>> = vec![Vec::new(); edges.len()];
    for (from, edges) in edges.iter().enumerate() {
        for to in edges.iter().filter_map(|edge| edge.function()) {
            direct[to].push(from);
        }
    }
    (0..edges.len())
        .map(|start| {
            let mut reached = BTreeSet::new();
            let mut todo = direct[start].clone();
            while let Some(next) = todo.pop() {
                if next != start && reached.insert(next) {
                    todo.extend(&direct[next]);
                }
            }
            reached.into_iter().collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Functions of one namespace from `a: b processes:c` lines.
    struct Functions(Vec<(FunctionId, Vec<Dependency>)>);

    impl Functions {
        fn parse(text: &str) -> Self {
            let dependency = |name: &str| match name.strip_prefix("processes:") {
                Some(process) => Dependency::Process(process.to_owned()),
                None => Dependency::Workload(name.to_owned()),
            };
            let line = |line: &str| {
                let (function, on) = line.split_once(':').expect("a colon");
                (FunctionId::new("default", function.trim()), on.split_whitespace().map(dependency).collect())
            };
            Self(text.split(';').map(line).collect())
        }

        fn nodes(&self) -> Vec<Node<'_>> {
            self.0.iter().map(|(id, depends_on)| Node { id, depends_on }).collect()
        }

        fn names(&self, indices: &[usize]) -> String {
            indices.iter().map(|index| &*self.0[*index].0.name).collect::<Vec<_>>().join(" ")
        }
    }

    /// All dependents of the first function.
    #[track_caller]
    fn check_dependents(text: &str, expected: &str) {
        let functions = Functions::parse(text);
        let graph = Graph::new(&functions.nodes());
        assert_eq!(functions.names(graph.dependents(0)), expected, "{text}");
    }

    #[test]
    fn dependents_are_transitive_and_end() {
        check_dependents("a:", "");
        check_dependents("a:; b: a", "b");
        check_dependents("a:; b: a; c: b; d: c", "b c d");
        check_dependents("a:; b: a; c: a; d: b c; e:", "b c d");
        check_dependents("a: b; b: a", "b");
        check_dependents("a: a", "");
        check_dependents("a: b; b: c; c: a; d: c", "b c d");
        check_dependents("a:; b: processes:a", "");
    }

    /// What the first function waits for when only the functions and others named are ready.
    #[track_caller]
    fn check_blocker(text: &str, ready: &[&str], expected: Option<(&str, BlockerKind)>) {
        let functions = Functions::parse(text);
        let nodes = functions.nodes();
        let other = |dependency: &Dependency| match dependency {
            Dependency::Workload(name) => (name == "mysql").then(|| ready.contains(&"mysql")),
            Dependency::Process(name) => Some(ready.contains(&name.as_str())),
        };
        let is_ready = |index: usize| ready.contains(&&*functions.0[index].0.name);
        let blocker = Graph::new(&nodes).blocker(0, nodes[0], is_ready, other);
        let blocker = blocker.map(|blocker| (blocker.to_string(), blocker.kind));
        assert_eq!(blocker, expected.map(|(name, kind)| (name.to_owned(), kind)), "{text}");
    }

    #[test]
    fn the_first_dependency_that_is_not_ready_blocks() {
        check_blocker("a:", &[], None);
        check_blocker("a: b; b:", &[], Some(("b", BlockerKind::Function)));
        check_blocker("a: b; b:", &["b"], None);
        check_blocker("a: b c; b:; c:", &["b"], Some(("c", BlockerKind::Function)));
        check_blocker("a: mysql", &[], Some(("mysql", BlockerKind::Other)));
        check_blocker("a: mysql", &["mysql"], None);
        check_blocker("a: processes:redis", &[], Some(("redis", BlockerKind::Other)));
        check_blocker("a: processes:redis", &["redis"], None);
        check_blocker("a: typo", &[], Some(("typo", BlockerKind::Unknown)));
    }

    #[test]
    fn functions_in_a_circle_do_not_wait_for_each_other() {
        check_blocker("a: a", &[], None);
        check_blocker("a: b; b: a", &[], None);
        check_blocker("a: b; b: c; c: a", &[], None);
        check_blocker("a: b d; b: a; d:", &[], Some(("d", BlockerKind::Function)));
        // Outside the circle it is waited for as usual.
        check_blocker("a: b; b: c; c: b", &[], Some(("b", BlockerKind::Function)));
    }

    #[test]
    fn the_same_name_in_another_namespace_is_another_function() {
        let on = [Dependency::Workload("b".to_owned())];
        let (a, b) = (FunctionId::new("one", "a"), FunctionId::new("two", "b"));
        let nodes = [Node { id: &a, depends_on: &on }, Node { id: &b, depends_on: &[] }];
        let blocker = Graph::new(&nodes).blocker(0, nodes[0], |_| true, |_| None);
        assert_eq!(blocker, Some(Blocker { dependency: on[0].clone(), kind: BlockerKind::Unknown }));
    }

    #[track_caller]
    fn check_problems(text: &str, expected: &[&str]) {
        let functions = Functions::parse(text);
        let nodes = functions.nodes();
        let known = |_: &FunctionId, dependency: &Dependency| (name(dependency) == "mysql").then_some(false);
        let problems = Graph::new(&nodes).problems(&nodes, known);
        let problems: Vec<String> = problems.iter().map(|(i, p)| format!("{} {p}", functions.names(&[*i]))).collect();
        assert_eq!(problems, expected, "{text}");
    }

    #[test]
    fn circles_and_unknown_names_are_reported() {
        check_problems("a: b mysql; b:", &[]);
        check_problems("a: a", &["a DependsOn: circle a -> a; these functions do not wait for each other"]);
        check_problems(
            "a: b; b: c; c: b",
            &[
                "b DependsOn: circle b -> c -> b; these functions do not wait for each other",
                "c DependsOn: circle b -> c -> b; these functions do not wait for each other",
            ],
        );
        check_problems(
            "a: mysqll processes:redis",
            &[
                "a DependsOn: no workload mysqll in namespace default; the function does not start until there is one",
                "a DependsOn: no process redis in the manifest; the function does not start until there is one",
            ],
        );
    }

    #[test]
    fn dependents_ask_for_the_most_recent_use() {
        let functions = Functions::parse("a:; b: a; c: b; d:");
        let graph = Graph::new(&functions.nodes());
        let used = |secs| Own { since_used: Some(Duration::from_secs(secs)), ..Own::default() };
        let asked = graph.asked(0, &[used(1), used(9), used(5), used(0)]);
        assert_eq!(asked, Asked { used: Some((Duration::from_secs(5), 2)), ..Asked::default() });
        let own = [
            Own { busy: true, ..Own::default() },
            Own { starting: true, ..Own::default() },
            Own { busy: true, ..Own::default() },
            Own::default(),
        ];
        assert_eq!(graph.asked(0, &own), Asked { busy: Some(2), starting: Some(1), used: None });
        assert_eq!(graph.asked(3, &own), Asked::default());
    }

    proptest! {
        /// Whatever the graph, letting each function start once it is not blocked starts them all.
        #[test]
        fn no_graph_deadlocks(edges in proptest::collection::vec(proptest::collection::vec(0..8_usize, 0..4), 8)) {
            let ids: Vec<FunctionId> = (0..8).map(|i| FunctionId::new("default", &format!("f{i}"))).collect();
            let on = |to: &Vec<usize>| to.iter().map(|i| Dependency::Workload(format!("f{i}"))).collect::<Vec<_>>();
            let on: Vec<Vec<Dependency>> = edges.iter().map(on).collect();
            let nodes: Vec<Node<'_>> = ids.iter().zip(&on).map(|(id, depends_on)| Node { id, depends_on }).collect();
            let graph = Graph::new(&nodes);
            let mut ready = [false; 8];
            for _round in 0..8 {
                for function in 0..8 {
                    ready[function] |= graph.blocker(function, nodes[function], |i| ready[i], |_| None).is_none();
                }
            }
            prop_assert_eq!(ready, [true; 8]);
            // And a function on a circle is reported exactly when it can reach itself.
            let reported: BTreeSet<usize> = graph.problems(&nodes, |_, _| None).into_iter().map(|(i, _)| i).collect();
            for (function, to) in edges.iter().enumerate() {
                let circular = to.iter().any(|to| *to == function || graph.dependents(function).contains(to));
                prop_assert_eq!(reported.contains(&function), circular);
            }
        }
    }
}
