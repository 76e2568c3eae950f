//! Long lists, page by page.

use config_proto::message::{CertificateCursor, CertificateInfo, CertificateList};
use config_proto::message::{MAX_PAGE, Request, RouteList};
use config_proto::site::{SiteInfo, SiteList};

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
    walk(None, |after| {
        let filter = filter.map(str::to_owned);
        let list: RouteList = session.ask(&Request::List { filter, after, limit: MAX_PAGE })?;
        let last = list.routes.last().map(|route| route.name.clone());
        let next = Next::of(list.more, last);
        page(list)?;
        Ok(next)
    })
}

/// Every certificate after a place, or from the first on.
///
/// # Errors
/// What the session fails with, and a gateway whose pages do not advance.
pub(super) fn certificates(
    session: &mut Session,
    after: Option<CertificateCursor>,
) -> Result<Vec<CertificateInfo>, Failure> {
    let mut all = Vec::new();
    walk(after, |after| {
        let mut list: CertificateList =
            session.ask(&Request::CertList { after, limit: MAX_PAGE })?;
        let last = list.certificates.last().map(CertificateInfo::cursor);
        all.append(&mut list.certificates);
        Ok(Next::of(list.more, last))
    })?;
    Ok(all)
}

/// Every site whose name contains `filter`.
///
/// # Errors
/// What the session fails with, and a server whose pages do not advance.
pub(super) fn sites(session: &mut Session, filter: Option<&str>) -> Result<Vec<SiteInfo>, Failure> {
    let mut all = Vec::new();
    walk(None, |after| {
        let filter = filter.map(str::to_owned);
        let mut list: SiteList =
            session.ask(&Request::SiteList { filter, after, limit: MAX_PAGE })?;
        let last = list.sites.last().map(|site| site.name.clone());
        all.append(&mut list.sites);
        Ok(Next::of(list.more, last))
    })?;
    Ok(all)
}

/// What comes after a page.
enum Next<C> {
    Nothing,
    /// The place of the page's last entry; none for a page that announces more and is empty.
    After(Option<C>),
}

impl<C> Next<C> {
    fn of(more: bool, last: Option<C>) -> Self {
        if more { Self::After(last) } else { Self::Nothing }
    }
}

/// Takes page after page, each with the place after which it begins.
fn walk<C: Clone + PartialEq>(
    mut after: Option<C>,
    mut page: impl FnMut(Option<C>) -> Result<Next<C>, Failure>,
) -> Result<(), Failure> {
    while let Next::After(last) = page(after.clone())? {
        // A peer that says "more" for ever must not keep us for ever.
        if last.is_none() || last == after {
            return Err(Failure::Unreachable {
                message: "the gateway announces more entries and sends none".to_owned(),
                hint: None,
            });
        }
        after = last;
    }
    Ok(())
}
