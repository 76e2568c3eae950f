//! Certificates that look after themselves: obtained through ACME (RFC 8555), checked, stored, renewed.
//!
//! # The way of a certificate
//!
//! The program says which names it serves ([`Host::wanted`]) → [`schedule`] says when each is due and `plan` which is
//! next → `account` finds or makes the account → `order` drives one order, step by step, and has each step stored before
//! the next → [`challenge`] is what the authority looks at meanwhile → [`check`] looks at what came → [`Host::install`]
//! puts it into use. [`Keeper`] is the loop around it; [`Reports`] is what people see.
//!
//! What is in use lives in the program: [`certificate`] loads one certificate with its key, [`certificates`] finds the one for a
//! server name, [`challenges`] holds what the authority may look at, [`self_signed`] makes certificates for development.
//!
//! # What it promises
//!
//! - One order at a time, and an order that was begun is gone on with after a crash: its address and its key are stored
//!   before anything depends on them.
//! - A failure changes nothing but the time of the next attempt, which grows, and is never before the authority's
//!   `Retry-After`. It survives restarts.
//! - What comes is used only after [`check`] accepted it.
//!
//! This room must not know who uses it: names, storage, time, connections and the publishing of challenges come in as
//! arguments. It opens no file, starts no thread, and works on a single-threaded runtime.
#![forbid(unsafe_code)]

mod account;
pub mod certificate;
pub mod certificates;
pub mod challenge;
pub mod challenges;
pub mod check;
pub mod dns;
pub mod endings;
mod failure;
pub mod files;
mod host;
pub mod http;
mod keeper;
mod leftovers;
pub mod options;
mod order;
mod pem;
mod plan;
mod policy;
mod posted;
mod record;
mod report;
mod requests;
pub mod roots;
pub mod schedule;
pub mod self_signed;
mod settings;
mod signed;
mod tlsa_keeper;
pub mod vault;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

pub use certificate::{Certificate, CertificateError, Source};
pub use certificates::CertificateTable;
pub use challenge::{Challenge, TxtError, TxtFuture, TxtPublisher};
pub use challenges::Challenges;
pub use host::{Current, Host, HostError, Record, Wanted};
pub use keeper::{Clock, Keeper, system_clock};
pub use policy::{ForDomain, KeyType, PerDomain};
pub use record::name_of as name_of_record;
pub use report::{CLOCK_TOLERANCE, Problem, Report, Reports};
pub use requests::{Outcome, Reason, Request, RequestError, Requests, UnknownReason};
pub use settings::{
    ChallengeKind, ExternalAccount, LETS_ENCRYPT, LETS_ENCRYPT_STAGING, Settings, SettingsError,
    directory_url,
};
pub use tlsa_keeper::TlsaKeeper;

/// The one cryptographic provider of the house. X25519MLKEM768 is its first key-exchange group.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}
