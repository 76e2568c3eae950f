//! The real acme-dns, where there is one: `ACME_DNS` names the program. No distribution packages it, so that tests go without
//! it where it is not named.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::peer::Process;

/// A running server with an empty database; dropping it kills it.
#[derive(Debug)]
pub struct AcmeDns {
    folder: TempDir,
    api: SocketAddr,
    _process: Process,
}

impl AcmeDns {
    /// The program, if there is one; that there is none is said.
    pub fn program() -> Option<PathBuf> {
        let program = std::env::var_os("ACME_DNS").map(PathBuf::from);
        if program.is_none() {
            println!("SKIPPED: ACME_DNS names no acme-dns server");
        }
        program
    }

    /// Starts `program`, which answers for `domain` at `ip`, port 53, and is that domain's name server by its own name.
    /// Port 53 must be free there.
    ///
    /// # Panics
    /// If it does not come up; its log is in the message.
    pub fn start(program: PathBuf, domain: &str, ip: IpAddr) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let free = TcpListener::bind((ip, 0)).and_then(|listener| listener.local_addr());
        let api = free.expect("a free port");
        let database = folder.path().join("database");
        let config = format!(
            "[general]\nlisten = \"{ip}:53\"\nprotocol = \"both4\"\ndomain = \"{domain}\"\nnsname = \"{domain}\"\n\
             nsadmin = \"admin.{domain}\"\nrecords = [\"{domain}. A {ip}\", \"{domain}. NS {domain}.\"]\n\
             debug = false\n[database]\nengine = \"sqlite3\"\nconnection = \"{}\"\n\
             [api]\nip = \"{ip}\"\ndisable_registration = false\nport = \"{}\"\ntls = \"none\"\n\
             corsorigins = [\"*\"]\nuse_header = false\nheader_name = \"\"\n\
             [logconfig]\nloglevel = \"debug\"\nlogtype = \"stdout\"\nlogformat = \"text\"\n",
            database.display(),
            api.port(),
        );
        let file = folder.path().join("config");
        std::fs::write(&file, config).expect("written");
        let mut command = Command::new(program);
        command.arg("-c").arg(&file).current_dir(folder.path());
        let log = folder.path().join("log");
        let mut process = Process::start(&mut command, &log);
        process.wait_until_up(&log, || TcpStream::connect(api).ok());
        Self { folder, api, _process: process }
    }

    /// Its address, as options take it.
    pub fn url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}
