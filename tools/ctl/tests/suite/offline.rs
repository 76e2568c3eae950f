//! What needs no gateway: keys, contexts, completions, help; and the order of precedence where a gateway is named.

use std::os::unix::fs::PermissionsExt;

use config_proto::key::Key;
use serde_json::json;

use crate::support::{FakeGateway, Home, KEY, Run, changed, peer};

#[test]
fn a_generated_key_is_private_and_is_a_key() {
    let home = Home::new();
    home.run(&["key", "generate", "--out", "admin.key"]).code(0).says("--key-file admin.key");
    let file = home.path("admin.key");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(Key::from_file_text(&text).unwrap().secret().len(), 32);
    home.run(&["key", "generate", "--out", "admin.key"]).code(2).complains("exists already");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);

    let shown = home.run(&["key", "generate", "--key-id", "ops"]).code(0).stdout;
    assert!(shown.starts_with("ops:") && shown != text, "{shown}");
    assert!(Key::from_file_text(&shown).is_ok());
    let json = home.run(&["key", "generate", "--json"]).code(0).json();
    assert_eq!(json["id"], "admin");
    assert!(json["secret"].as_str().unwrap().parse::<Key>().is_ok());
}

#[test]
fn contexts_name_gateways() {
    let gateway = FakeGateway::start(|_| changed("done", None));
    let remote = gateway.address.to_string();
    let home = Home::new();
    home.write("home.key", KEY);
    home.run(&["context", "list"]).code(0).says("There are no contexts");
    home.run(&["context", "set", "home"]).code(2).complains("nothing to set");
    home.run(&["context", "set", "a b", "--remote", "a:1"]).code(2).complains("no name");
    home.run(&["context", "set", "home", "--remote", &remote, "--key-file", "home.key"])
        .code(0)
        .says("default");
    home.run(&["context", "set", "lab", "--remote", "127.0.0.1:1", "--key-id", "ops"]).code(0);

    // The first is the default; a relative key file works from everywhere.
    let mut elsewhere = home.command();
    Run::of(elsewhere.current_dir("/").args(["remove", "x"])).code(0).says("done");
    // Flags win over the environment, the environment over the default context.
    let run = |variables: &[(&str, &str)], arguments: &[&str]| {
        Run::of(home.command().envs(variables.iter().copied()).args(arguments))
    };
    run(&[("TLSTUNNEL_REMOTE", "127.0.0.1:1")], &["remove", "x"]).code(3);
    run(&[("TLSTUNNEL_REMOTE", "127.0.0.1:1")], &["remove", "x", "--remote", &remote]).code(0);
    run(&[("TLSTUNNEL_KEY_ID", "stranger")], &["remove", "x"]).code(4).complains("stranger");
    run(&[("TLSTUNNEL_KEY_FILE", "missing.key")], &["remove", "x"]).code(2).complains("missing");
    run(&[("TLSTUNNEL_CONTEXT", "moon")], &["remove", "x"]).code(2).complains("home, lab");
    run(&[("TLSTUNNEL_REMOTE", "127.0.0.1")], &["remove", "x"]).code(2).complains("HOST:PORT");
    // A context named by flag wins over the environment.
    run(&[("TLSTUNNEL_REMOTE", "127.0.0.1:1")], &["remove", "x", "--context", "home"]).code(0);

    home.run(&["context", "use", "moon"]).code(2).complains("home, lab");
    home.run(&["context", "use", "lab"]).code(0).says("now lab");
    let list = home.run(&["context", "list", "--json"]).code(0).json();
    assert_eq!(list["default"], "lab");
    assert_eq!(list["contexts"]["lab"], json!({"remote": "127.0.0.1:1", "key-id": "ops"}));
    home.run(&["context", "list"]).code(0).says("* ").says("lab");
    home.run(&["context", "remove", "lab"]).code(0).says("no default one");
    home.run(&["remove", "x"]).code(2).complains("no key file is named");
}

#[test]
fn the_contexts_follow_xdg_config_home() {
    let home = Home::new();
    let folder = home.path("config");
    let mut command = home.command();
    command.env("XDG_CONFIG_HOME", &folder).args(["context", "set", "a", "--remote", "a:1"]);
    Run::of(&mut command).code(0);
    assert!(folder.join("tlstunnel/ctl.toml").exists());
}

#[test]
fn a_broken_context_file_is_named() {
    let home = Home::new();
    std::fs::create_dir_all(home.path(".config/tlstunnel")).unwrap();
    home.write(".config/tlstunnel/ctl.toml", "[contexts.a]\nkeyfile = 'x'\n");
    home.run(&["status"]).code(2).complains("ctl.toml is not valid").complains("keyfile");
}

#[test]
fn every_shell_has_completions() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.run(&["completions", shell]).code(0).stdout;
        assert!(script.contains("half-closed-timeout"), "{shell} does not know every option");
    }
    let script = home.run(&["completions", "bash"]).code(0).stdout;
    assert!(script.contains("terminate passthrough reencrypt reject"));
    let file = home.write("completions.bash", &script);
    if peer("bash") {
        let mut bash = std::process::Command::new("bash");
        Run::of(bash.arg("-n").arg(file)).code(0);
    }
    home.run(&["completions", "cobol"]).code(2);
}

#[test]
fn help_is_no_failure_and_shows_the_exit_codes() {
    let home = Home::new();
    home.run(&["--help"]).code(0).says("Exit codes:").says("4  not authenticated");
    home.run(&["add", "--help"]).code(0).says("Examples:").says("--half-closed-timeout");
    home.run(&["--version"]).code(0).says("tlstunnel-ctl ");
    home.run(&[]).code(2);
}
