//! Who may cause a refresh: the signatures and tokens that forges send, compared in constant time.
//!
//! Every mark that a request carries must be right, and there must be one: a wrong signature of one kind is not rescued
//! by another. Forges without a secret send empty signatures; those are refused. SHA-1 signatures are not looked at.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use http::HeaderMap;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// How far the clock of a sender that signs the time may be off (the Standard Webhooks specification).
pub const TOLERANCE: Duration = Duration::from_secs(300);
/// Signatures in one `webhook-signature` header that are tried.
const MAX_SIGNATURES: usize = 8;

/// The secret that is shared with the forge.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// The secret cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the webhook's secret is empty: anybody could sign with it")]
pub struct EmptySecret;

/// Why a request is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// Nothing that could be verified.
    #[error("there is no signature or token: set the secret in the forge's webhook settings")]
    Unsigned,
    /// A header is there twice, or is no signature.
    #[error("the header {0} is empty, malformed or there twice")]
    Malformed(&'static str),
    /// Not made with the secret over this body.
    #[error("{0} does not fit the secret")]
    Wrong(&'static str),
    /// Signed too long ago, or in the future.
    #[error("webhook-timestamp is more than {} seconds off", TOLERANCE.as_secs())]
    Stale,
}

impl Secret {
    /// A secret; line ends after it do not belong to it.
    ///
    /// # Errors
    /// [`EmptySecret`].
    pub fn new(bytes: &[u8]) -> Result<Self, EmptySecret> {
        let end = bytes.iter().rposition(|byte| !b"\r\n".contains(byte)).ok_or(EmptySecret)?;
        Ok(Self(Zeroizing::new(bytes[..=end].to_vec())))
    }

    /// Verifies the marks of all senders that are known. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// [`Distrust`].
    pub fn verify(&self, headers: &HeaderMap, body: &[u8], now: u64) -> Result<(), Distrust> {
        /// Bare hexadecimal (Forgejo, Gitea, Gogs), and with `sha256=` before it (GitHub, soft-serve and others).
        const HMACS: [(&str, &str); 5] = [
            ("x-forgejo-signature", ""),
            ("x-gitea-signature", ""),
            ("x-gogs-signature", ""),
            ("x-hub-signature-256", "sha256="),
            ("x-softserve-signature", "sha256="),
        ];
        let mut verified = false;
        for (name, prefix) in HMACS {
            if let Some(value) = single(headers, name)? {
                let tag = value.strip_prefix(prefix).and_then(|text| hex::decode(text).ok());
                let tag = tag.filter(|tag| tag.len() == 32).ok_or(Distrust::Malformed(name))?;
                mac(&self.0, &[body])?.verify_slice(&tag).map_err(|_| Distrust::Wrong(name))?;
                verified = true;
            }
        }
        if let Some(token) = single(headers, GITLAB_TOKEN)? {
            if token.is_empty() {
                return Err(Distrust::Malformed(GITLAB_TOKEN));
            }
            if !bool::from(token.as_bytes().ct_eq(&self.0)) {
                return Err(Distrust::Wrong(GITLAB_TOKEN));
            }
            verified = true;
        }
        if let Some(signatures) = single(headers, SIGNATURE)? {
            self.verify_standard(headers, signatures, body, now)?;
            verified = true;
        }
        if verified { Ok(()) } else { Err(Distrust::Unsigned) }
    }

    /// Standard Webhooks, as GitLab signs: `v1,` and base64 over id, time and body.
    fn verify_standard(
        &self,
        headers: &HeaderMap,
        signatures: &str,
        body: &[u8],
        now: u64,
    ) -> Result<(), Distrust> {
        let id = single(headers, "webhook-id")?.ok_or(Distrust::Malformed("webhook-id"))?;
        let bad_time = Distrust::Malformed("webhook-timestamp");
        let time = single(headers, "webhook-timestamp")?.ok_or(bad_time)?;
        let seconds: u64 = time.parse().map_err(|_| bad_time)?;
        if now.abs_diff(seconds) > TOLERANCE.as_secs() {
            return Err(Distrust::Stale);
        }
        // A secret in the specification's own form names the key in base64.
        let encoded = self.0.strip_prefix(b"whsec_").and_then(|text| STANDARD.decode(text).ok());
        let encoded = encoded.filter(|key| !key.is_empty()).map(Zeroizing::new);
        let key = encoded.as_ref().unwrap_or(&self.0);
        let parts = [id.as_bytes(), b".", time.as_bytes(), b".", body];
        let mac = mac(key, &parts)?;
        let mut tags = signatures
            .split(' ')
            .take(MAX_SIGNATURES)
            .filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok());
        match tags.any(|tag| mac.clone().verify_slice(&tag).is_ok()) {
            true => Ok(()),
            false => Err(Distrust::Wrong(SIGNATURE)),
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Result<Hmac<Sha256>, Distrust> {
    // HMAC takes keys of every length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| Distrust::Unsigned)?;
    for part in parts {
        mac.update(part);
    }
    Ok(mac)
}

const GITLAB_TOKEN: &str = "x-gitlab-token";
const SIGNATURE: &str = "webhook-signature";

/// The value of a header that may be there once.
fn single<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, Distrust> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Distrust::Malformed(name)),
        (Some(_), Some(_)) => Err(Distrust::Malformed(name)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    /// GitHub's published example; the tag was computed with `openssl dgst -sha256 -hmac` besides.
    const SECRET: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const TAG: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    /// `printf 'msg_1.1700000000.Hello, World!' | openssl dgst -sha256 -hmac SECRET -binary | base64`
    const STANDARD_TAG: &str = "quAPC8IoekzpzamzEhmkevIu2nLQeQaFAIIEaYw3C/A=";
    /// The same with the key `Jefe`, which is `whsec_SmVmZQ==`.
    const WHSEC_TAG: &str = "NVvcFhFCnQuKhWgSS8qTIeA/0fSfKkWnhxSxBb+TvjE=";
    const THEN: u64 = 1_700_000_000;

    fn verify(secret: &str, headers: &[(&'static str, &str)], now: u64) -> Result<(), Distrust> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Secret::new(secret.as_bytes()).unwrap().verify(&map, BODY, now)
    }

    #[test]
    fn each_sender_is_believed_with_its_own_mark_only() {
        let prefixed = format!("sha256={TAG}");
        let wrong = TAG.replace('7', "8");
        for (name, value, expected) in [
            ("x-hub-signature-256", prefixed.as_str(), Ok(())),
            ("x-softserve-signature", &prefixed, Ok(())),
            ("x-forgejo-signature", TAG, Ok(())),
            ("x-gitea-signature", TAG, Ok(())),
            ("x-gogs-signature", TAG, Ok(())),
            ("x-gitlab-token", SECRET, Ok(())),
            ("x-hub-signature-256", TAG, Err(Distrust::Malformed("x-hub-signature-256"))),
            ("x-hub-signature-256", "sha256=", Err(Distrust::Malformed("x-hub-signature-256"))),
            ("x-gitea-signature", "", Err(Distrust::Malformed("x-gitea-signature"))),
            ("x-gitea-signature", &TAG[..62], Err(Distrust::Malformed("x-gitea-signature"))),
            ("x-gitea-signature", &wrong, Err(Distrust::Wrong("x-gitea-signature"))),
            ("x-gitlab-token", "", Err(Distrust::Malformed("x-gitlab-token"))),
            ("x-gitlab-token", "It's a Secret", Err(Distrust::Wrong("x-gitlab-token"))),
            ("x-hub-signature", &prefixed, Err(Distrust::Unsigned)),
        ] {
            assert_eq!(verify(SECRET, &[(name, value)], THEN), expected, "{name}: {value}");
        }
        assert_eq!(
            verify("other", &[("x-forgejo-signature", TAG)], THEN),
            Err(Distrust::Wrong("x-forgejo-signature"))
        );
        assert_eq!(verify(SECRET, &[], THEN), Err(Distrust::Unsigned));
    }

    #[test]
    fn a_wrong_mark_is_not_rescued_by_another() {
        let both = [("x-forgejo-signature", TAG), ("x-gitlab-token", "guess")];
        assert_eq!(verify(SECRET, &both, THEN), Err(Distrust::Wrong("x-gitlab-token")));
        let twice = [("x-forgejo-signature", TAG), ("x-forgejo-signature", TAG)];
        assert_eq!(verify(SECRET, &twice, THEN), Err(Distrust::Malformed("x-forgejo-signature")));
    }

    #[test]
    fn standard_webhooks_sign_id_and_time_too() {
        let check = |secret: &str, tag: &str, time: &str, now: u64| {
            let headers =
                [("webhook-id", "msg_1"), ("webhook-timestamp", time), ("webhook-signature", tag)];
            verify(secret, &headers, now)
        };
        let (good, other) = (format!("v1,{STANDARD_TAG}"), format!("v1,{WHSEC_TAG}"));
        assert_eq!(check(SECRET, &good, "1700000000", THEN + 300), Ok(()));
        assert_eq!(check(SECRET, &format!("v2,x {other} {good}"), "1700000000", THEN), Ok(()));
        assert_eq!(check("whsec_SmVmZQ==", &other, "1700000000", THEN), Ok(()));
        assert_eq!(check(SECRET, &good, "1700000000", THEN + 301), Err(Distrust::Stale));
        assert_eq!(check(SECRET, &good, "1700000000", THEN - 301), Err(Distrust::Stale));
        let wrong = Err(Distrust::Wrong("webhook-signature"));
        assert_eq!(check(SECRET, &good, "1700000001", THEN), wrong);
        assert_eq!(check(SECRET, STANDARD_TAG, "1700000000", THEN), wrong);
        assert_eq!(check(SECRET, "v1,", "1700000000", THEN), wrong);
        let malformed = Err(Distrust::Malformed("webhook-timestamp"));
        assert_eq!(check(SECRET, &good, "soon", THEN), malformed);
    }

    #[test]
    fn empty_secrets_are_refused() {
        assert_eq!(Secret::new(b"").unwrap_err(), EmptySecret);
        assert_eq!(Secret::new(b"\r\n\n").unwrap_err(), EmptySecret);
        assert_eq!(&**Secret::new(b"ab\r\n").unwrap().0, b"ab");
    }
}
