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
