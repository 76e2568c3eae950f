//! Options that a program refuses: what every program that obtains certificates has in common, and how it is looked at.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::peer::run;

/// The exit code for wrong usage (sysexits(3), `EX_USAGE`).
pub const USAGE: i32 = 64;
/// The exit code of a start that fails.
pub const FAILED: i32 = 1;

/// Options about certificates, the exit code, and what is said.
const CERTIFICATES: [(&str, i32, &str); 35] = [
    ("--acme http://ca.example/dir", USAGE, "no ACME directory"),
    ("--acme letsencrypt --acme-challenge dns-02", USAGE, "no challenge that can be answered"),
    ("--acme letsencrypt --acme-key-type dsa", USAGE, "no type of key"),
    ("--acme letsencrypt --acme-eab kid", USAGE, "KID:KEY"),
    ("--acme letsencrypt --acme-ca a --acme-ca-pem b", USAGE, "cannot be used with"),
    ("--acme-ca ca.pem", USAGE, "--acme <DIRECTORY>"),
    ("--acme-ca-pem PEM", USAGE, "--acme <DIRECTORY>"),
    ("--dns-server 192.0.2.1", USAGE, "--dns-key"),
    ("--dns-key a:SHA256:AAECAwQFBgcICQoLDA0ODw==", USAGE, "--dns-server"),
    ("--dns-server ns1.test --dns-key a:SHA256:AAECAwQFBgcICQoLDA0ODw==", USAGE, "IP address"),
    ("--dns-server 192.0.2.1 --dns-key a:MD5:AAECAwQFBgcICQoLDA0ODw==", USAGE, "MD5"),
    ("--key-seed seed", USAGE, "--dns-server"),
    ("--dns-hook hook.test", USAGE, "no address of a hook"),
    ("--dns-hook-auth text", USAGE, "--dns-hook"),
    ("--dns-hook https://a.test --dns-hook-acme-dns https://b.test", USAGE, "cannot be used with"),
    (
        "--dns-hook https://a.test --dns-server 192.0.2.1 --dns-key a:SHA256:AAECAwQFBgcICQoLDA0ODw==",
        USAGE,
        "cannot be used with",
    ),
    ("--acme-dns-listen 127.0.0.1:0", USAGE, "--acme-dns-zone"),
    ("--acme-dns-listen 127.0.0.1:0 --acme-dns-zone a.test", USAGE, "--acme-dns-name-server"),
    ("--acme-dns-zone a.test", USAGE, "--acme-dns-listen"),
    ("--acme-domain *.*.test", USAGE, "*.*.test"),
    ("--acme-challenge dns-01", USAGE, "--acme-challenge is about certificates from an authority"),
    ("--acme-domain a.test", USAGE, "--acme-domain is about certificates from an authority"),
    ("--acme-profile shortlived", USAGE, "--acme-profile is about certificates"),
    ("--dns-hook https://a.test", USAGE, "--dns-hook is about certificates"),
    (
        "--acme letsencrypt --dns-server 192.0.2.1 --dns-key a:SHA256:AAECAwQFBgcICQoLDA0ODw==",
        USAGE,
        "--dns-server makes TXT records, which http-01 does not use",
    ),
    (
        "--acme letsencrypt --acme-challenge tls-alpn-01 --dns-hook https://a.test",
        USAGE,
        "--dns-hook makes TXT records, which tls-alpn-01 does not use",
    ),
    (
        "--acme letsencrypt --acme-domain *.a.test",
        USAGE,
        "a certificate for *.a.test takes --acme-challenge dns-01",
    ),
    (
        "--acme letsencrypt --acme-challenge dns-01 --acme-domain a.test",
        USAGE,
        "dns-01 needs a way to make TXT records",
    ),
    (
        "--acme https://127.0.0.1:9/dir --acme-ca /nonexistent/ca.pem --acme-domain a.test",
        FAILED,
        "cannot read /nonexistent/ca.pem",
    ),
    (
        "--acme https://127.0.0.1:9/dir --acme-ca-pem nonsense --acme-domain a.test",
        FAILED,
        "there is no certificate",
    ),
    ("--cert-pem a", FAILED, "1 --cert-pem and 0 --cert-key-pem: each certificate needs its key"),
    ("--cert-pem=nonsense --cert-key-pem=nonsense", FAILED, "--cert-pem: "),
    ("--storage-key-file a --storage-key b", USAGE, "cannot be used with"),
    ("--storage-key-file-old a", USAGE, "give the new one with --storage-key-file"),
    ("--storage-key-file /nonexistent/key", FAILED, "/nonexistent/key cannot be read"),
];

/// Starts `program` with the `fixed` options and each of [`CERTIFICATES`] and of its `own` sets, and looks at its exit code
/// and what it says. What is said on wrong usage leaves nothing behind: no `storage`.
///
/// # Panics
/// If it starts, ends differently, or says something else.
pub fn check(program: &Path, fixed: &[&str], own: &[(&str, i32, &str)]) {
    for (set, code, expected) in CERTIFICATES.iter().chain(own) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let storage = folder.path().join("storage");
        let mut command = Command::new(program);
        command.current_dir(folder.path()).args(fixed).arg("--storage").arg(&storage);
        command.args(set.split(' ').filter(|word| !word.is_empty()));
        let output = run(&mut command, b"", Duration::from_secs(30));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(*code), "{set}: {said}");
        assert!(said.contains(expected), "{set}: {said}");
        assert!(!said.contains("panicked") && !said.contains("serving"), "{set}: {said}");
        assert!(*code != USAGE || !storage.exists(), "{set}: it has begun its work");
    }
}
