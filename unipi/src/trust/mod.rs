//! Whose commits go live: SSH signatures, as git makes them with `gpg.format=ssh`, against a list of allowed signers.
//!
//! A [`crate::git::Generation`] goes through [`AllowedSigners::verify`]: its signature is taken out of the tag or commit,
//! verified over the rest of the object, and its key looked up in the list. What is signed is git's object, so a valid
//! signature vouches for every file by its hash.
//!
//! It must not know what a refusal leads to.

mod signers;

use russh::keys::ssh_key::{PublicKey, SshSig};
use russh::keys::{Algorithm, HashAlg};

pub use signers::{AllowedSigners, MAX_SIGNERS, SignersError};

use crate::git::Generation;

/// What git's signatures are made for (git-config(1), `gpg.format`; PROTOCOL.sshsig).
const NAMESPACE: &str = "git";
const BEGIN_SSH: &[u8] = b"-----BEGIN SSH SIGNATURE-----";
const BEGIN_OTHERS: [&[u8]; 3] = [
    b"-----BEGIN PGP SIGNATURE-----",
    b"-----BEGIN PGP MESSAGE-----",
    b"-----BEGIN SIGNED MESSAGE-----",
];
/// Bytes of a signature: RSA of 16384 bits takes less.
const MAX_SIGNATURE: usize = 16 << 10;

/// Why a commit does not go live. Its author can sign it, or the operator allow the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Untrusted {
    /// There is no signature at all.
    #[error(
        "{what} is not signed: sign it with an allowed key (git commit -S, with gpg.format=ssh)"
    )]
    Unsigned {
        /// `the commit ID`, or `the tag ID`.
        what: String,
    },
    /// Signed, but not with SSH.
    #[error(
        "{what} is signed with OpenPGP or X.509, and only SSH signatures are known here (gpg.format=ssh)"
    )]
    OtherKind {
        /// As in [`Untrusted::Unsigned`].
        what: String,
    },
    /// The signature cannot be read, or was made for something else.
    #[error("the signature of {what} is malformed: {why}")]
    Malformed {
        /// As in [`Untrusted::Unsigned`].
        what: String,
        /// What is wrong.
        why: String,
    },
    /// The signature is not of this object, or not by the key that it names.
    #[error("the signature of {what} does not fit its content")]
    Wrong {
        /// As in [`Untrusted::Unsigned`].
        what: String,
    },
    /// Signed by a key that may not.
    #[error("{what} is signed by {key}, which is not allowed: {why}")]
    NotAllowed {
        /// As in [`Untrusted::Unsigned`].
        what: String,
        /// The key's fingerprint.
        key: String,
        /// It is not in the list, or its line does not apply.
        why: String,
    },
}

impl AllowedSigners {
    /// Who signed the tag, or else the commit, of a generation: the principals of the line that allows the key.
    ///
    /// As git does it, a key must have been valid when the object was made, by its own date. That date is the signer's
    /// to choose, so for what arrives now the key must be valid `now` (seconds since 1970) besides: a key that was
    /// taken out of use publishes nothing more, whatever date it writes.
    ///
    /// # Errors
    /// [`Untrusted`].
    pub fn verify(&self, generation: &Generation, now: Option<u64>) -> Result<String, Untrusted> {
        let commit = &generation.commit;
        let of_commit = format!("the commit {}", commit.id);
        if let Some(tag) = &generation.tag {
            let what = format!("the tag {}", tag.id);
            match split(&tag.raw) {
                (payload, Some(signature)) => {
                    return self.judge(&what, payload, signature, tag.time, now);
                }
                // A tag that is not signed says no more than a branch.
                (_, None) if commit.signature.is_none() => {
                    return Err(Untrusted::Unsigned { what });
                }
                _ => {}
            }
        }
        let payload = commit.signed_payload();
        match &commit.signature {
            Some(signature) => self.judge(&of_commit, &payload, signature, commit.time, now),
            None => Err(Untrusted::Unsigned { what: of_commit }),
        }
    }

    fn judge(
        &self,
        what: &str,
        payload: &[u8],
        signature: &[u8],
        made: i64,
        now: Option<u64>,
    ) -> Result<String, Untrusted> {
        let what = what.to_owned();
        if BEGIN_OTHERS.iter().any(|begin| signature.starts_with(begin)) {
            return Err(Untrusted::OtherKind { what });
        }
        let malformed = |why: String| Untrusted::Malformed { what: what.clone(), why };
        if signature.len() > MAX_SIGNATURE {
            return Err(malformed(format!("it is longer than {MAX_SIGNATURE} bytes")));
        }
        let signature =
            SshSig::from_pem(signature).map_err(|error| malformed(error.to_string()))?;
        if signature.namespace() != NAMESPACE {
            let namespace: String = signature.namespace().chars().take(64).collect();
            return Err(malformed(format!("it was made for {namespace:?}, not for git")));
        }
        if signature.algorithm() == (Algorithm::Rsa { hash: None }) {
            return Err(malformed("RSA with SHA-1 proves nothing any more".to_owned()));
        }
        let key = PublicKey::from(signature.public_key().clone());
        key.verify(NAMESPACE, payload, &signature)
            .map_err(|_| Untrusted::Wrong { what: what.clone() })?;
        let made = u64::try_from(made).unwrap_or(0);
        self.principal(&key, NAMESPACE, made, now).map_err(|why| Untrusted::NotAllowed {
            key: key.fingerprint(HashAlg::Sha256).to_string(),
            what,
            why,
        })
    }
}

/// A tag's content and the signature at its end: from the last line that begins one, as git takes it.
fn split(raw: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut at = None;
    let mut offset = 0;
    for line in raw.split_inclusive(|byte| *byte == b'\n') {
        let begins =
            line.starts_with(BEGIN_SSH) || BEGIN_OTHERS.iter().any(|begin| line.starts_with(begin));
        if begins {
            at = Some(offset);
        }
        offset += line.len();
    }
    match at {
        Some(at) => (&raw[..at], Some(&raw[at..])),
        None => (raw, None),
    }
}
