//! The webhook: two requests that a program of a few lines can answer for any DNS provider.
//!
//! `POST URL/present` and `POST URL/cleanup`, both with the body
//! `{"fqdn":"_acme-challenge.example.org.","value":"gfj9Xq...Rg85nM"}`: the TXT record to add beside others of that name,
//! and to take away. These are the requests of the provider `httpreq` of the ACME client lego, so that what answers that
//! one answers this one too. An answer 2xx to `present` says that all servers of the zone show the record. Any other
//! status is a failure whose body people get to see: 4xx for good, 5xx and 429 for now.

use std::fmt;
use std::str::FromStr;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue};
use serde::Serialize;

use super::post;
use crate::challenge::{TxtFuture, TxtPublisher};
use crate::http::Client;

/// The address of a hook: https, or http where the network between is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookAddress(String);

/// Why a hook cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// The address.
    #[error(
        "{0:?} is no address of a hook: give http:// or https:// with a host and no question mark"
    )]
    Address(String),
    /// The text for the field `Authorization`.
    #[error("the authorization of the DNS hook is no text that fits a header field")]
    Authorization,
}

impl FromStr for HookAddress {
    type Err = HookError;

    fn from_str(text: &str) -> Result<Self, HookError> {
        let uri = text.parse::<http::Uri>().ok();
        let usable = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
                && uri.query().is_none()
        });
        match usable {
            true => Ok(Self(text.trim_end_matches('/').to_owned())),
            false => Err(HookError::Address(text.to_owned())),
        }
    }
}

impl HookAddress {
    /// The address of `what` below the hook's.
    pub(super) fn of(&self, what: &str) -> String {
        format!("{}/{what}", self.0)
    }
}

impl fmt::Display for HookAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Has TXT records made by a hook.
#[derive(Clone, Debug)]
pub struct Webhook {
    client: Client,
    address: HookAddress,
    headers: HeaderMap,
}

#[derive(Serialize)]
struct Record<'r> {
    fqdn: &'r str,
    value: &'r str,
}

impl Webhook {
    /// A publisher that asks the hook at `address`. `authorization` is sent in the field `Authorization`, for example
    /// `Bearer 4711`.
    ///
    /// # Errors
    /// When the authorization has letters that cannot be sent.
    pub fn new(
        client: Client,
        address: HookAddress,
        authorization: Option<&str>,
    ) -> Result<Self, HookError> {
        let mut headers = HeaderMap::new();
        if let Some(text) = authorization {
            let mut value =
                HeaderValue::from_str(text.trim()).map_err(|_| HookError::Authorization)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Self { client, address, headers })
    }

    fn ask<'a>(&'a self, what: &'static str, name: &'a str, value: &'a str) -> TxtFuture<'a> {
        Box::pin(async move {
            let fqdn = format!("{}.", name.trim_end_matches('.'));
            let record = Record { fqdn: &fqdn, value };
            let url = self.address.of(what);
            post(&self.client, &url, self.headers.clone(), &record).await.map(|_| ())
        })
    }
}

impl TxtPublisher for Webhook {
    fn publish<'a>(&'a self, name: &'a str, value: &'a str) -> TxtFuture<'a> {
        self.ask("present", name, value)
    }

    fn withdraw<'a>(&'a self, name: &'a str, value: &'a str) -> TxtFuture<'a> {
        self.ask("cleanup", name, value)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn addresses() {
        let address: HookAddress = "http://127.0.0.1:8000/dns/".parse().unwrap();
        assert_eq!(address.of("present"), "http://127.0.0.1:8000/dns/present");
        for bad in ["", "127.0.0.1", "ftp://example.org", "https://", "https://example.org/?a=b"] {
            assert!(bad.parse::<HookAddress>().is_err(), "{bad}");
        }
    }
}
