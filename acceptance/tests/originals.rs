//! People move over from the original without rebuilding their world: its control protocol and its disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use acceptance::Gateway;
use acceptance::backend::Backend;
use acceptance::peer::{available, run};
use acceptance::programs::program;

const LIMIT: Duration = Duration::from_secs(30);

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn vectors() -> serde_json::Value {
    let file = workspace().join("config-proto/tests/vectors/control-v1.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn bytes(hex: &serde_json::Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// Sends `frame` in pieces of `piece` bytes and gives the whole answer.
fn ask(gateway: &Gateway, frame: &[u8], piece: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(gateway.control).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_nodelay(true).unwrap();
    for part in frame.chunks(piece) {
        // A gateway that refuses a frame by its length closes while the rest is on its way.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn gateway_with_v1() -> (Gateway, serde_json::Value) {
    let vectors = vectors();
    let key = vectors["hmac_key_is_the_argument_string_itself"].as_str().unwrap().to_owned();
    let mut gateway = Gateway::start_with(&["--control-v1"]);
    gateway.kill();
    std::fs::write(gateway.key_file(), format!("{key}\n")).unwrap();
    gateway.spawn();
    (gateway, vectors)
}

#[test]
fn the_original_client_lists_adds_and_removes() {
    let (gateway, vectors) = gateway_with_v1();
    let commands = &vectors["commands"];
    let frame = |name: &str| bytes(&commands[name]["request_frame"]);
    assert_eq!(ask(&gateway, &frame("list"), 4096), bytes(&commands["snis_empty"]["reply_frame"]));
    assert_eq!(ask(&gateway, &frame("add_v4"), 4096), bytes(&commands["result_ok"]["reply_frame"]));
    for name in ["add_v4_low", "add_v6"] {
        let answer = ask(&gateway, &frame(name), 1);
        assert!(
            String::from_utf8_lossy(&answer).contains("was successfully added"),
            "byte by byte: {answer:?}"
        );
    }
    let list = gateway.ctl(&["list"]);
    for expected in
        ["test.example.org", "192.168.0.42:80", "low.example.org", "six.example.org", "[2001:db8:"]
    {
        assert!(list.contains(expected), "{expected} in {list}");
    }
    let answer = ask(&gateway, &frame("remove"), 4096);
    assert!(String::from_utf8_lossy(&answer).contains("test.example.org"), "{answer:?}");
    assert!(!gateway.ctl(&["list"]).contains("test.example.org"));

    let mut forged = frame("list");
    forged[20] ^= 1;
    assert_eq!(ask(&gateway, &forged, 4096), bytes(&commands["result_auth"]["reply_frame"]));
    let mut endless = vec![0, 0, 0, 1, 0, 0, 0, 0];
    endless.extend_from_slice(&[7; 4096]);
    assert!(ask(&gateway, &endless, 4096).len() < 100, "an over-long frame is refused unread");
}

#[test]
fn v1_is_off_unless_asked_for() {
    let gateway = Gateway::start();
    let vectors = vectors();
    let answer = ask(&gateway, &bytes(&vectors["commands"]["list"]["request_frame"]), 4096);
    assert!(answer.is_empty(), "{answer:?}");
}

/// The names of each disk image, by the vectors' own file names; `None` where the data is damaged and must be refused.
const IMAGES: [(&str, Option<usize>); 5] = [
    ("v1-empty", Some(0)),
    ("v1-one-name", Some(1)),
    ("v1-first-superblock-stale", None),
    ("v1-sixty-names-chained", Some(60)),
    ("v1-data-corrupt", None),
];

#[test]
fn the_originals_disk_is_taken_over_and_written_back() {
    if !available(&["gzip"]) {
        return;
    }
    for (name, names) in IMAGES {
        let mut gateway = Gateway::start();
        gateway.kill();
        let image = ["img.gz", "img"]
            .map(|end| workspace().join(format!("blockdev/tests/vectors/{name}.{end}")))
            .into_iter()
            .find(|file| file.exists())
            .unwrap_or_else(|| panic!("{name} is missing"));
        let read = if image.extension().is_some_and(|e| e == "gz") {
            let mut gzip = Command::new("gzip");
            gzip.arg("-dc").arg(&image);
            run(&mut gzip, b"", LIMIT).stdout
        } else {
            std::fs::read(&image).unwrap()
        };
        std::fs::write(gateway.storage(), &read).unwrap();
        if name == "v1-data-corrupt" {
            let mut command = Command::new(program("tlstunnel"));
            command.arg("--storage").arg(gateway.storage()).args(["--listen-https", "127.0.0.1:0"]);
            command.args(["--listen-http", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
            let output = run(&mut command, b"", LIMIT);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert_eq!(
                std::fs::read(gateway.storage()).unwrap(),
                read,
                "somebody's data is not ours to change"
            );
            continue;
        }
        gateway.spawn();
        let list: serde_json::Value =
            serde_json::from_str(&gateway.ctl(&["--json", "list"])).unwrap();
        let routes = list["routes"].as_array().unwrap().len();
        match names {
            Some(names) => assert_eq!(routes, names, "{name}: {list}"),
            None => assert!(routes > 0, "{name}: {list}"),
        }
        gateway.ctl(&["list"]);
        gateway.kill();
        let out = gateway.folder().join("exported.img");
        let mut export = Command::new(program("tlstunnel"));
        export.args(["storage", "export-v1", "--storage"]).arg(gateway.storage()).arg(&out);
        let output = run(&mut export, b"", LIMIT);
        assert!(output.status.success(), "{output:?}");
        // What was exported is taken over again: the same names.
        std::fs::copy(&out, gateway.storage()).unwrap();
        gateway.spawn();
        let again: serde_json::Value =
            serde_json::from_str(&gateway.ctl(&["--json", "list"])).unwrap();
        assert_eq!(again["routes"], list["routes"], "{name}");
    }
}

#[test]
fn a_client_in_another_language_speaks_v2() {
    if !available(&["python3"]) {
        return;
    }
    let gateway = Gateway::start();
    let blog = Backend::http("blog");
    let client = workspace().join("config-proto/examples/tlstunnel_ctl.py");
    let python = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command
            .arg(&client)
            .arg(gateway.control.to_string())
            .arg(gateway.key_file())
            .args(arguments);
        let output = run(&mut command, b"", LIMIT);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(python(&["add", "blog", &blog.to_arg()]).0, Some(0));
    assert!(python(&["list"]).1.contains("blog.apps.localhost"));
    assert!(python(&["status"]).1.contains("generation"));
    assert!(gateway.ctl(&["list"]).contains(&blog.to_arg()));
    assert_eq!(python(&["remove", "blog"]).0, Some(0));
    assert_ne!(python(&["remove", "blog"]).0, Some(0), "a refusal is not success");
}
