//! Gathers every problem of the manifest's files, each with its place.

use std::cell::RefCell;

use super::document::Place;
use crate::model::problem::Problem;

pub(super) struct Report {
    /// As the person named them.
    files: Vec<String>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl Report {
    pub(super) fn new(files: Vec<String>) -> Self {
        Self { files, problems: RefCell::default(), warnings: RefCell::default() }
    }

    /// Something that must be changed before the manifest can run.
    pub(super) fn problem(&self, at: Place, path: &str, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem::new(self.key(at, path), message));
    }

    /// Something that does not do what its author may expect.
    pub(super) fn warning(&self, at: Place, path: &str, message: impl Into<String>) {
        self.warnings.borrow_mut().push(Problem::new(self.key(at, path), message));
    }

    /// A problem with no place in a manifest.
    pub(super) fn problem_of(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    fn key(&self, at: Place, path: &str) -> String {
        let file = self.files.get(at.file).map_or("", String::as_str);
        let space = if path.is_empty() { "" } else { " " };
        format!("{file}:{}{space}{path}", at.line)
    }

    pub(super) fn has_problems(&self) -> bool {
        !self.problems.borrow().is_empty()
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    pub(super) fn into_warnings(self) -> Vec<Problem> {
        self.warnings.into_inner()
    }
}
