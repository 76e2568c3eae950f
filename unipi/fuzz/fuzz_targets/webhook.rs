//! Any bytes as a webhook: never believed unsigned; signed, judged without harm.
#![no_main]

use hmac::{Hmac, Mac};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use sha2::Sha256;
use unipi::webhook::{Decision, Hook, Secret};

const SECRET: &[u8] = b"a secret that is not in the corpus";

/// Headers as lines `name: value` up to an empty line, then the body.
fuzz_target!(|data: &[u8]| {
    let end = data.windows(2).position(|pair| pair == b"\n\n").unwrap_or(data.len());
    let (head, body) = (&data[..end], data.get(end + 2..).unwrap_or_default());
    let mut headers = HeaderMap::new();
    for line in head.split(|&byte| byte == b'\n') {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let name = HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let hook = || Hook::new(Secret::new(SECRET).expect("not empty"), Some("main".to_owned()));
    let decision = hook().judge(&headers, body, 1_700_000_000);
    assert!(matches!(decision, Decision::Refuse(_)), "{decision:?}");
    // The same body from somebody who has the secret.
    let mut signed = HeaderMap::new();
    let mut tag = Hmac::<Sha256>::new_from_slice(SECRET).expect("any length");
    tag.update(body);
    let tag = format!("sha256={}", hex::encode(tag.finalize().into_bytes()));
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-hub-signature-256", &tag),
        ("x-github-event", "push"),
        ("x-github-delivery", "1"),
    ] {
        signed.insert(name, HeaderValue::try_from(value).expect("ASCII"));
    }
    let hook = hook();
    if matches!(hook.judge(&signed, body, 1_700_000_000), Decision::Refresh(_)) {
        let again = hook.judge(&signed, body, 1_700_000_000);
        assert!(matches!(again, Decision::Ignore(_)), "{again:?}");
    }
});
