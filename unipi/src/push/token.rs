//! Push tokens: who may push, compared by digest and in constant time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// The shortest token in bytes. It is all that stands between the world and the site, so it must be random.
pub const MIN_TOKEN_LEN: usize = 16;
/// The longest token in bytes.
pub const MAX_TOKEN_LEN: usize = 256;
/// Characters of a user name that show in the log.
const MAX_USER: usize = 64;

/// What lets a push in. Only a digest of it is held and stored.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token([u8; 32]);

/// Why a text cannot be a push token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Too short or too long.
    #[error(
        "a push token has {MIN_TOKEN_LEN} to {MAX_TOKEN_LEN} bytes: make one with `openssl rand -hex 32`"
    )]
    Length,
    /// It could not be typed as a password.
    #[error("a push token is printable ASCII without spaces")]
    Characters,
    /// A stored digest that is none.
    #[error("the stored push token is no SHA-256 digest")]
    Digest,
}

/// What a request says about who it is from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// It has the token; the name that it gave, which proves nothing, for the log.
    Known(Option<String>),
    /// It says nothing.
    Silent,
    /// It has something else.
    Wrong,
}

impl Token {
    /// A token from the content of its file; line ends after it do not belong to it.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn new(text: &[u8]) -> Result<Self, TokenError> {
        let end = text.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |at| at + 1);
        let text = &text[..end];
        if !(MIN_TOKEN_LEN..=MAX_TOKEN_LEN).contains(&text.len()) {
            return Err(TokenError::Length);
        }
        match text.iter().all(u8::is_ascii_graphic) {
            true => Ok(Self(Sha256::digest(text).into())),
            false => Err(TokenError::Characters),
        }
    }

    /// Who sends a request: the token is the password of Basic (RFC 7617), with any user name, or a bearer token
    /// (RFC 6750).
    pub(super) fn caller(&self, headers: &HeaderMap) -> Caller {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return match headers.contains_key(AUTHORIZATION) {
                true => Caller::Wrong,
                false => Caller::Silent,
            };
        };
        let value = value.as_bytes();
        let Some(space) = value.iter().position(|byte| *byte == b' ') else { return Caller::Wrong };
        let (scheme, rest) = (&value[..space], value[space..].trim_ascii());
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return self.judge(rest, None);
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return Caller::Wrong;
        }
        let Ok(pair) = STANDARD.decode(rest).map(Zeroizing::new) else { return Caller::Wrong };
        let Some(colon) = pair.iter().position(|byte| *byte == b':') else { return Caller::Wrong };
        self.judge(&pair[colon + 1..], Some(&pair[..colon]))
    }

    fn judge(&self, given: &[u8], user: Option<&[u8]>) -> Caller {
        let given: [u8; 32] = Sha256::digest(given).into();
        if !bool::from(given.ct_eq(&self.0)) {
            return Caller::Wrong;
        }
        let user = user.map(String::from_utf8_lossy);
        let user =
            user.map(|user| user.chars().filter(|c| !c.is_control()).take(MAX_USER).collect());
        Caller::Known(user.filter(|user: &String| !user.is_empty()))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl TryFrom<String> for Token {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| TokenError::Digest)?;
        Ok(Self(digest))
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        hex::encode(token.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn caller(values: &[&str]) -> Caller {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        Token::new(format!("{TOKEN}\r\n").as_bytes()).unwrap().caller(&headers)
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", STANDARD.encode(pair))
    }

    #[test]
    fn the_token_is_the_password_of_anybody() {
        let known = |user: &str| Caller::Known(Some(user.to_owned()));
        assert_eq!(caller(&[&basic(&format!("ann:{TOKEN}"))]), known("ann"));
        assert_eq!(caller(&[&basic(&format!("a\x07b:{TOKEN}"))]), known("ab"));
        assert_eq!(caller(&[&basic(&format!(":{TOKEN}"))]), Caller::Known(None));
        assert_eq!(caller(&[&format!("bearer {TOKEN}")]), Caller::Known(None));
        assert_eq!(caller(&[]), Caller::Silent);
        for wrong in [
            basic("ann:0123456789abcdeX"),
            basic(&format!("{TOKEN}:")),
            basic(TOKEN),
            "Basic !".to_owned(),
            format!("Digest {TOKEN}"),
            TOKEN.to_owned(),
        ] {
            assert_eq!(caller(&[&wrong]), Caller::Wrong, "{wrong}");
        }
        let right = basic(&format!("ann:{TOKEN}"));
        assert_eq!(caller(&[&right, &right]), Caller::Wrong, "twice");
    }

    #[test]
    fn weak_tokens_are_refused_and_digests_come_back() {
        assert_eq!(Token::new(b"").unwrap_err(), TokenError::Length);
        assert_eq!(Token::new(b"0123456789abcde\n").unwrap_err(), TokenError::Length);
        assert_eq!(Token::new(b"0123456789 abcdef").unwrap_err(), TokenError::Characters);
        let token = Token::new(TOKEN.as_bytes()).unwrap();
        let json = serde_json::to_string(&token).unwrap();
        assert!(!json.contains(TOKEN));
        assert_eq!(serde_json::from_str::<Token>(&json).unwrap().0, token.0);
        assert!(serde_json::from_str::<Token>("\"00\"").is_err());
    }
}
