//! Options of the gateway that contradict each other or cannot be used: said at the start, with an exit code that tells wrong
//! usage from a start that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use acceptance::programs::program;
use acceptance::refused::{FAILED, USAGE, check};

const FIXED: [&str; 6] =
    ["--listen-https", "127.0.0.1:0", "--listen-http", "127.0.0.1:0", "--control", "127.0.0.1:0"];

#[test]
fn what_contradicts_itself_is_refused() {
    check(
        &program("tlstunnel"),
        &FIXED,
        &[
            ("--acme-on-demand", USAGE, "--acme <DIRECTORY>"),
            (
                "--dns-server 192.0.2.1 --dns-key a._update.test:SHA256:AAECAwQFBgcICQoLDA0ODw==",
                USAGE,
                "obtains certificates for --domains, and there is none",
            ),
            ("--key short", USAGE, "--key"),
            ("--key short --key-file file", USAGE, "cannot be used with"),
            ("--cert a.pem", FAILED, "each certificate needs its key"),
            ("--cert /nonexistent.pem --cert-key b.pem", FAILED, "cannot read /nonexistent.pem"),
            ("--no-such-option", USAGE, "--no-such-option"),
        ],
    );
}
