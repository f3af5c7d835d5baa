//! `/wake-function/{name}` and `/wake-functions` (reference §1.10): answered at once, whatever the wake takes.

use http::Response;

use super::no_content;
use crate::clock::{self, Tick};
use crate::proxy::body::Body;
use crate::proxy::rejection::Rejection;
use crate::proxy::wake::Wake;
use crate::table::Table;
use crate::table::view::Function;

pub(super) fn all(table: &Table, wake: &dyn Wake) -> Response<Body> {
    table.view().functions().iter().for_each(|function| request(function, wake));
    no_content()
}

pub(super) fn one(table: &Table, wake: &dyn Wake, name: &str) -> Result<Response<Body>, Rejection> {
    let view = table.view();
    request(view.route(name).ok_or(Rejection::NotFound)?, wake);
    Ok(no_content())
}

fn request(function: &Function, wake: &dyn Wake) {
    wake.wake(function, Tick::of(clock::now()));
}
