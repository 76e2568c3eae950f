//! The protocol of acme-dns (github.com/joohoi/acme-dns, "API" of its README): a small name server on the internet that
//! holds TXT records for others.
//!
//! A name is registered once (`POST /register`), and what that gives is stored. A person then makes one CNAME record from
//! `_acme-challenge` to the name that was given; until it is there, it is asked for and nothing is ordered in vain. Values
//! are set with `POST /update`. The server keeps the last two, so that there is nothing to take away.

use std::fmt;

use http::HeaderMap;
use http::header::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::{HookAddress, post};
use crate::challenge::{TxtError, TxtFuture, TxtPublisher};
use crate::host::Host;
use crate::http::Client;

/// What keys of records begin with; the name follows.
const RECORD: &str = "acme-dns:";

/// Has TXT records made by an acme-dns server. Its accounts are kept where the program keeps everything.
pub struct AcmeDns<H: Host> {
    client: Client,
    address: HookAddress,
    host: H,
}

impl<H: Host> fmt::Debug for AcmeDns<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcmeDns").field("address", &self.address).finish_non_exhaustive()
    }
}

/// An account for one name, as the server gives it.
#[derive(Clone, Serialize, Deserialize)]
struct Account {
    username: String,
    password: String,
    fulldomain: String,
    subdomain: String,
    /// Which server; added by us.
    #[serde(default)]
    server: String,
}

impl<H: Host> AcmeDns<H> {
    /// A publisher that asks the server at `address`, and stores accounts with `host`.
    pub fn new(client: Client, address: HookAddress, host: H) -> Self {
        Self { client, address, host }
    }

    async fn account(&self, name: &str) -> Result<Account, TxtError> {
        let local = |message: String| TxtError { message, passing: true };
        let key = format!("{RECORD}{name}");
        let records = self.host.records().await.map_err(|error| local(error.to_string()))?;
        let stored = records.iter().find(|(stored, _)| *stored == key);
        let known: Option<Account> =
            stored.and_then(|(_, bytes)| serde_json::from_slice(bytes).ok());
        let server = self.address.to_string();
        if let Some(known) = known.filter(|known| known.server == server) {
            return Ok(known);
        }
        let url = self.address.of("register");
        let body = post(&self.client, &url, HeaderMap::new(), &json!({})).await?;
        let nonsense = |error| TxtError {
            message: format!("{url}: the answer is not that of an acme-dns server: {error}"),
            passing: false,
        };
        let mut account: Account = serde_json::from_slice(&body).map_err(nonsense)?;
        account.server = server;
        let bytes = serde_json::to_vec(&account).map_err(nonsense)?;
        let saved = self.host.save(key, Some(Zeroizing::new(bytes))).await;
        saved.map_err(|error| local(error.to_string()))?;
        tracing::info!(name, target = account.fulldomain, "registered with the acme-dns server");
        Ok(account)
    }

    async fn set(&self, name: &str, value: &str) -> Result<(), TxtError> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let account = self.account(&name).await?;
        let target = account.fulldomain.trim_end_matches('.');
        let alias = self.client.resolver().alias(&name).await;
        let alias = alias.map_err(|message| TxtError { message, passing: true })?;
        let leads =
            alias.is_some_and(|alias| alias.trim_end_matches('.').eq_ignore_ascii_case(target));
        if !leads {
            let message = format!("this record is missing in DNS: {name}. CNAME {target}.");
            return Err(TxtError { message, passing: false });
        }
        let header = |text: &str| {
            let mut value = HeaderValue::from_str(text).map_err(|error| TxtError {
                message: format!("the stored account for {name} is damaged: {error}"),
                passing: false,
            })?;
            value.set_sensitive(true);
            Ok::<_, TxtError>(value)
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-api-user", header(&account.username)?);
        headers.insert("x-api-key", header(&account.password)?);
        let record = json!({ "subdomain": account.subdomain, "txt": value });
        post(&self.client, &self.address.of("update"), headers, &record).await.map(|_| ())
    }
}

impl<H: Host> TxtPublisher for AcmeDns<H> {
    fn publish<'a>(&'a self, name: &'a str, value: &'a str) -> TxtFuture<'a> {
        Box::pin(self.set(name, value))
    }

    fn withdraw<'a>(&'a self, _name: &'a str, _value: &'a str) -> TxtFuture<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
}
