//! No secret travels in the open: every message that has one is looked for it on the wire.
#![allow(clippy::unwrap_used)]

mod common;

use common::{connected, feed, feed_client};
use config_proto::message::{KeyAdded, Reply, Request, Sealed};
use config_proto::site::SiteSettings;

const SECRET: &str = "-----BEGIN PRIVATE KEY-----";

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[test]
fn a_private_key_in_a_request() {
    let (mut client, mut server, _) = connected();
    let request =
        Request::CertSet { chain_pem: "chain".to_owned(), key_pem: Sealed(SECRET.to_owned()) };
    let mut frames = vec![];
    for _ in 0..2 {
        let (_, frame) = client.request(&request).unwrap();
        assert!(contains(&frame, "chain") && !contains(&frame, "PRIVATE"));
        assert_eq!(feed(&mut server, &frame).requests[0].request, request);
        frames.push(frame);
    }
    assert_ne!(frames[0][13..], frames[1][13..], "the same secret never looks the same twice");
    assert!(!format!("{request:?}").contains("PRIVATE"));
}

#[test]
fn the_secrets_of_a_site() {
    let (mut client, mut server, _) = connected();
    let secret = |text: &str| Some(Sealed(format!("{SECRET} {text}")));
    let request = Request::SiteAdd {
        name: "blog.example.org".to_owned(),
        settings: SiteSettings::default(),
        replace: false,
        hook_secret: secret("hook"),
        push_token: secret("push"),
        ssh_key: secret("ssh"),
        password: secret("password"),
    };
    let (_, frame) = client.request(&request).unwrap();
    assert!(contains(&frame, "blog.example.org") && !contains(&frame, "PRIVATE"));
    assert_eq!(feed(&mut server, &frame).requests[0].request, request);
    assert!(!format!("{request:?}").contains("PRIVATE"));
    let Request::SiteAdd { name, settings, .. } = request else { return };
    let without = Request::SiteAdd {
        name,
        settings,
        replace: true,
        hook_secret: None,
        push_token: None,
        ssh_key: None,
        password: None,
    };
    let (_, frame) = client.request(&without).unwrap();
    assert_eq!(feed(&mut server, &frame).requests[0].request, without);
}

#[test]
fn a_control_key_in_a_reply() {
    let (mut client, mut server, _) = connected();
    let (seq, frame) = client.request(&Request::KeyList).unwrap();
    feed(&mut server, &frame);
    let reply = Reply::Ok(KeyAdded {
        generation: 2,
        id: "team".to_owned(),
        secret: Sealed(SECRET.to_owned()),
    });
    let frame = server.reply(seq, &reply).unwrap();
    assert!(contains(&frame, "team") && !contains(&frame, "PRIVATE"));
    let received = feed_client(&mut client, &frame).replies.remove(0);
    assert!(!format!("{received:?}").contains("PRIVATE"));
    assert_eq!(received.into_reply::<KeyAdded>().unwrap(), reply);
}

/// Every field of type `Sealed` has a test above and a line in the table of the codec. Whoever adds one finds this test
/// failing until both exist.
#[test]
fn the_vocabulary_has_no_other_sealed_fields() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/message");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let source: String = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let mut fields: Vec<&str> = source
        .lines()
        .map(str::trim)
        .filter(|line| line.contains(": Sealed") || line.contains("<Sealed"))
        .filter(|line| !line.starts_with("//") && !line.starts_with("impl"))
        .collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "hook_secret: Option<Sealed>,",
            "key_pem: Sealed,",
            "password: Option<Sealed>,",
            "pub secret: Sealed,",
            "push_token: Option<Sealed>,",
            "ssh_key: Option<Sealed>,",
        ]
    );
}
