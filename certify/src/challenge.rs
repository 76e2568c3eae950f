//! What the authority looks at to believe that a name is ours.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::KeyAuthorization;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::failure::{Failure, Scope};
use crate::host::Host;
use crate::schedule::Pace;

/// An answer that is to be given while the authority looks.
#[derive(Clone, Debug)]
pub enum Challenge {
    /// Port 80 answers `/.well-known/acme-challenge/<token>` with `key_authorization` (RFC 8555, section 8.3).
    Http01 {
        /// The last part of the path.
        token: String,
        /// The body of the answer.
        key_authorization: String,
    },
    /// Port 443 shows `certificate` to who asks for `name` with ALPN `acme-tls/1` (RFC 8737).
    TlsAlpn01 {
        /// The server name.
        name: String,
        /// A certificate that says the key authorization's digest.
        certificate: Arc<CertifiedKey>,
    },
}

/// Puts TXT records where the authority looks for them (dns-01: RFC 8555, section 8.4).
///
/// One name can have several values at the same time, as `example.org` and `*.example.org` share one.
pub trait TxtPublisher: fmt::Debug + Send + Sync + 'static {
    /// How long [`Self::publish`] may wait for a record to be seen, beyond the exchanges that it takes.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// Adds `value` to the TXT records of `name`, such as `_acme-challenge.example.org`, and returns once the authority
    /// would see it whichever server it asks. Adding what is there already is no error.
    ///
    /// # Errors
    /// Why it cannot be seen. It may be there all the same: [`Self::withdraw`] is called in any case.
    fn publish<'a>(&'a self, name: &'a str, value: &'a str) -> TxtFuture<'a>;

    /// Takes `value` away again. What is not there is no error.
    ///
    /// # Errors
    /// Why it may be there still.
    fn withdraw<'a>(&'a self, name: &'a str, value: &'a str) -> TxtFuture<'a>;
}

/// What [`TxtPublisher`] gives.
pub type TxtFuture<'a> = Pin<Box<dyn Future<Output = Result<(), TxtError>> + Send + 'a>>;

/// Why a TXT record could not be published or withdrawn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TxtError {
    /// In words for people: who is to blame, and what to do.
    pub message: String,
    /// Whether nobody said no, so that the same may succeed soon.
    pub passing: bool,
}

impl From<TxtError> for Failure {
    fn from(TxtError { message, passing }: TxtError) -> Self {
        let pace = if passing { Pace::Unreachable } else { Pace::Local };
        Self::new(Scope::Name, pace, message)
    }
}

/// An answer that is given; dropping it ends that, however the attempt ends.
#[derive(Debug)]
pub(crate) struct Published<'h, H: Host> {
    host: &'h H,
    challenge: Challenge,
}

impl<'h, H: Host> Published<'h, H> {
    pub(crate) fn new(host: &'h H, challenge: Challenge) -> Self {
        host.publish(&challenge);
        Self { host, challenge }
    }
}

impl<H: Host> Drop for Published<'_, H> {
    fn drop(&mut self) {
        self.host.withdraw(&self.challenge);
    }
}

/// The certificate of RFC 8737, section 3: self-signed, for the name alone, with the digest in a critical extension.
pub(crate) fn tls_alpn_certificate(
    name: &str,
    authorization: &KeyAuthorization,
) -> Result<Arc<CertifiedKey>, Failure> {
    let made = || -> Result<CertifiedKey, rcgen::Error> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.custom_extensions =
            vec![CustomExtension::new_acme_identifier(authorization.digest().as_ref())];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = any_supported_type(&der).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        Ok(CertifiedKey::new(vec![certificate.der().clone()], signer))
    };
    let certificate = made().map_err(|error| {
        Failure::local(format!("the challenge certificate cannot be made: {error}"))
    })?;
    Ok(Arc::new(certificate))
}
