//! Commands that read: lists over many pages, details, histories; as text and as JSON.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use config_proto::message::{
    CertificateChain, CertificateList, Check, Diff, History, KeyList, RefusalCode, Request,
    RouteDetail, RouteList, Status, Top, Why,
};
use config_proto::model::{Document, Route, RouteName};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::{Answer, FakeGateway, Home, KEY, refusal};

/// `count` routes in pages, as a gateway gives them.
fn pages(request: &Request, count: usize, generation: u64) -> Answer {
    let Request::List { filter, after, limit } = request else {
        return Err(refusal(RefusalCode::Internal, "not scripted", "fix the test"));
    };
    let mut routes: Vec<Route> = (0..count)
        .map(|number| {
            let name = format!("host-{number:05}.example.org").parse().unwrap();
            Route::new(name, vec!["10.0.0.7:80".parse().unwrap()])
        })
        .filter(|route| filter.as_ref().is_none_or(|f| route.name.to_string().contains(f)))
        .filter(|route| after.as_ref().is_none_or(|after| route.name > *after))
        .collect();
    let wanted = usize::try_from(*limit).unwrap();
    let more = routes.len() > wanted;
    routes.truncate(wanted);
    Ok(serde_json::to_value(RouteList { generation, routes, more }).unwrap())
}

#[test]
fn a_list_goes_through_all_pages() {
    let gateway = FakeGateway::start(|request| pages(request, 2500, 7));
    let run = Home::new().ask(&gateway, &["list"]).code(0);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines.len(), 2501);
    assert_eq!(lines[0], "NAME                    BACKENDS     MODE       OPTIONS  DESCRIPTION");
    assert_eq!(lines[2500], "host-02499.example.org  10.0.0.7:80  terminate");
    assert_eq!(gateway.requests().len(), 3);
}

#[test]
fn a_list_as_json_is_one_document_with_everything() {
    let gateway = FakeGateway::start(|request| pages(request, 2500, 7));
    let run = Home::new().ask(&gateway, &["list", "--json"]).code(0);
    let list: RouteList = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((list.generation, list.routes.len(), list.more), (7, 2500, false));
    assert_eq!(list.routes[2499].name, RouteName::Exact("host-02499.example.org".to_owned()));
}

#[test]
fn a_filter_is_the_gateways_work() {
    let gateway = FakeGateway::start(|request| pages(request, 2500, 7));
    let run = Home::new().ask(&gateway, &["list", "host-0001"]).code(0);
    assert_eq!(run.stdout.lines().count(), 11);
}

#[test]
fn an_empty_list_says_so_and_is_valid_json() {
    let gateway = FakeGateway::start(|request| pages(request, 0, 7));
    let home = Home::new();
    home.ask(&gateway, &["list"]).code(0).says("There are no routes yet");
    home.ask(&gateway, &["list", "x"]).code(0).says("No route has \"x\" in its name");
    let list = home.ask(&gateway, &["list", "--json"]).code(0).json();
    assert_eq!(list, json!({"generation": 7, "routes": [], "more": false}));
}

#[test]
fn pages_may_be_shorter_than_asked_for() {
    // 30 routes of 100 KiB, which a gateway sends in pages that fit into a MiB.
    let gateway = FakeGateway::start(|request| {
        let mut list: RouteList = serde_json::from_value(pages(request, 30, 7)?).unwrap();
        list.more |= list.routes.len() > 9;
        list.routes.truncate(9);
        for route in &mut list.routes {
            route.settings.client_ca = Some("x".repeat(100 << 10));
        }
        Ok(serde_json::to_value(list).unwrap())
    });
    let run = Home::new().ask(&gateway, &["list", "--json"]).code(0);
    assert_eq!(run.json()["routes"].as_array().unwrap().len(), 30);
    assert_eq!(gateway.requests().len(), 4);
}

