//! Conditional and range requests, answered by nginx and by us on the same tree: the same status, body and headers.
//!
//! Where we differ on purpose, the difference is a row of its own with what each answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod site_support;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use site_support::{Answer, Forge, Process, Unipi, available, eventually, get};

const CONFIGURATION: &str = "
daemon off;
master_process off;
user root;
pid FOLDER/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    types { text/html html; text/plain txt; application/octet-stream bin; }
    charset utf-8;
    client_body_temp_path FOLDER/t1; proxy_temp_path FOLDER/t2; fastcgi_temp_path FOLDER/t3;
    uwsgi_temp_path FOLDER/t4; scgi_temp_path FOLDER/t5;
    if_modified_since before;
    server { listen 127.0.0.1:PORT; root TREE; }
}
";

fn nginx(folder: &Path, tree: &Path) -> (Process, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = folder.join("nginx.conf");
    let text = CONFIGURATION
        .replace("FOLDER", folder.to_str().unwrap())
        .replace("TREE", tree.to_str().unwrap())
        .replace("PORT", &port.to_string());
    std::fs::write(&file, text).unwrap();
    let program = match Path::new("/usr/sbin/nginx").exists() {
        true => "/usr/sbin/nginx",
        false => "nginx",
    };
    let mut command = Command::new(program);
    command.arg("-e").arg("stderr").arg("-p").arg(folder).arg("-c").arg(&file);
    let log = folder.join("nginx.log");
    let process = Process::start(&mut command, &log);
    eventually("nginx listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (process, port)
}

/// What must be the same. Each server has its own boundary; both are twenty digits.
fn essence(answer: &Answer) -> (u16, Vec<(String, String)>, Vec<u8>) {
    const NAMES: [&str; 5] =
        ["content-length", "content-range", "content-type", "last-modified", "accept-ranges"];
    let mut body = answer.body.clone();
    let mut headers: Vec<_> =
        answer.headers.iter().filter(|(name, _)| NAMES.contains(&name.as_str())).cloned().collect();
    headers.sort();
    if let Some(boundary) =
        answer.header("content-type").and_then(|kind| kind.split_once("boundary="))
    {
        let boundary = boundary.1.to_owned();
        assert_eq!(boundary.len(), 20);
        body = String::from_utf8(body).unwrap().replace(&boundary, "BOUNDARY").into_bytes();
        for (_, value) in &mut headers {
            *value = value.replace(&boundary, "BOUNDARY");
        }
    }
    // Error pages and 304 are worded and described as each server likes.
    if answer.status == 206 {
        // nginx says it only where it might be news.
        headers.retain(|(name, _)| name != "accept-ranges");
    }
    if answer.status >= 300 {
        body.clear();
        headers.retain(|(name, _)| name == "content-range");
    }
    (answer.status, headers, body)
}

#[test]
fn conditional_and_range_answers_are_those_of_nginx() {
    if !available(&["nginx", "git", "curl"]) {
        return;
    }
    let forge = Forge::start();
    let text: String = (b'a'..=b'z').cycle().take(1000).map(char::from).collect();
    forge.write("index.html", "<h1>hello</h1>");
    forge.write("a.txt", &text);
    forge.write("empty.bin", "");
    forge.push("tree");
    let committed: u64 = forge.git(&["log", "-1", "--format=%ct"]).parse().unwrap();
    let at = |seconds: u64| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    for name in ["index.html", "a.txt", "empty.bin"] {
        let file = std::fs::File::options().write(true).open(forge.work().join(name)).unwrap();
        file.set_modified(at(committed)).unwrap();
    }
    let unipi = Unipi::start(&forge.remote(), &[]);
    unipi.shows("/", "<h1>hello</h1>");
    let folder = tempfile::tempdir().unwrap();
    let (_nginx, port) = nginx(folder.path(), &forge.work());
    let theirs = |path: &str| format!("http://127.0.0.1:{port}{path}");

    let same = httpdate::fmt_http_date(at(committed));
    let older = httpdate::fmt_http_date(at(committed - 10));
    let newer = httpdate::fmt_http_date(at(committed + 10));
    let conditions = [
        "",
        "If-None-Match: ETAG",
        "If-None-Match: W/ETAG",
        "If-None-Match: *",
        "If-None-Match: \"x\"",
        "If-None-Match: \"x\", ETAG",
        "If-Match: ETAG",
        "If-Match: *",
        "If-Match: \"x\"",
        "If-Match: W/ETAG",
        "If-Match: \"x\", ETAG",
        "If-Modified-Since: SAME",
        "If-Modified-Since: OLDER",
        "If-Modified-Since: NEWER",
        "If-Modified-Since: nonsense",
        "If-Unmodified-Since: SAME",
        "If-Unmodified-Since: OLDER",
        "If-Unmodified-Since: NEWER",
        "If-None-Match: \"x\"|If-Modified-Since: SAME",
        "If-None-Match: ETAG|If-Modified-Since: SAME",
        "If-Match: \"x\"|If-None-Match: ETAG",
        "Range: bytes=0-9",
        "Range: bytes=990-",
        "Range: bytes=-10",
        "Range: bytes=-5000",
        "Range: bytes=995-5000",
        "Range: bytes=1000-",
        "Range: bytes=-0",
        "Range: bytes=0-0,5-9,-1",
        "Range: bytes=0-0, 2000-",
        "Range: bytes=2000-,3000-",
        "Range: bytes=0-999,0-999",
        "Range: bytes=9-9,0-0",
        "Range: lines=0-9",
        "Range: bytes=",
        "Range: bytes=0-9|If-Range: ETAG",
        "Range: bytes=0-9|If-Range: \"x\"",
        "Range: bytes=0-9|If-Range: SAME",
        "Range: bytes=0-9|If-Range: OLDER",
        "Range: bytes=0-9|If-None-Match: ETAG",
        "Range: bytes=0-9|If-Match: \"x\"",
        "Range: bytes=2000-|If-None-Match: ETAG",
    ];
    let etag = |url: &str| get(url, &[]).header("etag").unwrap().to_owned();
    let ask = |url: &str, etag: &str, condition: &str, method: &[&str]| {
        let filled = condition
            .replace("ETAG", etag)
            .replace("SAME", &same)
            .replace("OLDER", &older)
            .replace("NEWER", &newer);
        let mut arguments = method.to_vec();
        for header in filled.split('|').filter(|header| !header.is_empty()) {
            arguments.extend(["-H", header]);
        }
        get(url, &arguments)
    };
    let mut different = Vec::new();
    for path in ["/a.txt", "/", "/empty.bin"] {
        let (our_etag, their_etag) = (etag(&unipi.url(path)), etag(&theirs(path)));
        for condition in conditions {
            for method in [&[][..], &["-I"]] {
                // RFC 9110 section 14.2: Range means something for GET alone. nginx obeys it for HEAD too.
                let of_empty = path == "/empty.bin";
                if condition.contains("Range:") && (!method.is_empty() || of_empty) {
                    continue;
                }
                let ours = ask(&unipi.url(path), &our_etag, condition, method);
                let nginx = ask(&theirs(path), &their_etag, condition, method);
                if essence(&ours) != essence(&nginx) {
                    different.push(format!(
                        "{path} {method:?} {condition}: {} {}",
                        ours.status, nginx.status
                    ));
                }
            }
        }
    }
    assert_eq!(different, Vec::<String>::new());

    let both_at = |path: &str, condition: &str, method: &[&str]| {
        let ours = ask(&unipi.url(path), "", condition, method).status;
        (ours, ask(&theirs(path), "", condition, method).status)
    };
    let both = |condition: &str, method: &[&str]| both_at("/a.txt", condition, method);
    // Section 14.1.2: no position is inside empty content. nginx sends all of it, which is nothing.
    assert_eq!(both_at("/empty.bin", "Range: bytes=0-9", &[]), (416, 200));
    // RFC 9110 section 14.2: a Range that is malformed is ignored. nginx answers 416.
    for malformed in ["Range: bytes=5-4", "Range: bytes=a-b"] {
        assert_eq!(both(malformed, &[]), (200, 416), "{malformed}");
    }
    assert_eq!(both("Range: bytes=0-9", &["-I"]), (200, 206));
    // Section 13.1.4: a date that is none is ignored. nginx takes it for one that is long ago.
    assert_eq!(both("If-Unmodified-Since: nonsense", &[]), (200, 412));
}
