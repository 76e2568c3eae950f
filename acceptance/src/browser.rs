//! Headless Chromium with the gateway's development CA in its trust store.

use std::process::Command;
use std::time::Duration;

use crate::gateway::{DOMAIN, Gateway};
use crate::peer::run;

const CERTUTIL_LIMIT: Duration = Duration::from_secs(30);
const BROWSER_LIMIT: Duration = Duration::from_secs(120);

/// Loads `url` and gives the document as it is after scripts and fetches have run. Needs the peers `chromium` and
/// `certutil` (Debian: libnss3-tools).
///
/// # Panics
/// If either of them fails.
pub fn dump_dom(gateway: &Gateway, url: &str) -> String {
    let mut chromium = chromium(gateway);
    chromium.args(["--virtual-time-budget=8000", "--dump-dom", url]);
    let output = run(&mut chromium, b"", BROWSER_LIMIT);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The browser, without a window, with a profile that lasts as long as the gateway. Needs the peers of [`dump_dom`].
///
/// # Panics
/// If `certutil` fails.
pub fn chromium(gateway: &Gateway) -> Command {
    // Chromium trusts what its user's NSS database trusts.
    let home = gateway.folder().join("home");
    let database = home.join(".pki/nssdb");
    if !database.exists() {
        std::fs::create_dir_all(&database).expect("a folder");
        let database = format!("sql:{}", database.display());
        let ca = gateway.ca_file();
        let ca = ca.to_str().expect("UTF-8");
        for arguments in
            [&["-N", "--empty-password"][..], &["-A", "-n", "demonstration", "-t", "C,,", "-i", ca]]
        {
            let mut certutil = Command::new("certutil");
            certutil.args(["-d", &database]).args(arguments);
            let output = run(&mut certutil, b"", CERTUTIL_LIMIT);
            assert!(output.status.success(), "certutil {arguments:?}: {output:?}");
        }
    }
    let mut chromium = Command::new("chromium");
    chromium.env("HOME", &home).args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]);
    // Names below localhost lead to this machine by themselves; a unikernel is somewhere else.
    chromium.arg(format!("--host-resolver-rules=MAP *.{DOMAIN} {}", gateway.https.ip()));
    chromium.arg(format!("--user-data-dir={}", home.join("profile").display()));
    chromium
}
