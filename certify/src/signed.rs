//! Requests signed with an account's key (RFC 8555, section 6.2) that the ACME library does not make: the change to a key
//! that was stored before, and other chains of a certificate.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, StatusCode};
use instant_acme::{BodyWrapper, Error, HttpClient as _, Problem};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::failure::{BAD_NONCE, Failure};
use crate::http::Client;
use crate::record::AccountRecord;

/// A nonce may be refused at any time, as often as an authority likes.
const NONCE_REPEATS: usize = 8;

/// The addresses of an authority that are needed here (RFC 8555, section 7.1.1).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Directory {
    new_nonce: String,
    key_change: Option<String>,
}

/// An account that signs.
pub(crate) struct Signer<'c> {
    client: &'c Client,
    directory: Directory,
    id: String,
    key: EcdsaKeyPair,
}

impl<'c> Signer<'c> {
    /// Reads the directory and the account's key.
    pub(crate) async fn new(
        client: &'c Client,
        directory: &str,
        account: &AccountRecord,
    ) -> Result<Self, Failure> {
        let id = account.id.clone().ok_or_else(|| Failure::local("there is no account yet"))?;
        let (_, body) = send(client, Method::GET, directory, None).await?;
        let directory = serde_json::from_slice(&body).map_err(|error| failed(client, error))?;
        Ok(Self { client, directory, id, key: key_pair(&account.key)? })
    }

    /// Posts `payload`, and gives the answer once it is a success.
    pub(crate) async fn post(&self, url: &str, payload: &[u8]) -> Result<Bytes, Failure> {
        let mut repeats = NONCE_REPEATS;
        loop {
            let (headers, _) =
                send(self.client, Method::HEAD, &self.directory.new_nonce, None).await?;
            let nonce = headers.get("replay-nonce").and_then(|nonce| nonce.to_str().ok());
            let nonce = nonce.ok_or_else(|| {
                failed(self.client, Error::Str("no nonce found in newNonce response"))
            })?;
            let header = json!({ "alg": "ES256", "kid": self.id, "nonce": nonce, "url": url });
            let body = sign(&self.key, &header, payload)?.to_string().into_bytes();
            match send(self.client, Method::POST, url, Some(body)).await {
                Err(failure) if repeats > 0 && failure.is(BAD_NONCE) => repeats -= 1,
                other => return other.map(|(_, body)| body),
            }
        }
    }

    /// Changes the account's key to `new_key`, PKCS#8 in base64 (RFC 8555, section 7.3.5).
    pub(crate) async fn change_key(&self, new_key: &str) -> Result<(), Failure> {
        let new = key_pair(new_key)?;
        let url = self.directory.key_change.as_deref().ok_or_else(|| {
            Failure::refused("the authority does not change the keys of accounts")
        })?;
        let header = json!({ "alg": "ES256", "jwk": public(&new), "url": url });
        let statement = json!({ "account": self.id, "oldKey": public(&self.key) }).to_string();
        let inner = sign(&new, &header, statement.as_bytes())?.to_string();
        self.post(url, inner.as_bytes()).await.map(|_| ())
    }
}

fn key_pair(base64: &str) -> Result<EcdsaKeyPair, Failure> {
    let der = STANDARD.decode(base64).map(Zeroizing::new);
    der.ok()
        .and_then(|der| EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).ok())
        .ok_or_else(|| Failure::local("the stored account key is damaged"))
}

/// The public key as a JSON web key (RFC 7518, section 6.2.1).
fn public(key: &EcdsaKeyPair) -> Value {
    // An uncompressed point: one byte, then two coordinates.
    let point = key.public_key().as_ref().get(1..).unwrap_or_default();
    let (x, y) = point.split_at(point.len() / 2);
    let text = |coordinate: &[u8]| URL_SAFE_NO_PAD.encode(coordinate);
    json!({ "crv": "P-256", "kty": "EC", "x": text(x), "y": text(y) })
}

/// A JSON web signature in its flattened form (RFC 7515, section 7.2.2).
fn sign(key: &EcdsaKeyPair, header: &Value, payload: &[u8]) -> Result<Value, Failure> {
    let protected = URL_SAFE_NO_PAD.encode(header.to_string());
    let payload = URL_SAFE_NO_PAD.encode(payload);
    let signature = key
        .sign(&SystemRandom::new(), format!("{protected}.{payload}").as_bytes())
        .map_err(|_| Failure::local("a request cannot be signed"))?;
    let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
    Ok(json!({ "protected": protected, "payload": payload, "signature": signature }))
}

async fn send(
    client: &Client,
    method: Method,
    url: &str,
    body: Option<Vec<u8>>,
) -> Result<(HeaderMap, Bytes), Failure> {
    let mut request = Request::builder().method(method).uri(url);
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/jose+json");
    }
    let body = body.map_or_else(BodyWrapper::default, BodyWrapper::from);
    let request = request.body(body).map_err(|error| Failure::refused(error.to_string()))?;
    let mut answer = client.request(request).await.map_err(|error| failed(client, error))?;
    let read = answer.body.into_bytes().await;
    let body = read.map_err(|error| failed(client, Error::Other(error)))?;
    match answer.parts.status {
        StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => {
            Ok((answer.parts.headers, body))
        }
        _ => {
            let problem: Problem =
                serde_json::from_slice(&body).map_err(|error| failed(client, error))?;
            Err(failed(client, Error::Api(problem)))
        }
    }
}

fn failed(client: &Client, error: impl Into<Error>) -> Failure {
    Failure::from_acme(&error.into(), client.last_retry_after())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    #[test]
    fn what_is_signed_verifies_with_the_key_that_is_named() {
        let (_, der) = instant_acme::Key::generate_pkcs8().unwrap();
        let key = key_pair(&STANDARD.encode(der.secret_pkcs8_der())).unwrap();
        let header = json!({ "alg": "ES256", "jwk": public(&key) });
        let signed = sign(&key, &header, b"hello").unwrap();
        let text = |field: &str| signed[field].as_str().unwrap().to_owned();
        let message = format!("{}.{}", text("protected"), text("payload"));
        let coordinate =
            |name: &str| URL_SAFE_NO_PAD.decode(header["jwk"][name].as_str().unwrap()).unwrap();
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        let signature = URL_SAFE_NO_PAD.decode(text("signature")).unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(message.as_bytes(), &signature)
            .unwrap();
        assert!(key_pair("AAAA").is_err() && key_pair("?").is_err());
    }
}
