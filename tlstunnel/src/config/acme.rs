//! What [`certify`] keeps in the store, and certificates that it obtained.

use std::sync::Arc;

use config_proto::message::{Refusal, RefusalCode};
use zeroize::Zeroizing;

use super::{AUTHOR_ACME, Configuration, refuse};
use crate::tls::certificates::Source;

impl Configuration {
    /// Returns once the generation is not `since` any more.
    pub async fn generation_other_than(&self, since: u64) {
        let mut heads = self.core.head.subscribe();
        // The sender lives in the configuration itself.
        let _ = heads.wait_for(|head| head.generation != since).await;
    }

    /// Every record of the table `acme`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn acme_records(&self) -> Result<Vec<certify::Record>, Refusal> {
        self.reading(|core| Ok(core.storage()?.acme_records()?)).await
    }

    /// Saves a record of the table `acme`, or removes it. No generation: nothing that is served changes.
    ///
    /// # Errors
    /// When the store fails or is full.
    pub async fn save_acme_record(
        &self,
        key: String,
        record: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<(), Refusal> {
        self.changing(AUTHOR_ACME, move |core, _| {
            let record = record.as_ref().map(|record| record.as_slice());
            Ok(core.storage()?.save_acme_record(&key, record)?)
        })
        .await
    }

    /// Shows a certificate that was obtained for `name` from now on.
    ///
    /// # Errors
    /// When one that a person gave is shown for the name meanwhile, when the gateway cannot use it, or when the store
    /// fails or is full.
    pub async fn install_acme_certificate(
        &self,
        name: String,
        chain_pem: String,
        key_pem: Zeroizing<String>,
    ) -> Result<(), Refusal> {
        self.changing(AUTHOR_ACME, move |core, author| {
            let snapshot = core.gateway.snapshot.load_full();
            let given = snapshot
                .certificates
                .find(Some(&name))
                .map(Arc::as_ref)
                .filter(|shown| matches!(shown.source(), Source::File | Source::Uploaded));
            if given.is_some() {
                return Err(refuse(
                    RefusalCode::Exists,
                    format!("{name} has been given a certificate meanwhile"),
                    "that one stays",
                ));
            }
            core.set_certificate(author, chain_pem, key_pem.to_string(), Source::Acme)?;
            Ok(())
        })
        .await
    }
}
