//! Looks at what an authority sent, before it is used: key, names, dates, and every signature of the chain.
//!
//! The chain's last certificate stands for the root: which roots clients trust is not known here, but a chain whose links
//! do not hold together is no good to any of them.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::schedule::Validity;

/// The longest chain that is looked at.
const MAX_CHAIN: usize = 16;

/// Why a certificate is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// Not PEM, not a certificate, or none at all.
    #[error("the certificate is damaged: {0}")]
    Damaged(String),
    /// It is for another key.
    #[error("the certificate is not for the key that was sent")]
    Key,
    /// It is for other names.
    #[error("the certificate is for {0:?}, not for the name that was asked for")]
    Names(Vec<String>),
    /// It is not valid yet by our clock.
    #[error("the certificate is valid in {0} seconds only: is the clock right?")]
    NotYetValid(i64),
    /// It is not valid any more by our clock.
    #[error("the certificate ended {0} seconds ago: is the clock right?")]
    Expired(i64),
    /// A link of the chain does not hold.
    #[error("the chain does not hold together: {0}")]
    Chain(String),
}

impl CheckError {
    /// Whether the same certificate may be good later.
    pub(crate) fn is_about_time(&self) -> bool {
        matches!(self, Self::NotYetValid(_))
    }
}

/// A certificate that passed.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The certificate without its chain.
    pub leaf: CertificateDer<'static>,
    /// From when to when it is valid.
    pub validity: Validity,
}

/// Checks a chain that was obtained for `name` alone and for the key with this SubjectPublicKeyInfo (DER).
///
/// # Errors
/// Says what is wrong; the certificate must not be used then.
pub fn check(
    chain_pem: &str,
    public_key: &[u8],
    name: &str,
    now: i64,
) -> Result<Checked, CheckError> {
    check_names(chain_pem, public_key, &[name.to_owned()], now)
}

/// The same for a certificate of several names, given in order.
pub(crate) fn check_names(
    chain_pem: &str,
    public_key: &[u8],
    wanted: &[String],
    now: i64,
) -> Result<Checked, CheckError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .take(MAX_CHAIN)
        .collect::<Result<_, _>>()
        .map_err(damaged)?;
    let [leaf, rest @ ..] = chain.as_slice() else {
        return Err(damaged("there is none"));
    };
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(damaged)?;
    if parsed.public_key().raw != public_key {
        return Err(CheckError::Key);
    }
    let names = names_of(&parsed);
    if names != wanted {
        return Err(CheckError::Names(names));
    }
    let validity = Validity {
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
    };
    match now {
        _ if now < validity.not_before => {
            return Err(CheckError::NotYetValid(validity.not_before.saturating_sub(now)));
        }
        _ if now > validity.not_after => {
            return Err(CheckError::Expired(now.saturating_sub(validity.not_after)));
        }
        _ => {}
    }
    if let [intermediates @ .., last] = rest {
        for name in wanted {
            check_links(leaf, intermediates, last, name, now)?;
        }
    }
    Ok(Checked { leaf: leaf.clone(), validity })
}

fn check_links(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    last: &CertificateDer<'static>,
    name: &str,
    now: i64,
) -> Result<(), CheckError> {
    let chain = |error: &dyn std::fmt::Display| CheckError::Chain(error.to_string());
    let mut roots = RootCertStore::empty();
    roots.add(last.clone()).map_err(|error| chain(&error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| chain(&error))?;
    // A wildcard is no name that anybody connects to; any name that it covers will do.
    let host =
        name.strip_prefix("*.").map_or_else(|| name.to_owned(), |base| format!("any.{base}"));
    let server_name = ServerName::try_from(host).map_err(|error| chain(&error))?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or(0)));
    verifier
        .verify_server_cert(leaf, intermediates, &server_name, &[], now)
        .map_err(|error| chain(&error))?;
    Ok(())
}

/// Certificates in DER as PEM.
pub(crate) fn pem_of(chain: &[&[u8]]) -> String {
    let section = |der: &&[u8]| {
        let text = STANDARD.encode(der);
        let lines: Vec<&str> = (0..text.len())
            .step_by(64)
            .map(|at| text.get(at..text.len().min(at + 64)).unwrap_or_default())
            .collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    };
    chain.iter().map(section).collect()
}

