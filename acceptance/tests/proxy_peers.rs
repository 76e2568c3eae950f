//! PROXY headers, out and in, against the programs that people put before and behind a gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use acceptance::backend::Backend;
use acceptance::gateway::DOMAIN;
use acceptance::peer::{Process, available, eventually};
use acceptance::unikernel::{backend_address, client_network};
use acceptance::{Gateway, client};

fn free_port() -> SocketAddr {
    TcpListener::bind((backend_address(), 0)).unwrap().local_addr().unwrap()
}

fn ask(gateway: &Gateway, address: SocketAddr, name: &str) -> String {
    let config = client::config(&gateway.ca_file(), &[]);
    let mut tls = client::connect(address, &format!("{name}.{DOMAIN}"), &config).expect("TLS");
    let local = tls.sock.local_addr().unwrap();
    let answer = client::get(&mut tls, &format!("{name}.{DOMAIN}"), "/").expect("an answer");
    format!("client {local}\n{answer}")
}

fn haproxy(folder: &Path, text: &str) -> Process {
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("/usr/sbin/haproxy");
    command.args(["-db", "-f"]).arg(file);
    Process::start(&mut command, &folder.join("haproxy.log"))
}

fn listening(address: SocketAddr) {
    eventually("the peer listens", || std::net::TcpStream::connect(address).is_ok());
}

#[test]
fn haproxy_accepts_our_headers_and_sees_the_client() {
    if !available(&["haproxy"]) {
        return;
    }
    let gateway = Gateway::start();
    let port = free_port();
    let _haproxy = haproxy(
        gateway.folder(),
        &format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
             frontend f\n bind {port} accept-proxy\n http-request return status 200 content-type text/plain \
             lf-string \"src %[src]:%[src_port] authority %[fc_pp_authority]\\n\"\n"
        ),
    );
    listening(port);
    for version in ["v1", "v2"] {
        gateway.ctl(&["add", "--replace", "blog", &port.to_string(), "--proxy", version]);
        let answer = ask(&gateway, gateway.https, "blog");
        let client = answer.lines().next().unwrap().strip_prefix("client ").unwrap();
        assert!(answer.contains(&format!("src {client}")), "{version}: {answer}");
        if version == "v2" {
            assert!(answer.contains(&format!("authority blog.{DOMAIN}")), "{answer}");
        }
    }
}

#[test]
fn nginx_accepts_our_headers_and_sees_the_client() {
    if !available(&["nginx"]) {
        return;
    }
    let gateway = Gateway::start();
    let (port, folder) = (free_port(), gateway.folder().to_owned());
    let file = folder.join("nginx.conf");
    let text = format!(
        "daemon off; worker_processes 1; pid {0}/nginx.pid; error_log {0}/nginx.err; events {{}}\n\
         http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;\n\
         uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
         server {{ listen {port} proxy_protocol; location / {{\n\
         return 200 \"src $proxy_protocol_addr:$proxy_protocol_port\\n\"; }} }} }}\n",
        folder.display()
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-c").arg(&file);
    let _nginx = Process::start(&mut command, &folder.join("nginx.log"));
    listening(port);
    for version in ["v1", "v2"] {
        gateway.ctl(&["add", "--replace", "blog", &port.to_string(), "--proxy", version]);
        let answer = ask(&gateway, gateway.https, "blog");
        let client = answer.lines().next().unwrap().strip_prefix("client ").unwrap();
        assert!(answer.contains(&format!("src {client}")), "{version}: {answer}");
    }
}

#[test]
fn headers_from_a_trusted_haproxy_are_believed_and_from_others_refused() {
    if !available(&["haproxy"]) {
        return;
    }
    for (version, send) in [("v1", "send-proxy"), ("v2", "send-proxy-v2")] {
        let gateway = Gateway::start_with(&["--accept-proxy-from", client_network()]);
        let blog = Backend::serve(|mut stream| {
            let mut head = [0; 512];
            let n = std::io::Read::read(&mut stream, &mut head).unwrap();
            let text =
                String::from_utf8_lossy(&head[..n]).lines().next().unwrap_or_default().to_owned();
            let _ = std::io::Write::write_all(
                &mut stream,
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())
                    .as_bytes(),
            );
        });
        gateway.ctl(&["add", "blog", &blog.to_arg(), "--proxy", "v1"]);
        let front = free_port();
        let _haproxy = haproxy(
            gateway.folder(),
            &format!(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
                 listen l\n bind {front}\n server g {} {send}\n",
                gateway.https
            ),
        );
        listening(front);
        // The backend gets, from us, the address of the client that is before HAProxy.
        let answer = ask(&gateway, front, "blog");
        let client: SocketAddr =
            answer.lines().next().unwrap().strip_prefix("client ").unwrap().parse().unwrap();
        assert!(
            answer.contains(&format!(
                "PROXY TCP4 {} {} {} ",
                client.ip(),
                front.ip(),
                client.port()
            )),
            "{version}: {answer}"
        );
    }
    // Nobody is trusted: a PROXY header is bytes that are no TLS.
    let gateway = Gateway::start();
    let mut stream = std::net::TcpStream::connect(gateway.https).unwrap();
    std::io::Write::write_all(&mut stream, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n").unwrap();
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut rest);
    assert!(rest.len() < 600);
}
