//! Long lists, page by page.

use config_proto::message::{MAX_PAGE, Request, RouteList};

use crate::failure::Failure;
use crate::session::Session;

/// Asks for all routes whose names contain `filter`, and gives each page to `page` as it comes.
///
/// # Errors
/// What the session or `page` fails with, and a gateway whose pages do not advance.
pub(super) fn routes(
    session: &mut Session,
    filter: Option<&str>,
    mut page: impl FnMut(RouteList) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let filter = filter.map(str::to_owned);
        let request = Request::List { filter, after: after.clone(), limit: MAX_PAGE };
        let list: RouteList = session.ask(&request)?;
        let (more, last) = (list.more, list.routes.last().map(|route| route.name.clone()));
        page(list)?;
        if !more {
            return Ok(());
        }
        // A peer that says "more" for ever must not keep us for ever.
        if last.is_none() || last == after {
            return Err(Failure::Unreachable {
                message: "the gateway announces more routes and sends none".to_owned(),
                hint: None,
            });
        }
        after = last;
    }
}
