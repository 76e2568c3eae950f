//! Options that contradict each other or cannot be used: said at the start, with an exit code that tells wrong usage from a
//! start that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use acceptance::refused::{FAILED, USAGE, check};

const FIXED: [&str; 6] = [
    "--remote",
    "git://127.0.0.1:9/site.git",
    "--listen-http",
    "127.0.0.1:0",
    "--listen-https",
    "127.0.0.1:0",
];

#[test]
fn what_contradicts_itself_is_refused() {
    let program = Path::new(env!("CARGO_BIN_EXE_unipi"));
    check(
        program,
        &FIXED,
        &[
            ("--tls", USAGE, "--tls needs a --hostname"),
            ("--acme letsencrypt", USAGE, "--tls needs a --hostname"),
            (
                "--dns-server 192.0.2.1 --dns-key a._update.test:SHA256:AAECAwQFBgcICQoLDA0ODw==",
                USAGE,
                "--tls needs a --hostname",
            ),
            ("--production --hostname a.test", USAGE, "--tls"),
            (
                "--tls --production --acme letsencrypt --hostname a.test",
                USAGE,
                "cannot be used with",
            ),
            (
                "--tls --hostname a.test --acme-domain *.a.test",
                USAGE,
                "takes --acme-challenge dns-01",
            ),
            ("--self-signed-ca ca.pem", USAGE, "--self-signed"),
            ("--remote-ca a --remote-ca-pem b", USAGE, "cannot be used with"),
            ("--remote-ca /nonexistent/ca", FAILED, "/nonexistent/ca"),
            ("--remote-ca-pem nonsense", USAGE, "--remote-ca-pem: there is no certificate"),
            ("--control 127.0.0.1:0 --control-key short", USAGE, "--control-key: "),
            ("--cert a.pem", FAILED, "each certificate needs its key"),
            ("--no-such-option", USAGE, "--no-such-option"),
        ],
    );
}
