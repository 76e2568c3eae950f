//! What a control key may do. One pure function decides; the gateway asks it before it does anything else.

use crate::message::{Refusal, RefusalCode, Request, Role};
use crate::model::RouteName;

/// Whether `role` allows `request`. Names without dots are completed under `domain` first, as the gateway will do.
///
/// # Errors
/// A refusal with code [`RefusalCode::Forbidden`], or [`RefusalCode::Invalid`] when the request names no valid route.
pub fn permits(role: &Role, request: &Request, domain: Option<&str>) -> Result<(), Refusal> {
    match (role, request) {
        (Role::Admin, _) => Ok(()),
        (Role::Viewer | Role::Names(_), request) if only_reads(request) => Ok(()),
        (
            Role::Names(scope),
            Request::Add { name, .. }
            | Request::Remove { name }
            | Request::SiteAdd { name, .. }
            | Request::SiteRemove { name }
            | Request::SiteRefresh { name }
            | Request::SiteRollback { name, .. }
            | Request::SitePin { name, .. },
        ) => {
            let name = RouteName::parse_under(name, domain).map_err(|e| Refusal {
                code: RefusalCode::Invalid,
                message: e.to_string(),
                hint: None,
            })?;
            if lies_within(&name, scope) {
                return Ok(());
            }
            Err(Refusal {
                code: RefusalCode::Forbidden,
                message: format!("this key may not change {name}"),
                hint: Some(format!("it may add and remove names under {scope}")),
            })
        }
        (role, _) => Err(Refusal {
            code: RefusalCode::Forbidden,
            message: "this key may not do that".to_owned(),
            hint: Some(format!("its role is {role}; an admin key is needed")),
        }),
    }
}

/// Whether a request changes nothing and shows no secret. A new operation is a change until it is named here.
const fn only_reads(request: &Request) -> bool {
    matches!(
        request,
        Request::List { .. }
            | Request::Show { .. }
            | Request::Status
            | Request::History { .. }
            | Request::Diff { .. }
            | Request::Why { .. }
            | Request::Check
            | Request::CertList { .. }
            | Request::CertShow { .. }
            | Request::KeyList
            | Request::Top { .. }
            | Request::SiteList { .. }
            | Request::SiteLog { .. }
    )
}

/// Whether every server name that `name` matches is also matched by `scope`.
fn lies_within(name: &RouteName, scope: &RouteName) -> bool {
    match (name, scope) {
        (RouteName::Exact(host), RouteName::Wildcard(parent)) => is_below(host, parent),
        (RouteName::Wildcard(inner), RouteName::Wildcard(parent)) => {
            inner == parent || is_below(inner, parent)
        }
        (RouteName::Exact(host), RouteName::Exact(only)) => host == only,
        _ => false,
    }
}

fn is_below(host: &str, parent: &str) -> bool {
    host.strip_suffix(parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}
