//! Commands that change: what exactly is asked for, and that no secret gets lost or seen.

use std::os::unix::fs::PermissionsExt;

use config_proto::message::{KeyAdded, RefusalCode, Request, RevocationReason, Sealed};
use serde_json::{Value, json};

use crate::support::{Answer, FakeGateway, Home, Run, changed, refusal};

const ROUTES: &str = "# our names\n[routes.\"blog.example.org\"]\nbackends = [\"10.0.0.7:80\"]\n";

fn applied(request: &Request) -> Answer {
    let Request::Apply { dry_run, confirm_seconds, .. } = request else {
        return changed("confirmed", None);
    };
    let route = |port: u16| json!({"name": "blog.example.org", "settings": {"backends": [format!("10.0.0.7:{port}")]}});
    Ok(json!({
        "generation": 13, "applied": !dry_run, "connections": 2, "confirm-seconds": confirm_seconds,
        "diff": {"from": 12, "to": 13, "more": false, "changes": [
            {"name": "blog.example.org", "before": route(79), "after": route(80)}]}
    }))
}

#[test]
fn apply_shows_the_difference_and_how_to_confirm() {
    let gateway = FakeGateway::start(applied);
    let home = Home::new();
    home.write("routes.toml", ROUTES);
    home.ask(&gateway, &["apply", "-f", "routes.toml", "--confirm", "1m"])
        .code(0)
        .says("~ blog.example.org\n    backends  10.0.0.7:79 → 10.0.0.7:80\n")
        .says("Changed 1 route (generation 13).")
        .says("2 open connections on these routes go on")
        .says("undone in 1m unless you type: tlstunnel-ctl confirm 13");
    assert_eq!(
        gateway.request(),
        json!({
            "op": "apply", "dry_run": false, "confirm_seconds": 60,
            "document": {"routes": {"blog.example.org": {"backends": ["10.0.0.7:80"]}}}
        })
    );
}

#[test]
fn a_dry_run_says_that_nothing_was_done() {
    let gateway = FakeGateway::start(applied);
    let home = Home::new();
    home.write("routes.toml", ROUTES);
    home.ask(&gateway, &["apply", "-f", "routes.toml", "--dry-run"])
        .code(0)
        .says("Would change 1 route; nothing was done");
    assert_eq!(gateway.request()["dry_run"], true);
}

#[test]
fn apply_reads_json_and_standard_input() {
    let gateway = FakeGateway::start(applied);
    let home = Home::new();
    let document = r#"{"routes": {"blog.example.org": {"backends": ["10.0.0.7:80"]}}}"#;
    home.write("routes.json", document);
    home.ask(&gateway, &["apply", "-f", "routes.json"]).code(0);
    // Without an ending, the content decides.
    for text in [document, ROUTES] {
        let input = std::fs::File::open(home.write("plain", text)).unwrap();
        let key = home.write("admin.key", crate::support::KEY);
        let mut command = home.command();
        command.args(["--remote", &gateway.address.to_string(), "--key-file"]).arg(key);
        Run::of(command.args(["apply", "-f", "-"]).stdin(input)).code(0);
    }
    let requests = gateway.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| *request == requests[0]), "{requests:?}");
}

#[test]
fn a_slip_in_the_file_is_shown_with_its_line() {
    let gateway = FakeGateway::start(applied);
    let home = Home::new();
    home.write("routes.toml", &ROUTES.replace("backends", "backend"));
    home.ask(&gateway, &["apply", "-f", "routes.toml"])
        .code(2)
        .complains("routes.toml is not valid")
        .complains("line 3")
        .complains("backend");
    home.write("routes.toml", &ROUTES.replace(":80", ""));
    home.ask(&gateway, &["apply", "-f", "routes.toml"]).code(2).complains("has no port");
    assert_eq!(gateway.requests(), []);
}

#[test]
fn a_document_that_no_request_can_hold_is_refused_here() {
    let gateway = FakeGateway::start(applied);
    let home = Home::new();
    let long = "x".repeat(17 << 20);
    home.write("routes.toml", &format!("{ROUTES}description = \"{long}\"\n"));
    home.ask(&gateway, &["apply", "-f", "routes.toml"])
        .code(2)
        .complains("too much for one request");
    assert_eq!(gateway.requests(), []);
}

#[test]
fn confirm_finds_the_generation_that_waits() {
    let status = |pending: Value| {
        json!({
            "name": "edge", "version": "0.1.0", "generation": 13, "routes": 3, "domains": [],
            "uptime-seconds": 1, "open": 0, "total": 0, "backends-down": 0, "certificates": [],
            "control-refusals": 0, "pending": pending, "storage": {"used": 0, "capacity": 0}
        })
    };
    let gateway = FakeGateway::start(move |request| match request {
        Request::Status => Ok(status(json!({"generation": 13, "seconds-left": 9}))),
        _ => changed("generation 13 is kept", None),
    });
    let home = Home::new();
    home.ask(&gateway, &["confirm"]).code(0).says("is kept");
    assert_eq!(gateway.requests()[1], Request::Confirm { generation: 13 });
    home.ask(&gateway, &["confirm", "12"]).code(0);
    assert_eq!(gateway.requests()[2], Request::Confirm { generation: 12 });
    let idle = FakeGateway::start(move |_| Ok(status(Value::Null)));
    home.ask(&idle, &["confirm"]).code(1).complains("no change waits for confirmation");
}

