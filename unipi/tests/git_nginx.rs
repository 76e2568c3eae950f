//! The way that people serve git over HTTP: nginx, fcgiwrap and the real `git http-backend`; in clear text, over TLS, and
//! with a password.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod git_support;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use git_support::{Repository, assert_shows, fetch, fetch_new, git, remote};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use unipi::git::{FetchError, Fetched, Remote};

const CONFIGURATION: &str = "
daemon off;
master_process off;
pid FOLDER/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path FOLDER/t1; proxy_temp_path FOLDER/t2; fastcgi_temp_path FOLDER/t3;
    uwsgi_temp_path FOLDER/t4; scgi_temp_path FOLDER/t5;
    ssl_certificate FOLDER/cert.pem; ssl_certificate_key FOLDER/key.pem;
    server {
        listen 127.0.0.1:CLEAR;
        listen 127.0.0.1:TLS ssl;
        location /old/ { return 302 $scheme://$http_host/open/site.git/info/refs?$args; }
        location ~ ^/open(/.*)$ { set $path $1; include FOLDER/git.conf; }
        location ~ ^/closed(/.*)$ {
            auth_basic closed; auth_basic_user_file FOLDER/passwords;
            set $path $1; include FOLDER/git.conf;
        }
    }
}
";

/// As the manual of git-http-backend has it.
const GIT: &str = "
fastcgi_param SCRIPT_FILENAME BACKEND;
fastcgi_param GIT_PROJECT_ROOT BASE;
fastcgi_param GIT_HTTP_EXPORT_ALL 1;
fastcgi_param GIT_PROTOCOL $http_git_protocol;
fastcgi_param PATH_INFO $path;
fastcgi_param REQUEST_METHOD $request_method;
fastcgi_param QUERY_STRING $query_string;
fastcgi_param CONTENT_TYPE $content_type;
fastcgi_param CONTENT_LENGTH $content_length;
fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
fastcgi_param REMOTE_USER $remote_user;
fastcgi_pass unix:FOLDER/fcgi;
";

/// A process that is killed when the value is dropped.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Server {
    _peers: [Peer; 2],
    clear: u16,
    tls: u16,
    roots: Arc<rustls::RootCertStore>,
}

impl Server {
    fn start(folder: &Path, base: &Path) -> Self {
        let (clear, tls) = (port(), port());
        let made = Command::new("openssl")
            .current_dir(folder)
            .args(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
                    .split(' '),
            )
            .args("-keyout key.pem -out cert.pem -subj /CN=git".split(' '))
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        // The password is "open sesame", as `openssl passwd` would have it.
        std::fs::write(folder.join("passwords"), "ali:{PLAIN}open sesame\n").unwrap();
        let backend = Path::new(&git(base, &["--exec-path"])).join("git-http-backend");
        let fill = |text: &str| {
            text.replace("FOLDER", folder.to_str().unwrap())
                .replace("BACKEND", backend.to_str().unwrap())
                .replace("BASE", base.to_str().unwrap())
                .replace("CLEAR", &clear.to_string())
                .replace("TLS", &tls.to_string())
        };
        std::fs::write(folder.join("nginx.conf"), fill(CONFIGURATION)).unwrap();
        std::fs::write(folder.join("git.conf"), fill(GIT)).unwrap();
        let log =
            || std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let start = |command: &mut Command| {
            Peer(command.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn().unwrap())
        };
        let socket = format!("unix:{}", folder.join("fcgi").display());
        let fcgi = start(
            Command::new("fcgiwrap")
                .args(["-c", "4", "-s", &socket])
                .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
                .env("HOME", folder)
                .env("GIT_CONFIG_GLOBAL", "/dev/null"),
        );
        until("fcgiwrap listens", || folder.join("fcgi").exists());
        let nginx = start(
            Command::new("nginx")
                .args(["-e", "stderr", "-g", "user root;"])
                .arg("-p")
                .arg(folder)
                .arg("-c")
                .arg(folder.join("nginx.conf")),
        );
        until("nginx listens", || TcpStream::connect(("127.0.0.1", tls)).is_ok());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap()).unwrap();
        Self { _peers: [fcgi, nginx], clear, tls, roots: Arc::new(roots) }
    }

    fn clear(&self, path: &str) -> Remote {
        remote(&format!("http://127.0.0.1:{}{path}", self.clear))
    }

    fn secure(&self, user: &str, path: &str) -> Remote {
        let mut remote = remote(&format!("https://{user}127.0.0.1:{}{path}", self.tls));
        remote.roots = Some(Arc::clone(&self.roots));
        remote
    }
}

#[test]
fn git_http_backend_behind_nginx() {
    let programs = ["git", "nginx", "fcgiwrap", "openssl"];
    let folders = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !folders.iter().any(|folder| Path::new(folder).join(program).exists()))
        .collect();
    if !missing.is_empty() {
        assert!(std::env::var_os("REQUIRE_PEERS").is_none_or(|v| v != "1"), "missing: {missing:?}");
        println!("skipped: missing {missing:?}");
        return;
    }
    let repository = Repository::new();
    for number in 0..200 {
        repository.write(format!("{number}.txt"), format!("{number}\n").repeat(2_000));
    }
    // More than nginx and fcgiwrap hold at once.
    repository.write("large", (0..300_000_u32).flat_map(u32::to_be_bytes).collect::<Vec<_>>());
    let tip = repository.publish("one");
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), repository.base());

    let open = [server.clear("/open/site.git#main"), server.secure("", "/open/site.git#main")];
    let mut known = Vec::new();
    for remote in &open {
        let first = fetch_new(remote, None);
        assert_shows(&repository, &tip, &first);
        assert!(matches!(fetch(remote, Some(&first)).unwrap(), Fetched::Unchanged));
        known.push(first);
    }
    let closed = server.secure("ali:open%20sesame@", "/closed/site.git#main");
    assert_shows(&repository, &tip, &fetch_new(&closed, None));
    for wrong in ["", "ali:wrong@"] {
        let error = fetch(&server.secure(wrong, "/closed/site.git#main"), None).unwrap_err();
        assert!(matches!(error, FetchError::Refused(_)), "{wrong}: {error}");
    }
    // A repository that moved: git follows the first request's redirect, and so do we.
    assert_shows(&repository, &tip, &fetch_new(&server.clear("/old#main"), None));

    repository.write("7.txt", "changed");
    let tip = repository.publish("two");
    for (remote, known) in open.iter().zip(&known) {
        let Fetched::New { generation, transfer } = fetch(remote, Some(known)).unwrap() else {
            panic!("nothing new");
        };
        assert_shows(&repository, &tip, &generation);
        assert!(transfer.objects <= 3, "{transfer:?}");
    }
}
