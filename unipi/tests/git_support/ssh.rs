//! The real OpenSSH server, for one user and one key, on a port of its own.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use acceptance::unikernel::backend_address;
use unipi::git::{HostKeyPin, SshIdentity};

const SSHD: &str = "/usr/sbin/sshd";

pub struct Server {
    pub address: SocketAddr,
    pub identity: SshIdentity,
    /// `SHA256:` and base64 of the host key.
    pub fingerprint: String,
    pub user: String,
}

/// Whether there is an SSH server to test with.
pub fn available() -> bool {
    super::have("ssh-keygen") && super::have(SSHD)
}

fn keygen(directory: &Path, name: &str, arguments: &[&str]) -> String {
    let file = directory.join(name);
    let status = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-C", "", "-f"])
        .arg(&file)
        .args(arguments)
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read_to_string(file.with_extension("pub")).unwrap()
}

impl Server {
    /// A server whose client key has type `key` (`ed25519`, `rsa`); it passes the protocol's version on if `modern`.
    pub fn start(directory: &Path, key: &str, modern: bool) -> Self {
        let ssh = directory.join(format!("ssh-{key}-{modern}"));
        std::fs::create_dir(&ssh).unwrap();
        let host = keygen(&ssh, "host", &["-t", "ed25519"]);
        let client = keygen(&ssh, "client", &["-t", key]);
        std::fs::write(ssh.join("authorized_keys"), client).unwrap();
        let shown = Command::new("ssh-keygen").arg("-lf").arg(ssh.join("host.pub")).output();
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
        let fingerprint = shown.split(' ').nth(1).unwrap().to_owned();
        let accept = if modern { "AcceptEnv GIT_PROTOCOL\n" } else { "" };
        let config = format!(
            "HostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n{accept}",
            ssh.display()
        );
        let config_file = ssh.join("config");
        std::fs::write(&config_file, config).unwrap();
        let _ = std::fs::create_dir_all("/run/sshd");
        let listener = TcpListener::bind((backend_address(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let output = OwnedFd::from(stream.try_clone().unwrap());
                let child = Command::new(SSHD)
                    .args(["-i", "-f"])
                    .arg(&config_file)
                    .stdin(OwnedFd::from(stream))
                    .stdout(output)
                    .stderr(Stdio::null())
                    .spawn();
                std::thread::spawn(move || child.unwrap().wait());
            }
        });
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let private_key = std::fs::read_to_string(ssh.join("client")).unwrap();
        Self {
            address,
            identity: SshIdentity {
                private_key: private_key.into(),
                host_key: HostKeyPin::PublicKey(host.trim().to_owned()),
            },
            fingerprint,
            user: String::from_utf8(user).unwrap().trim().to_owned(),
        }
    }
}