#[test]
fn rollback_and_removals_ask_for_what_was_typed() {
    let gateway = FakeGateway::start(|_| changed("done", None));
    let home = Home::new();
    home.ask(&gateway, &["rollback", "7"]).code(0).says("done (generation 13)");
    home.ask(&gateway, &["rm", "*.apps.example.org"]).code(0);
    home.ask(&gateway, &["key", "remove", "team"]).code(0);
    assert_eq!(
        gateway.requests(),
        [
            Request::Rollback { generation: 7 },
            Request::Remove { name: "*.apps.example.org".to_owned() },
            Request::KeyRemove { id: "team".to_owned() },
        ]
    );
}

#[test]
fn a_certificate_and_its_key_are_sent_and_not_confused() {
    let certificate = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
    let private = "-----BEGIN PRIVATE KEY-----\nBB==\n-----END PRIVATE KEY-----\n";
    let gateway = FakeGateway::start(|_| changed("the certificate is served", None));
    let home = Home::new();
    home.write("cert.pem", certificate);
    home.write("key.pem", private);
    home.ask(&gateway, &["cert", "set", "--cert", "key.pem", "--key", "cert.pem"])
        .code(2)
        .complains("key.pem is no PEM file with a CERTIFICATE: it has PRIVATE KEY");
    assert_eq!(gateway.requests(), []);
    home.ask(&gateway, &["cert", "set", "--cert", "cert.pem", "--key", "key.pem"]).code(0);
    let sent =
        Request::CertSet { chain_pem: certificate.to_owned(), key_pem: Sealed(private.to_owned()) };
    assert_eq!(gateway.requests(), [sent]);
}

#[test]
fn what_the_authority_shall_do_is_asked_of_the_gateway() {
    let gateway = FakeGateway::start(|_| changed("noted", None));
    let home = Home::new();
    home.ask(&gateway, &["cert", "renew", "blog"]).code(0);
    home.ask(&gateway, &["cert", "revoke", "blog"]).code(0);
    home.ask(&gateway, &["cert", "revoke", "blog", "--reason", "key-compromise"]).code(0);
    home.ask(&gateway, &["cert", "account", "rollover"]).code(0);
    home.ask(&gateway, &["cert", "revoke", "blog", "--reason", "boredom"]).code(2);
    let name = || "blog".to_owned();
    let sent = [
        Request::CertRenew { name: name() },
        Request::CertRevoke { name: name(), reason: RevocationReason::Unspecified },
        Request::CertRevoke { name: name(), reason: RevocationReason::KeyCompromise },
        Request::CertRollOver,
    ];
    assert_eq!(gateway.requests(), sent);
}

const SECRET: &str = "ICEiIyQlJicoKSorLC0uLw==";

fn key_added(request: &Request) -> Answer {
    match request {
        Request::KeyAdd { id, .. } => Ok(json!({"generation": 13, "id": id, "secret": SECRET})),
        _ => Err(refusal(RefusalCode::Internal, "not scripted", "")),
    }
}

#[test]
fn a_new_keys_secret_goes_to_a_private_file_and_nowhere_else() {
    let gateway = FakeGateway::start(key_added);
    let home = Home::new();
    let arguments =
        ["key", "add", "team", "--role", "names:*.team.example.org", "--out", "team.key"];
    let run = home.ask(&gateway, &arguments).code(0).says("--key-file team.key");
    assert!(!format!("{run:?}").contains(SECRET));
    assert_eq!(
        gateway.request(),
        json!({"op": "key-add", "id": "team", "role": "names:*.team.example.org"})
    );
    let file = home.path("team.key");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("team:{SECRET}\n"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    // A file that is there may be a key in use: no request, no change.
    home.ask(&gateway, &arguments).code(2).complains("exists already");
    assert_eq!(gateway.requests().len(), 1);

    let run = home
        .ask(&gateway, &["key", "add", "b", "--role", "viewer", "--out", "b.key", "--json"])
        .code(0);
    assert_eq!(run.json(), json!({"generation": 13, "id": "b", "file": "b.key"}));
}

#[test]
fn a_new_keys_secret_is_shown_once_without_a_file() {
    let gateway = FakeGateway::start(key_added);
    let home = Home::new();
    let arguments = ["key", "add", "team", "--role", "viewer"];
    home.ask(&gateway, &arguments).code(0).says(&format!("\nteam:{SECRET}\n"));
    let run = home.ask(&gateway, &[&arguments[..], &["--json"]].concat()).code(0);
    let added: KeyAdded = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(added.secret.0, SECRET);
}

#[test]
fn a_refused_key_leaves_no_file() {
    let gateway = FakeGateway::start(|_| {
        Err(refusal(RefusalCode::Forbidden, "this key may not do that", "an admin key is needed"))
    });
    let home = Home::new();
    home.ask(&gateway, &["key", "add", "x", "--role", "admin", "--out", "x.key"])
        .code(1)
        .complains("an admin key is needed");
    assert!(!home.path("x.key").exists());
}