/// The common name that issued the topmost certificate of a chain.
pub(crate) fn topmost_issuer(chain_pem: &str) -> Option<String> {
    let topmost =
        CertificateDer::pem_slice_iter(chain_pem.as_bytes()).take(MAX_CHAIN).last()?.ok()?;
    let (_, parsed) = X509Certificate::from_der(&topmost).ok()?;
    let name = parsed.issuer().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

/// Lower case, in order, without doubles. What is no DNS name is shown too: nobody asked for it.
fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let mut names: Vec<String> = extension
        .value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::DNSName(dns) => dns.to_ascii_lowercase(),
            other => other.to_string(),
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn damaged(error: impl std::fmt::Display) -> CheckError {
    CheckError::Damaged(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rcgen::{
        BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData as _,
    };

    use super::*;

    struct Authority {
        certificate: Certificate,
        issuer: Issuer<'static, KeyPair>,
    }

    fn authority(above: Option<&Authority>, common_name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = match above {
            Some(above) => params.signed_by(&key, &above.issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn leaf(above: &Authority, names: &[&str], key: &KeyPair, from: i32, to: i32) -> Certificate {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        params.signed_by(key, &above.issuer).unwrap()
    }

    #[test]
    fn good_chains_pass_and_everything_else_does_not() {
        const NOW: i64 = 1_800_000_000; // 2027-01-15
        let root = authority(None, "root");
        let middle = authority(Some(&root), "middle");
        let other = authority(Some(&root), "middle");
        let key = KeyPair::generate().unwrap();
        let spki = key.subject_public_key_info();
        let pem = |certificates: &[&Certificate]| {
            certificates.iter().map(|c| c.pem()).collect::<String>()
        };
        let try_at = |chain: &str, now| check(chain, &spki, "a.example", now);

        let good = leaf(&middle, &["a.example"], &key, 2026, 2028);
        let whole = pem(&[&good, &middle.certificate, &root.certificate]);
        let checked = try_at(&whole, NOW).unwrap();
        assert_eq!(&checked.leaf, good.der());
        assert!(checked.validity.not_before < NOW && NOW < checked.validity.not_after);
        try_at(&pem(&[&good, &middle.certificate]), NOW).unwrap();
        try_at(&pem(&[&good]), NOW).unwrap();

        let forged = pem(&[&good, &other.certificate, &root.certificate]);
        assert!(matches!(try_at(&forged, NOW), Err(CheckError::Chain(_))));
        let gap = pem(&[&good, &root.certificate]);
        assert!(matches!(try_at(&gap, NOW), Err(CheckError::Chain(_))));
        assert!(matches!(try_at("", NOW), Err(CheckError::Damaged(_))));
        assert!(matches!(
            try_at(&whole.replacen("MII", "MIJ", 1), NOW),
            Err(CheckError::Damaged(_))
        ));
        let stranger = KeyPair::generate().unwrap().subject_public_key_info();
        assert_eq!(check(&whole, &stranger, "a.example", NOW).unwrap_err(), CheckError::Key);
        for names in [&["b.example"][..], &["a.example", "b.example"], &["*.example"]] {
            let wrong = pem(&[&leaf(&middle, names, &key, 2026, 2028), &middle.certificate]);
            assert!(matches!(try_at(&wrong, NOW), Err(CheckError::Names(_))), "{names:?}");
        }
        let early = pem(&[&leaf(&middle, &["a.example"], &key, 2028, 2029), &middle.certificate]);
        assert!(try_at(&early, NOW).unwrap_err().is_about_time());
        let wildcard = leaf(&middle, &["*.a.example"], &key, 2026, 2028);
        let wildcard = pem(&[&wildcard, &middle.certificate, &root.certificate]);
        check(&wildcard, &spki, "*.a.example", NOW).unwrap();
        assert!(matches!(try_at(&wildcard, NOW), Err(CheckError::Names(_))));
        assert_eq!(topmost_issuer(&whole).as_deref(), Some("root"));
        assert_eq!(topmost_issuer(&pem(&[&good])).as_deref(), Some("middle"));
        assert_eq!(topmost_issuer(""), None);
        let late = pem(&[&leaf(&middle, &["a.example"], &key, 2025, 2026), &middle.certificate]);
        assert!(matches!(try_at(&late, NOW), Err(CheckError::Expired(_))));
    }
}
