//! Who may do what: every operation against every role.
#![allow(clippy::unwrap_used)]

use config_proto::access::permits;
use config_proto::message::{RefusalCode, Request, RevocationReason, Role, Sealed};
use config_proto::model::{Document, RouteSettings};
use config_proto::site::SiteSettings;

fn add(name: &str) -> Request {
    Request::Add { name: name.to_owned(), settings: RouteSettings::default(), replace: false }
}

fn remove(name: &str) -> Request {
    Request::Remove { name: name.to_owned() }
}

fn reads() -> Vec<Request> {
    vec![
        Request::List { filter: None, after: None, limit: 10 },
        Request::Show { name: "elsewhere.example.com".to_owned() },
        Request::Status,
        Request::History { before: None, limit: 10 },
        Request::Diff { from: 1, to: None },
        Request::Why { name: None, from: None },
        Request::Check,
        Request::CertList { after: None, limit: 10 },
        Request::CertShow { name: "elsewhere.example.com".to_owned() },
        Request::KeyList,
        Request::Top { limit: 10 },
        Request::SiteList { filter: None, after: None, limit: 10 },
        Request::SiteLog { name: "elsewhere.example.com".to_owned(), limit: 10 },
    ]
}

/// What changes the site `name`.
fn of_site(name: &str) -> Vec<Request> {
    let name = name.to_owned();
    vec![
        Request::SiteAdd {
            name: name.clone(),
            settings: SiteSettings::default(),
            replace: false,
            hook_secret: None,
            push_token: None,
            ssh_key: None,
            password: None,
        },
        Request::SiteRemove { name: name.clone() },
        Request::SiteRefresh { name: name.clone() },
        Request::SiteRollback { name: name.clone(), generation: None },
        Request::SitePin { name, pinned: true },
    ]
}

fn changes() -> Vec<Request> {
    let apply =
        |dry_run| Request::Apply { document: Document::default(), dry_run, confirm_seconds: None };
    vec![
        Request::Rollback { generation: 1 },
        apply(false),
        apply(true),
        Request::Confirm { generation: 1 },
        Request::CertSet { chain_pem: String::new(), key_pem: Sealed(String::new()) },
        Request::CertRenew { name: "a".to_owned() },
        Request::CertRevoke { name: "a".to_owned(), reason: RevocationReason::default() },
        Request::CertRollOver,
        Request::KeyAdd { id: "a".to_owned(), role: Role::Admin },
        Request::KeyRemove { id: "a".to_owned() },
    ]
}

fn team() -> Role {
    "names:*.team.example.org".parse().unwrap()
}

#[test]
fn an_admin_may_do_everything() {
    let named = [add("default"), remove("a")].into_iter().chain(of_site("default"));
    for request in reads().into_iter().chain(changes()).chain(named) {
        assert_eq!(permits(&Role::Admin, &request, None), Ok(()), "{request:?}");
    }
}

#[test]
fn viewers_and_scoped_keys_read_and_change_nothing_at_large() {
    for role in [Role::Viewer, team()] {
        for request in reads() {
            assert_eq!(permits(&role, &request, None), Ok(()), "{role} {request:?}");
        }
        for request in changes() {
            let refusal = permits(&role, &request, None).unwrap_err();
            assert_eq!(refusal.code, RefusalCode::Forbidden, "{role} {request:?}");
        }
    }
    let named = [add("a.team.example.org"), remove("a.team.example.org")];
    for request in named.into_iter().chain(of_site("a.team.example.org")) {
        assert_eq!(
            permits(&Role::Viewer, &request, None).unwrap_err().code,
            RefusalCode::Forbidden
        );
    }
}

#[test]
fn a_scoped_key_changes_names_below_its_wildcard_only() {
    for (name, domain, allowed) in [
        ("a.team.example.org", None, true),
        ("a.b.team.example.org", None, true),
        ("A.Team.Example.Org.", None, true),
        ("*.team.example.org", None, true),
        ("*.a.team.example.org", None, true),
        ("team.example.org", None, false),
        ("ateam.example.org", None, false),
        ("*.example.org", None, false),
        ("a.team.example.org.evil.com", None, false),
        ("default", None, false),
        ("no-sni", None, false),
        // A name without dots is judged as what it will become.
        ("a", Some("team.example.org"), true),
        ("a", Some("example.org"), false),
        ("team", Some("example.org"), false),
        ("a", None, false),
        ("a.", Some("team.example.org"), false),
        ("a.other.example.org", Some("team.example.org"), false),
        ("default", Some("team.example.org"), false),
    ] {
        for request in [add(name), remove(name)].into_iter().chain(of_site(name)) {
            let outcome = permits(&team(), &request, domain);
            let expected = if allowed { None } else { Some(RefusalCode::Forbidden) };
            assert_eq!(outcome.err().map(|refusal| refusal.code), expected, "{name} {domain:?}");
        }
    }
    let refusal = permits(&team(), &add("*.*.org"), None).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Invalid);
}

#[test]
fn a_key_for_one_name() {
    let role: Role = "names:blog.example.org".parse().unwrap();
    assert_eq!(permits(&role, &add("blog"), Some("example.org")), Ok(()));
    for name in ["a.blog.example.org", "*.blog.example.org", "example.org", "default"] {
        assert!(permits(&role, &add(name), None).is_err(), "{name}");
    }
}
