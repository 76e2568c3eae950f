//! What a program gives to have its certificates looked after.

use std::future::Future;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::challenge::Challenge;
use crate::schedule::Validity;

/// A name that is to have a certificate.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// A DNS name in lower case, without a final dot.
    pub name: String,
    /// The certificate from an authority that is in use for it now. None when there is none, or only one that any other
    /// is better than, such as a development certificate.
    pub current: Option<Current>,
}

/// A certificate that is in use.
#[derive(Clone, Debug)]
pub struct Current {
    /// The certificate without its chain.
    pub leaf: CertificateDer<'static>,
    /// From when to when it is valid.
    pub validity: Validity,
}

/// A key and the bytes that were saved under it.
pub type Record = (String, Zeroizing<Vec<u8>>);

/// Why the program could not do what was asked, in words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

/// The program whose certificates are looked after.
///
/// Records are bytes under keys of up to 300 bytes. They hold private keys, so they belong where the program's other
/// secrets are.
pub trait Host: Send + Sync + 'static {
    /// The names that are to have a certificate now, and the version of the configuration that says so.
    fn wanted(&self) -> (u64, Vec<Wanted>);

    /// Returns once the version of the configuration is not `since` any more.
    fn changed(&self, since: u64) -> impl Future<Output = ()> + Send;

    /// Every record that was saved.
    fn records(&self) -> impl Future<Output = Result<Vec<Record>, HostError>> + Send;

    /// Saves a record, or removes it. It is durable once this returns.
    fn save(
        &self,
        key: String,
        record: Option<Zeroizing<Vec<u8>>>,
    ) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Puts a checked certificate into use for `name`. It is durable once this returns; a failure changes nothing.
    fn install(
        &self,
        name: String,
        chain_pem: String,
        key_pem: Zeroizing<String>,
    ) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Answers `challenge` from now on.
    fn publish(&self, challenge: &Challenge);

    /// Ends what [`Host::publish`] began.
    fn withdraw(&self, challenge: &Challenge);
}

/// A handle on a program is as good as the program.
impl<H: Host> Host for Arc<H> {
    fn wanted(&self) -> (u64, Vec<Wanted>) {
        H::wanted(self)
    }

    async fn changed(&self, since: u64) {
        H::changed(self, since).await;
    }

    async fn records(&self) -> Result<Vec<Record>, HostError> {
        H::records(self).await
    }

    async fn save(&self, key: String, record: Option<Zeroizing<Vec<u8>>>) -> Result<(), HostError> {
        H::save(self, key, record).await
    }

    async fn install(
        &self,
        name: String,
        chain_pem: String,
        key_pem: Zeroizing<String>,
    ) -> Result<(), HostError> {
        H::install(self, name, chain_pem, key_pem).await
    }

    fn publish(&self, challenge: &Challenge) {
        H::publish(self, challenge);
    }

    fn withdraw(&self, challenge: &Challenge) {
        H::withdraw(self, challenge);
    }
}
