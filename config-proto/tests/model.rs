//! The texts that people write: names, backend addresses, roles, documents.
#![allow(clippy::unwrap_used)]

use config_proto::message::{Request, Role};
use config_proto::model::{
    BackendAddress, BackendAddressError, BackendHost, Document, NameError, RouteName,
    normalize_host,
};
use proptest::prelude::*;

#[test]
fn names_in_all_their_forms() {
    let exact = |host: &str| Ok(RouteName::Exact(host.to_owned()));
    for (text, expected) in [
        ("blog.example.org", exact("blog.example.org")),
        ("BLOG.Example.org.", exact("blog.example.org")),
        ("_sip.example.org", exact("_sip.example.org")),
        ("xn--bcher-kva.example", exact("xn--bcher-kva.example")),
        ("*.example.org", Ok(RouteName::Wildcard("example.org".to_owned()))),
        ("default", Ok(RouteName::Default)),
        ("no-sni", Ok(RouteName::NoSni)),
        ("default.", exact("default")),
        ("", Err(NameError::Empty)),
        (".", Err(NameError::Empty)),
        ("a..b", Err(NameError::BadLabel(String::new()))),
        ("-a.b", Err(NameError::BadLabel("-a".to_owned()))),
        ("a-.b", Err(NameError::BadLabel("a-".to_owned()))),
        ("a b", Err(NameError::BadLabel("a b".to_owned()))),
        ("*", Err(NameError::BadWildcard)),
        ("a.*.b", Err(NameError::BadWildcard)),
        ("*.*.b", Err(NameError::BadWildcard)),
        ("192.0.2.1", Err(NameError::IpAddress("192.0.2.1".to_owned()))),
        ("192.0.2.256", Err(NameError::EndsInNumber("192.0.2.256".to_owned()))),
        ("bücher.example", Err(NameError::NotAscii("bücher.example".to_owned()))),
    ] {
        assert_eq!(text.parse::<RouteName>(), expected, "{text:?}");
    }
    let label = "a".repeat(63);
    assert!(normalize_host(&label).is_ok());
    assert!(normalize_host(&format!("{label}a")).is_err());
    let longest = [&label[..], &label, &label, &label[..61]].join(".");
    assert_eq!((longest.len(), normalize_host(&longest)), (253, Ok(longest.clone())));
    assert_eq!(normalize_host(&format!("{longest}a")), Err(NameError::TooLong));
}

#[test]
fn names_without_dots_go_under_the_domain() {
    let under = |text: &str| RouteName::parse_under(text, Some("example.org")).unwrap().to_string();
    assert_eq!(under("blog"), "blog.example.org");
    assert_eq!(under("Blog"), "blog.example.org");
    assert_eq!(under("blog."), "blog");
    assert_eq!(under("a.b"), "a.b");
    assert_eq!(under("*.b"), "*.b");
    assert_eq!(under("default"), "default");
    assert_eq!(RouteName::parse_under("blog", None).unwrap().to_string(), "blog");
    assert_eq!(RouteName::parse_under("a", Some(&"b".repeat(60).repeat(5))).ok(), None);
}

#[test]
fn backend_addresses_in_all_their_forms() {
    for (text, again) in [
        ("10.0.0.7:80", "10.0.0.7:80"),
        ("[2001:DB8::7]:443", "[2001:db8::7]:443"),
        ("Backend.Internal.:8080", "backend.internal:8080"),
        ("localhost:1", "localhost:1"),
    ] {
        let address: BackendAddress = text.parse().unwrap();
        assert_eq!(address.to_string(), again);
    }
    assert!(matches!("a:80".parse::<BackendAddress>().unwrap().host, BackendHost::Dns(_)));
    let error = |text: &str| text.parse::<BackendAddress>().unwrap_err();
    assert!(matches!(error("10.0.0.7"), BackendAddressError::MissingPort(_)));
    assert!(matches!(error("[::1]"), BackendAddressError::MissingPort(_)));
    assert!(matches!(error("a:0"), BackendAddressError::BadPort(_)));
    assert!(matches!(error("a:65536"), BackendAddressError::BadPort(_)));
    assert!(matches!(error("a:"), BackendAddressError::BadPort(_)));
    assert!(matches!(error("a:+80"), BackendAddressError::BadPort(_)));
    assert!(matches!(error("a:0080"), BackendAddressError::BadPort(_)));
    assert!(matches!(error("2001:db8::7"), BackendAddressError::NeedsBrackets(_)));
    assert!(matches!(error("2001:db8::7:x:80"), BackendAddressError::NeedsBrackets(_)));
    assert!(matches!(error("[2001:db8]:80"), BackendAddressError::BadV6(_)));
    assert!(matches!(error("[10.0.0.7]:80"), BackendAddressError::BadV6(_)));
    assert!(matches!(error("a b:80"), BackendAddressError::BadHost(..)));
    assert!(matches!(error(":80"), BackendAddressError::BadHost(_, NameError::Empty)));
    assert!(matches!(error("300.0.0.1:80"), BackendAddressError::BadHost(..)));
}

