//! The forms in which people have SSH keys: OpenSSH's and the original's.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::ssh_key::{LineEnding, PrivateKey};
use russh::keys::{PublicKey, decode_secret_key};
use zeroize::Zeroizing;

use super::HostKeyPin;

/// A private key in the form that SSH is given it, from OpenSSH's or PKCS#8 PEM text without a passphrase, or from the
/// original's `ed25519:BASE64` with the 32 bytes of the key. What stands between the first and last line of OpenSSH's text
/// will do as well, so that a key fits into one line.
///
/// # Errors
/// What is wrong with the text, without any of it.
pub fn private_key(text: &str) -> Result<Zeroizing<String>, String> {
    let text = text.trim();
    if let Some(encoded) = text.strip_prefix("ed25519:") {
        let bytes = STANDARD_NO_PAD.decode(encoded.trim_end_matches('=')).map(Zeroizing::new);
        let seed: Option<Zeroizing<[u8; 32]>> = bytes
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok())
            .map(Zeroizing::new);
        let seed = seed.ok_or("ed25519: is followed by the 32 bytes of the key in base64")?;
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
        return key.to_openssh(LineEnding::LF).map_err(|error| error.to_string());
    }
    let armoured;
    let text = match text.starts_with(OPENSSH_MAGIC) {
        true => {
            armoured = with_armour(text);
            armoured.as_str()
        }
        false => text,
    };
    if text.starts_with("rsa:") {
        return Err(
            "rsa:SEED made a key by the original's own generator, which nothing else has: \
                    make a new key (ssh-keygen -t ed25519) and give its file"
                .to_owned(),
        );
    }
    match decode_secret_key(text, None) {
        Ok(_) => Ok(Zeroizing::new(format!("{text}\n"))),
        Err(error) => Err(format!(
            "the private key cannot be read ({error}): give an OpenSSH or PKCS#8 PEM file without \
             a passphrase, or ed25519:BASE64"
        )),
    }
}

/// The base64 of "openssh-key-v1" and a zero byte.
const OPENSSH_MAGIC: &str = "b3BlbnNzaC1rZXktdjEA";
/// Characters in a line of OpenSSH's text.
const OPENSSH_LINE: usize = 70;

/// OpenSSH's text from the base64 in its middle.
fn with_armour(base64: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new("-----BEGIN OPENSSH PRIVATE KEY-----".to_owned());
    let plain = base64.chars().filter(|c| !c.is_ascii_whitespace());
    for (number, character) in plain.enumerate() {
        if number % OPENSSH_LINE == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END OPENSSH PRIVATE KEY-----\n");
    text
}

impl FromStr for HostKeyPin {
    type Err = String;

    /// Reads `SHA256:FINGERPRINT` (as `ssh-keygen -l` and the original have it; `rsa:` and `ed25519:` before a
    /// fingerprint are the original's too), a public key as in `ssh-ed25519 AAAA…`, its base64 alone, or a line of
    /// `known_hosts`.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || {
            Err("write SHA256:FINGERPRINT, a public key as in ssh-ed25519 AAAA..., or a line of \
                 known_hosts"
                .to_owned())
        };
        if text.is_empty() {
            return Err("an empty authenticator would let every server in".to_owned());
        }
        if text.starts_with('@') {
            return Err("lines of known_hosts with @cert-authority or @revoked are not supported"
                .to_owned());
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let fingerprint = match words.as_slice() {
            [one] => ["SHA256:", "rsa:", "ed25519:"].iter().find_map(|p| one.strip_prefix(p)),
            _ => None,
        };
        if let Some(encoded) = fingerprint {
            let encoded = encoded.trim_end_matches('=');
            return match STANDARD_NO_PAD.decode(encoded) {
                Ok(bytes) if bytes.len() == 32 => {
                    Ok(Self::Fingerprint(format!("SHA256:{encoded}")))
                }
                _ => Err("a fingerprint is 32 bytes in base64".to_owned()),
            };
        }
        let key = match words.as_slice() {
            [blob] => STANDARD_NO_PAD
                .decode(blob.trim_end_matches('='))
                .ok()
                .and_then(|blob| PublicKey::from_bytes(&blob).ok()),
            // With or without names before it.
            [kind, blob, ..] if is_kind(kind) => {
                PublicKey::from_openssh(&format!("{kind} {blob}")).ok()
            }
            [_, kind, blob, ..] if is_kind(kind) => {
                PublicKey::from_openssh(&format!("{kind} {blob}")).ok()
            }
            _ => None,
        };
        match key.and_then(|key| key.to_openssh().ok()) {
            Some(key) => Ok(Self::PublicKey(key)),
            None => wrong(),
        }
    }
}

fn is_kind(word: &str) -> bool {
    word.starts_with("ssh-") || word.starts_with("ecdsa-") || word.starts_with("sk-")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BLOB: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqt";
    const FINGERPRINT: &str = "UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ";

    #[test]
    fn host_keys_in_every_form() {
        let key = HostKeyPin::PublicKey(format!("ssh-ed25519 {BLOB}"));
        for form in [
            format!("ssh-ed25519 {BLOB}"),
            format!("ssh-ed25519 {BLOB} a comment"),
            BLOB.to_owned(),
            format!("forge.example.org,192.0.2.1 ssh-ed25519 {BLOB}\n"),
            format!("[forge.example.org]:2222 ssh-ed25519 {BLOB}"),
            format!("|1|aGFzaA==|aGFzaA== ssh-ed25519 {BLOB}"),
        ] {
            assert_eq!(form.parse::<HostKeyPin>().unwrap(), key, "{form}");
        }
        let pin = HostKeyPin::Fingerprint(format!("SHA256:{FINGERPRINT}"));
        for form in ["SHA256:", "rsa:", "ed25519:"] {
            assert_eq!(format!("{form}{FINGERPRINT}").parse::<HostKeyPin>().unwrap(), pin);
        }
        for bad in [
            "",
            "MD5:00",
            "SHA256:AAAA",
            "ssh-ed25519",
            "forge ssh-ed25519 AAAA",
            "nonsense",
            &format!("@revoked forge ssh-ed25519 {BLOB}"),
        ] {
            assert!(bad.parse::<HostKeyPin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_originals_private_key() {
        let seed = STANDARD_NO_PAD.encode([7; 32]);
        let key = private_key(&format!("ed25519:{seed}\n")).unwrap();
        assert!(key.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----"));
        assert_eq!(private_key(&key).unwrap(), key);
        let decoded = decode_secret_key(&key, None).unwrap();
        let keypair = Ed25519Keypair::from_seed(&[7; 32]);
        assert_eq!(decoded.key_data().ed25519().unwrap().public, keypair.public);
        for bad in ["", "ed25519:AAAA", "ed25519:!", "rsa:seed", "-----BEGIN X-----"] {
            let error = private_key(bad).unwrap_err();
            assert!(!error.contains("AAAA"), "{error}");
        }
    }

    #[test]
    fn a_private_key_without_its_first_and_last_line_is_the_same() {
        let whole = private_key(&format!("ed25519:{}", "A".repeat(43))).unwrap();
        let one_line: String = whole.lines().filter(|line| !line.starts_with('-')).collect();
        assert_eq!(private_key(&one_line).unwrap().trim(), whole.trim());
        assert!(private_key(&one_line[..80]).unwrap_err().contains("OpenSSH"));
    }
}
