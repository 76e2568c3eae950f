//! Chooses among certificates that anybody may have put there: the one for our key and names that lasts longest, with a
//! chain that holds together.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::check::{CheckError, check_names, pem_of};
use crate::dns::tlsa::Posted;
use crate::schedule::Validity;

/// The longest chain that is built.
const MAX_DEPTH: usize = 6;
/// The most chains that are tried.
const MAX_CHAINS: usize = 32;

/// A certificate with the chain that is served with it.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) pem: String,
    pub(crate) validity: Validity,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoChain {
    #[error("no certificate for it has come yet")]
    None,
    #[error("what has come cannot be used: {0}")]
    Unusable(CheckError),
}

/// The best certificate for the key with this SubjectPublicKeyInfo and exactly these names, in order.
pub(crate) fn choose(
    posted: &Posted,
    public_key: &[u8],
    names: &[String],
    now: i64,
) -> Result<Chain, NoChain> {
    let mut best: Result<Chain, NoChain> = Err(NoChain::None);
    for certificate in &posted.certificates {
        let Ok((_, leaf)) = X509Certificate::from_der(certificate) else { continue };
        // Somebody else's, or from before.
        if leaf.public_key().raw != public_key {
            continue;
        }
        match with_chain(certificate, &posted.authorities, public_key, names, now) {
            Ok(found) => {
                let lasts = |best: &Chain| best.validity.not_after >= found.validity.not_after;
                if !best.as_ref().is_ok_and(lasts) {
                    best = Ok(found);
                }
            }
            Err(error) if best.is_err() => best = Err(NoChain::Unusable(error)),
            Err(_) => {}
        }
    }
    best
}