#[test]
fn roles() {
    for text in ["admin", "viewer", "names:*.team.example.org", "names:blog.example.org"] {
        assert_eq!(text.parse::<Role>().unwrap().to_string(), text);
    }
    for text in
        ["", "root", "Admin", "names:", "names:default", "names:no-sni", "names:*", "names:a b"]
    {
        assert!(text.parse::<Role>().is_err(), "{text:?}");
    }
}

#[test]
fn a_document_in_toml_and_json() {
    let text = r#"
        [routes."blog.example.org"]
        backends = ["10.0.0.7:80", "[2001:db8::7]:80"]
        balance = "least"
        proxy = "v2"
        alpn = ["h2", "http/1.1"]
        limits = { idle-seconds = 60 }
        health = { interval-seconds = 10 }

        [routes."*.db.example.org"]
        mode = "passthrough"
        backends = ["db.internal:5432"]

        [routes.default]
        mode = "reject"
    "#;
    let document: Document = toml::from_str(text).unwrap();
    assert_eq!(document.routes.len(), 3);
    let again: Document = toml::from_str(&toml::to_string(&document).unwrap()).unwrap();
    assert_eq!(again, document);
    let again: Document = serde_json::from_str(&serde_json::to_string(&document).unwrap()).unwrap();
    assert_eq!(again, document);

    for (what, text) in [
        ("misspelt option", "[routes.\"a.b\"]\nbackend = [\"c:1\"]"),
        ("misspelt limit", "[routes.\"a.b\"]\nlimits = { idle = 1 }"),
        ("misspelt table", "[route.\"a.b\"]"),
        ("bad name", "[routes.\"a b\"]"),
        ("bad backend", "[routes.\"a.b\"]\nbackends = [\"c\"]"),
        ("bad mode", "[routes.\"a.b\"]\nmode = \"transparent\""),
    ] {
        assert!(toml::from_str::<Document>(text).is_err(), "{what}");
    }
}

#[test]
fn requests_have_the_json_that_the_specification_shows() {
    for (json, again) in [
        (r#"{"op":"status"}"#, None),
        (r#"{"op":"remove","name":"blog"}"#, None),
        (r#"{"op":"list"}"#, Some(r#"{"op":"list","limit":1000}"#)),
        (r#"{"op":"diff","from":1,"to":2}"#, None),
        (r#"{"op":"key-add","id":"a","role":"viewer"}"#, None),
        (r#"{"op":"why","name":"a.b","from":"192.0.2.1"}"#, None),
        (
            r#"{"op":"add","name":"blog","settings":{"backends":["10.0.0.7:80"]}}"#,
            Some(
                r#"{"op":"add","name":"blog","settings":{"backends":["10.0.0.7:80"]},"replace":false}"#,
            ),
        ),
    ] {
        let request = Request::from_json(serde_json::from_str(json).unwrap()).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), again.unwrap_or(json));
    }
}

fn host() -> impl Strategy<Value = String> {
    proptest::collection::vec("[a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?", 1..4)
        .prop_map(|labels| format!("{}.example", labels.join(".")))
}

proptest! {
    #[test]
    fn what_parses_prints_as_what_it_is(text in "\\PC{0,40}|[a-zA-Z0-9.*:\\[\\]-]{0,30}") {
        if let Ok(name) = text.parse::<RouteName>() {
            // The exact host `default` (written `default.`) prints as the route of that name.
            if !matches!(&name, RouteName::Exact(host) if host == "default" || host == "no-sni") {
                prop_assert_eq!(name.to_string().parse::<RouteName>(), Ok(name));
            }
        }
        if let Ok(address) = text.parse::<BackendAddress>() {
            prop_assert_eq!(address.to_string().parse::<BackendAddress>(), Ok(address));
        }
        if let Ok(role) = text.parse::<Role>() {
            prop_assert_eq!(role.to_string().parse::<Role>(), Ok(role));
        }
    }

    #[test]
    fn names_and_addresses_go_through_json(host in host(), port in 1..=u16::MAX, ip in any::<std::net::IpAddr>()) {
        let name: RouteName = host.to_uppercase().parse().unwrap();
        prop_assert_eq!(serde_json::from_value::<RouteName>(serde_json::to_value(&name).unwrap()).unwrap(), name);
        for address in [
            BackendAddress { host: BackendHost::Dns(host), port },
            std::net::SocketAddr::new(ip, port).into(),
        ] {
            let json = serde_json::to_value(&address).unwrap();
            prop_assert_eq!(serde_json::from_value::<BackendAddress>(json).unwrap(), address);
        }
    }
}