#[test]
fn a_list_that_breaks_off_is_not_valid_json() {
    let gateway = FakeGateway::start(|request| match request {
        Request::List { after: Some(_), .. } => {
            Err(refusal(RefusalCode::Internal, "the store is gone", "see the gateway's log"))
        }
        first => pages(first, 2500, 7),
    });
    let run = Home::new().ask(&gateway, &["list", "--json"]).code(1).complains("the store is gone");
    assert!(run.stdout.starts_with("{\n  \"generation\": 7"));
    assert!(serde_json::from_str::<Value>(&run.stdout).is_err());
    assert!(!run.stdout.contains("error"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let gateway = FakeGateway::start(|request| pages(request, 2500, 7));
    let home = Home::new();
    let mut child = home
        .command()
        .args(["--remote", &gateway.address.to_string(), "--key-file"])
        .arg(home.write("admin.key", KEY))
        .args(["list", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "{\n");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_gateway_that_announces_more_for_ever_is_given_up() {
    let gateway = FakeGateway::start(|_| {
        let route = json!({"name": "a.example.org", "settings": {"backends": ["10.0.0.7:80"]}});
        Ok(json!({"generation": 1, "routes": [route], "more": true}))
    });
    Home::new().ask(&gateway, &["list"]).code(3).complains("announces more entries and sends none");
    let gateway = FakeGateway::start(|_| {
        let generation = json!({"number": 5, "time": 0, "author": "a", "summary": "s"});
        Ok(json!({"generations": [generation], "more": true}))
    });
    Home::new().ask(&gateway, &["history", "--all"]).code(0).says("There are older ones");
}

#[test]
fn an_answer_of_another_version_is_not_taken_for_something_else() {
    let gateway = FakeGateway::start(|_| Ok(json!({"surprise": true})));
    Home::new().ask(&gateway, &["status"]).code(3).complains("different versions");
}

#[test]
fn an_export_can_be_applied_and_never_mixes_two_generations() {
    let home = Home::new();
    let steady = FakeGateway::start(|request| pages(request, 1500, 7));
    let text = home.ask(&steady, &["export"]).code(0).stdout;
    let document: Document = toml::from_str(&text).unwrap();
    assert_eq!(document.routes.len(), 1500);
    let json_text = home.ask(&steady, &["export", "--format", "json"]).code(0).stdout;
    assert_eq!(serde_json::from_str::<Document>(&json_text).unwrap(), document);
    assert_eq!(home.ask(&steady, &["export", "--json"]).code(0).stdout, json_text);

    // The generation moves once, between the two pages of the first attempt.
    let asked = std::sync::atomic::AtomicU64::new(0);
    let moving = FakeGateway::start(move |request| {
        let turn = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        pages(request, 1500, if turn == 0 { 7 } else { 8 })
    });
    let again: Document = toml::from_str(&home.ask(&moving, &["export"]).code(0).stdout).unwrap();
    assert_eq!(again, document);
    assert_eq!(moving.requests().len(), 4);

    let asked = std::sync::atomic::AtomicU64::new(0);
    let restless = FakeGateway::start(move |request| {
        pages(request, 1500, asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
    });
    let run = home.ask(&restless, &["export"]).code(1).complains("changed during each");
    assert_eq!(run.stdout, "");
}

fn certificate() -> Value {
    json!({
        "names": ["*.example.org", "example.org"], "issuer": "Demo CA", "not-before": 0,
        "not-after": 100, "sha256": "ab".repeat(32), "source": "file"
    })
}

fn route() -> Value {
    json!({"name": "blog.example.org", "settings": {
        "backends": ["10.0.0.7:80"], "proxy": "v2", "description": "evil\u{1b}[2Jtext"
    }})
}

/// One plausible answer to everything that only reads.
fn everything(request: &Request) -> Answer {
    Ok(match request {
        Request::Show { .. } => json!({
            "route": route(), "certificate": certificate(), "alpn": ["http/1.1"],
            "backends": [{"address": "10.0.0.7:80", "healthy": false, "open": 1, "total": 2,
                          "failures": 3, "last-error": "connection refused"}],
            "open": 1, "total": 2, "bytes-in": 3, "bytes-out": 4096
        }),
        Request::Status => json!({
            "name": "edge", "version": "0.1.0", "generation": 12, "routes": 3,
            "domains": ["example.org"], "uptime-seconds": 3700, "open": 5, "total": 6,
            "backends-down": 1, "certificates": [certificate()], "more-certificates": false, "control-refusals": 2,
            "pending": {"generation": 12, "seconds-left": 42},
            "storage": {"used": 1024, "capacity": 1_048_576},
            "route-memory": {"used": 2048, "limit": 2_097_152},
            "problems": ["the certificate for *.example.org has expired"]
        }),
        Request::History { before, limit } => {
            let newest = before.unwrap_or(26) - 1;
            let numbers = (1..=newest).rev().take(usize::try_from(*limit).unwrap());
            let generations: Vec<Value> = numbers
                .map(|n| json!({"number": n, "time": 1_700_000_000 + n, "author": "admin", "summary": "added x"}))
                .collect();
            let more = newest > u64::from(*limit);
            json!({"generations": generations, "more": more})
        }
        Request::Diff { from, to } => json!({
            "from": from, "to": to.unwrap_or(12), "more": false,
            "changes": [{"name": "blog.example.org", "after": route()}]
        }),
        Request::Why { name, .. } => json!({
            "server-name": name, "route": route(), "certificate": certificate(),
            "alpn": ["http/1.1"], "backend": "10.0.0.7:80",
            "steps": ["the name matches blog.example.org", "the certificate covers it"]
        }),
        Request::Check => json!({"more": false, "findings": [
            {"severity": "warning", "subject": "blog.example.org", "message": "h2 is offered", "advice": "do not"}
        ]}),
        // A gateway of before there were pages says nothing of more.
        Request::CertList { .. } => json!({"certificates": [certificate()]}),
        Request::CertShow { .. } => json!({"chain-pem": CHAIN}),
        Request::KeyList => json!({"keys": [
            {"id": "admin", "role": "admin", "created": 0},
            {"id": "team", "role": "names:*.team.example.org", "created": 1_700_000_000}
        ]}),
        Request::Top { .. } => crate::top::look(1000, 10),
        other => {
            return Err(refusal(RefusalCode::Internal, &format!("not scripted: {other:?}"), ""));
        }
    })
}

#[test]
fn everything_that_reads_prints_what_was_answered() {
    let gateway = FakeGateway::start(everything);
    let home = Home::new();
    let ask = |arguments: &[&str]| home.ask(&gateway, arguments).code(0);
    ask(&["show", "blog"])
        .says("blog.example.org")
        .says("proxy        v2")
        .says("down")
        .says("4.0 KiB out")
        .says("connection refused")
        .says("evil\\u{1b}[2Jtext")
        .complains("none of them up");
    ask(&["status"])
        .says("edge (tlstunnel 0.1.0)")
        .says("1h 1m")
        .says("undone in 42s unless: tlstunnel-ctl confirm")
        .says("2.0 KiB of 2.0 MiB for routes")
        .says("has expired")
        .says("*.example.org, example.org");
    ask(&["why", "blog", "--from", "192.0.2.1"])
        .says("1. the name matches")
        .says("2. the certificate covers");
    ask(&["diff"]).says("generation 11 → 12").says("+ blog.example.org");
    ask(&["diff", "3", "5"]).says("generation 3 → 5");
    ask(&["cert", "list"]).says("abababab").says("1970-01-01");
    ask(&["key", "list"]).says("given at start").says("names:*.team.example.org");
    ask(&["check"]).says("warning: blog.example.org: h2 is offered\n    do not");
    let run = ask(&["history", "-n", "3"]).says("There are older ones");
    assert_eq!(run.stdout.lines().count(), 5);
    let run = ask(&["history", "--all"]);
    assert_eq!(run.stdout.lines().count(), 26);
}

#[test]
fn why_asks_for_what_was_typed() {
    let gateway = FakeGateway::start(everything);
    let home = Home::new();
    home.ask(&gateway, &["why", "blog", "--from", "2001:db8::1"]).code(0);
    home.ask(&gateway, &["why", "--no-sni"]).code(0).says("(none sent)");
    assert_eq!(
        serde_json::to_value(gateway.requests()).unwrap(),
        json!([{"op": "why", "name": "blog", "from": "2001:db8::1"}, {"op": "why"}])
    );
}

#[test]
fn json_has_the_documented_shapes() {
    /// The output is the type, with nothing lost on the way.
    #[track_caller]
    fn shape<T: DeserializeOwned + serde::Serialize>(
        home: &Home,
        gateway: &FakeGateway,
        words: &str,
    ) {
        let mut arguments: Vec<&str> = words.split(' ').collect();
        arguments.push("--json");
        let run = home.ask(gateway, &arguments).code(0);
        let value: T = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(serde_json::to_value(&value).unwrap(), run.json(), "{words}");
        assert_eq!(run.stderr, "", "{words}");
    }
    let (home, gateway) = (Home::new(), FakeGateway::start(everything));
    shape::<RouteDetail>(&home, &gateway, "show blog");
    shape::<Status>(&home, &gateway, "status");
    shape::<History>(&home, &gateway, "history -n 2");
    shape::<History>(&home, &gateway, "history --all");
    shape::<Diff>(&home, &gateway, "diff 1");
    shape::<Why>(&home, &gateway, "why blog");
    shape::<Check>(&home, &gateway, "check");
    shape::<CertificateList>(&home, &gateway, "cert list");
    shape::<CertificateChain>(&home, &gateway, "cert show blog");
    shape::<KeyList>(&home, &gateway, "key list");
    shape::<Top>(&home, &gateway, "top");
}

const CHAIN: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n\
                     -----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n";

/// 2,500 certificates, of which a reply holds at most 900.
fn many_certificates(request: &Request) -> Answer {
    const ALL: usize = 2500;
    let page = |after: usize| {
        let infos = (after..ALL).take(900).map(|n| {
            let mut info = certificate();
            info["names"] = json!(["*.example.org", format!("{n}.example.org")]);
            info["sha256"] = json!(format!("{n:064}"));
            info
        });
        (infos.collect::<Vec<Value>>(), after + 900 < ALL)
    };
    match request {
        Request::Status => {
            let mut status = everything(request)?;
            let (certificates, more) = page(0);
            status["certificates"] = json!(certificates);
            status["more-certificates"] = json!(more);
            Ok(status)
        }
        Request::CertList { after, .. } => {
            let after = after.as_ref().map_or(0, |cursor| {
                assert_eq!(cursor.name, "*.example.org");
                cursor.sha256.parse::<usize>().unwrap() + 1
            });
            let (certificates, more) = page(after);
            Ok(json!({"certificates": certificates, "more": more}))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn certificates_come_in_pages() {
    let gateway = FakeGateway::start(many_certificates);
    let home = Home::new();
    let list = home.ask(&gateway, &["cert", "list", "--json"]).code(0).json();
    let status = home.ask(&gateway, &["status", "--json"]).code(0).json();
    for answer in [&list, &status] {
        let certificates = answer["certificates"].as_array().unwrap();
        assert_eq!(certificates.len(), 2500);
        let numbers = (0..2500).map(|n| format!("{n:064}"));
        assert!(certificates.iter().map(|c| c["sha256"].as_str().unwrap().to_owned()).eq(numbers));
    }
    assert_eq!((&list["more"], &status["more-certificates"]), (&json!(false), &json!(false)));
    let first = serde_json::to_value(&gateway.requests()[0]).unwrap();
    assert_eq!(first, json!({"op": "cert-list"}), "a gateway that knows no pages takes it too");
    let run = home.ask(&gateway, &["cert", "list"]).code(0);
    assert_eq!(run.stdout.lines().count(), 2501);
}

#[test]
fn a_certificate_is_printed_as_a_file_has_it() {
    let (home, gateway) = (Home::new(), FakeGateway::start(everything));
    assert_eq!(home.ask(&gateway, &["cert", "show", "blog"]).code(0).stdout, CHAIN);
    let last = home.ask(&gateway, &["cert", "show", "blog", "--last"]).code(0).stdout;
    assert_eq!(last, CHAIN[CHAIN.len() / 2..]);
}

#[test]
fn history_pages_stop_at_the_limit() {
    let gateway = FakeGateway::start(everything);
    let run = Home::new().ask(&gateway, &["history", "-n", "4", "--json"]).code(0);
    let history: History = serde_json::from_str(&run.stdout).unwrap();
    let numbers: Vec<u64> = history.generations.iter().map(|g| g.number).collect();
    assert_eq!((numbers, history.more), (vec![25, 24, 23, 22], true));
}

#[test]
fn check_fails_when_there_is_a_danger() {
    let gateway = FakeGateway::start(|_| {
        Ok(json!({"findings": [
            {"severity": "danger", "subject": "a.b", "message": "coalescing", "advice": "use http/1.1"}
        ]}))
    });
    let home = Home::new();
    let run = home.ask(&gateway, &["check"]).code(1).says("danger: a.b: coalescing");
    assert_eq!(run.stderr, "");
    let findings = home.ask(&gateway, &["check", "--json"]).code(1).json();
    assert_eq!(findings["findings"][0]["severity"], "danger");
    let calm = FakeGateway::start(|_| Ok(json!({"findings": []})));
    home.ask(&calm, &["check"]).code(0).says("Nothing dangerous");
}

#[test]
fn there_are_no_colours_in_a_pipe() {
    let gateway = FakeGateway::start(everything);
    let run = Home::new().ask(&gateway, &["status"]).code(0);
    assert!(!run.stdout.contains('\u{1b}'), "{run:?}");
}