/// Tries one chain after the other: authorities have several certificates with one name.
fn with_chain(
    leaf: &[u8],
    authorities: &[Vec<u8>],
    public_key: &[u8],
    names: &[String],
    now: i64,
) -> Result<Chain, CheckError> {
    let mut chains = Vec::new();
    extend(vec![leaf], authorities, &mut chains);
    let mut failure = CheckError::Chain("its issuer's certificate has not come".to_owned());
    // Alone it is no good to anybody who does not have the issuer's.
    for chain in chains.into_iter().filter(|chain| chain.len() > 1) {
        match check_names(&pem_of(&chain), public_key, names, now) {
            Ok(checked) => {
                // Whoever trusts a root has it.
                let served = match chain.as_slice() {
                    [rest @ .., last] if !rest.is_empty() && is_self_issued(last) => rest,
                    all => all,
                };
                return Ok(Chain { pem: pem_of(served), validity: checked.validity });
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Adds every chain that begins with `chain` to `chains`.
fn extend<'c>(chain: Vec<&'c [u8]>, authorities: &'c [Vec<u8>], chains: &mut Vec<Vec<&'c [u8]>>) {
    let issuer = chain.last().and_then(|last| X509Certificate::from_der(last).ok());
    let above: Vec<&[u8]> = match issuer {
        Some((_, last)) if chain.len() < MAX_DEPTH && last.issuer() != last.subject() => {
            let candidates = authorities.iter().map(Vec::as_slice).filter(|candidate| {
                let parsed = X509Certificate::from_der(candidate);
                parsed.is_ok_and(|(_, parsed)| parsed.subject() == last.issuer())
            });
            candidates.filter(|candidate| !chain.contains(candidate)).collect()
        }
        _ => Vec::new(),
    };
    for next in &above {
        if chains.len() < MAX_CHAINS {
            extend([chain.as_slice(), &[next]].concat(), authorities, chains);
        }
    }
    if above.is_empty() && chains.len() < MAX_CHAINS {
        chains.push(chain);
    }
}

fn is_self_issued(der: &[u8]) -> bool {
    X509Certificate::from_der(&CertificateDer::from(der))
        .is_ok_and(|(_, parsed)| parsed.issuer() == parsed.subject())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData as _,
    };

    use super::*;

    const NOW: i64 = 1_800_000_000; // 2027-01-15

    struct Authority {
        der: Vec<u8>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn authority(above: Option<&Authority>, common_name: &str, key: KeyPair) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = match above {
            Some(above) => params.signed_by(&key, &above.issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        Authority { der: certificate.der().to_vec(), issuer: Issuer::new(params, key) }
    }

    fn leaf(above: &Authority, names: &[&str], key: &KeyPair, to: i32) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        params.signed_by(key, &above.issuer).unwrap().der().to_vec()
    }

    fn names() -> [String; 2] {
        ["*.a.example".to_owned(), "a.example".to_owned()]
    }

    fn subjects(chain: &Chain) -> Vec<String> {
        use rustls_pki_types::pem::PemObject;
        CertificateDer::pem_slice_iter(chain.pem.as_bytes())
            .map(|der| X509Certificate::from_der(&der.unwrap()).unwrap().1.subject().to_string())
            .collect()
    }

    #[test]
    fn the_one_that_lasts_longest_with_the_chain_that_holds() {
        let root = authority(None, "root", KeyPair::generate().unwrap());
        let middle = authority(Some(&root), "middle", KeyPair::generate().unwrap());
        // The same name with another key: authorities roll over.
        let stale = authority(Some(&root), "middle", KeyPair::generate().unwrap());
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let spki = key.subject_public_key_info();
        let both = ["a.example", "*.a.example"];
        let mut posted = Posted {
            requests: vec![vec![1]],
            certificates: vec![
                b"damaged".to_vec(),
                leaf(&middle, &both, &other, 2040),
                leaf(&middle, &both, &key, 2026),
            ],
            authorities: vec![stale.der, root.der.clone(), b"damaged".to_vec(), middle.der.clone()],
        };
        let found = |posted: &Posted| choose(posted, &spki, &names(), NOW);
        assert!(matches!(found(&posted), Err(NoChain::Unusable(CheckError::Expired(_)))));
        posted.certificates.push(leaf(&middle, &["a.example"], &key, 2040));
        posted.certificates.push(leaf(&middle, &both, &key, 2028));
        posted.certificates.push(leaf(&middle, &both, &key, 2030));
        posted.certificates.push(leaf(&middle, &both, &key, 2029));
        let best = found(&posted).unwrap();
        assert_eq!(best.validity.not_after, rcgen::date_time_ymd(2030, 1, 1).unix_timestamp());
        assert_eq!(subjects(&best).len(), 2, "without the root");
        assert_eq!(subjects(&best).last().unwrap(), "CN=middle");
        posted.authorities.retain(|der| *der != middle.der);
        assert!(matches!(found(&posted), Err(NoChain::Unusable(CheckError::Chain(_)))));
        posted.certificates.clear();
        assert_eq!(found(&posted).unwrap_err(), NoChain::None);
    }

    #[test]
    fn authorities_that_certify_each_other_end() {
        let (one, two) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let copy = |key: &KeyPair| KeyPair::from_pem(&key.serialize_pem()).unwrap();
        let first = authority(None, "one", copy(&one));
        let second = authority(Some(&first), "two", copy(&two));
        let crossed = (0..40).map(|_| authority(Some(&second), "one", copy(&one)).der);
        let back = (0..40).map(|_| authority(Some(&first), "two", copy(&two)).der);
        let key = KeyPair::generate().unwrap();
        let posted = Posted {
            requests: Vec::new(),
            certificates: vec![leaf(&second, &["a.example", "*.a.example"], &key, 2030)],
            authorities: crossed.chain(back).collect(),
        };
        // Whether one of the few that are tried holds is not the point: it ends.
        let _ = choose(&posted, &key.subject_public_key_info(), &names(), NOW);
    }

    proptest! {
        #[test]
        fn hostile_records_are_survived(
            certificates in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..6),
            authorities in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..6),
        ) {
            let posted = Posted { requests: Vec::new(), certificates, authorities };
            prop_assert!(choose(&posted, b"key", &names(), NOW).is_err());
        }
    }
}
