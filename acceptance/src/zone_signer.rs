//! The helper of the original's way to certificates, played: it looks for requests in a zone, signs them with `openssl`,
//! and puts the chain into the zone with `nsupdate`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::name_server::{NameServer, dig};
use crate::peer::{available, run};

/// An authority with an intermediate, and its files.
#[derive(Debug)]
pub struct ZoneSigner {
    folder: TempDir,
}

impl ZoneSigner {
    /// Whether the programs are there.
    pub fn available() -> bool {
        available(&["openssl", "nsupdate", "dig"])
    }

    /// Makes the authority.
    ///
    /// # Panics
    /// If `openssl` cannot.
    pub fn new() -> Self {
        let signer = Self { folder: tempfile::tempdir().expect("temporary folder") };
        for name in ["root", "middle"] {
            signer.openssl(&[
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-out",
                &format!("{name}.key"),
            ]);
        }
        let ca = ["-addext", "basicConstraints=critical,CA:TRUE", "-days", "3650"];
        signer.openssl(
            &[
                &["req", "-x509", "-key", "root.key", "-out", "root.pem", "-subj", "/CN=root"],
                &ca[..],
            ]
            .concat(),
        );
        let middle =
            ["req", "-x509", "-key", "middle.key", "-out", "middle.pem", "-subj", "/CN=middle"];
        let above = ["-CA", "root.pem", "-CAkey", "root.key"];
        signer.openssl(&[&middle[..], &above, &ca].concat());
        signer
    }

    /// The root that clients trust.
    pub fn root_file(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// The request that stands in the zone for `host`, as DER.
    pub fn request(&self, server: &NameServer, host: &str) -> Option<Vec<u8>> {
        let answer = dig(server.address(), &["+short", "+tcp", "+nosplit", &place(host), "TLSA"]);
        let request = answer.lines().find_map(|line| line.strip_prefix("3 255 0 "))?;
        let digits: String = request.split_whitespace().collect();
        let bytes =
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16));
        Some(bytes.collect::<Result<_, _>>().expect("hexadecimal digits"))
    }

    /// What `openssl` says of a request.
    pub fn describe(&self, request: &[u8]) -> String {
        std::fs::write(self.folder.path().join("request.der"), request).expect("written");
        self.openssl(&["req", "-inform", "DER", "-in", "request.der", "-noout", "-text", "-verify"])
    }

    /// Signs a request, for so many days from now. Gives the certificate as DER.
    pub fn sign(&self, request: &[u8], days: u32) -> Vec<u8> {
        std::fs::write(self.folder.path().join("request.der"), request).expect("written");
        self.openssl(&[
            "x509",
            "-req",
            "-inform",
            "DER",
            "-in",
            "request.der",
            "-copy_extensions",
            "copy",
            "-CA",
            "middle.pem",
            "-CAkey",
            "middle.key",
            "-days",
            &days.to_string(),
            "-outform",
            "DER",
            "-out",
            "leaf.der",
        ]);
        std::fs::read(self.folder.path().join("leaf.der")).expect("written")
    }

    /// The certificates above those it signs, as DER.
    pub fn authorities(&self) -> Vec<Vec<u8>> {
        let der = |name: &str| {
            self.openssl(&[
                "x509",
                "-in",
                &format!("{name}.pem"),
                "-outform",
                "DER",
                "-out",
                "ca.der",
            ]);
            std::fs::read(self.folder.path().join("ca.der")).expect("written")
        };
        vec![der("root"), der("middle")]
    }

    /// Adds records for `host`: usage, selector, and DER.
    ///
    /// # Panics
    /// If the server does not take them.
    pub fn put(&self, server: &NameServer, host: &str, records: &[(u8, u8, Vec<u8>)]) {
        let lines = records.iter().map(|(usage, selector, der)| {
            let digits: String = der.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("update add {} 3600 TLSA {usage} {selector} 0 {digits}\n", place(host))
        });
        server.update(&lines.collect::<String>());
    }

    /// Answers the request that stands there, as the helper does.
    ///
    /// # Panics
    /// If there is none.
    pub fn answer(&self, server: &NameServer, host: &str, days: u32) {
        let request = self.request(server, host).expect("a request");
        let mut records = vec![(3, 0, self.sign(&request, days))];
        records.extend(self.authorities().into_iter().map(|der| (0, 0, der)));
        self.put(server, host, &records);
    }

    fn openssl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("openssl");
        command.current_dir(self.folder.path()).args(arguments);
        let output = run(&mut command, b"", Duration::from_secs(30));
        assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Default for ZoneSigner {
    fn default() -> Self {
        Self::new()
    }
}

/// Where the records of a host stand.
pub fn place(host: &str) -> String {
    format!("_letsencrypt._tcp.{host}")
}
