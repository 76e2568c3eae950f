//! `cert list`, `cert show`, `cert set` and what the gateway has the authority do.

use std::path::Path;

use config_proto::message::{CertificateChain, CertificateInfo, CertificateList, Request, Sealed};

use super::{paging, print_changed};
use crate::failure::Failure;
use crate::files;
use crate::output::table::{Cell, Table};
use crate::output::{Output, Tone, human};
use crate::session::Session;

/// Certificates that expire within this many seconds stand out: two weeks, when automatic renewal should long have
/// happened.
const SOON: i64 = 14 * 86_400;

pub(super) fn list(session: &mut Session, output: &mut Output) -> Result<(), Failure> {
    let list = CertificateList { certificates: paging::certificates(session, None)?, more: false };
    if output.as_json(&list)? {
        return Ok(());
    }
    if list.certificates.is_empty() {
        output.line(
            "There are no certificates. Add one: tlstunnel-ctl cert set --cert FILE --key FILE",
        )?;
        return Ok(());
    }
    print(output, &list.certificates)
}

/// Prints what clients of a name are shown; of it only the last certificate if so wished.
pub(super) fn show(
    session: &mut Session,
    output: &mut Output,
    name: String,
    last: bool,
) -> Result<(), Failure> {
    let mut chain: CertificateChain = session.ask(&Request::CertShow { name })?;
    if last && let Some(begin) = chain.chain_pem.rfind("-----BEGIN ") {
        chain.chain_pem = chain.chain_pem.split_off(begin);
    }
    if output.as_json(&chain)? {
        return Ok(());
    }
    for line in chain.chain_pem.lines() {
        output.line(line)?;
    }
    Ok(())
}

/// A certificate chain and its key, both PEM.
pub(super) struct Pair {
    chain: String,
    key: String,
}

/// Reads both files and makes sure that each is what it should be.
pub(super) fn read(chain: &Path, key: &Path) -> Result<Pair, Failure> {
    Ok(Pair {
        chain: files::read_pem(chain, "CERTIFICATE")?,
        key: files::read_pem(key, "PRIVATE KEY")?,
    })
}

pub(super) fn set(session: &mut Session, output: &mut Output, pair: Pair) -> Result<(), Failure> {
    let request = Request::CertSet { chain_pem: pair.chain, key_pem: Sealed(pair.key) };
    let changed = session.ask(&request)?;
    print_changed(output, &changed)
}

/// What the gateway has the authority do.
pub(super) fn ask(
    session: &mut Session,
    output: &mut Output,
    request: &Request,
) -> Result<(), Failure> {
    let changed = session.ask(request)?;
    print_changed(output, &changed)
}

/// A table of certificates.
pub(super) fn print(output: &mut Output, certificates: &[CertificateInfo]) -> Result<(), Failure> {
    let now = human::now();
    let mut table = Table::new(&["CERTIFICATE", "EXPIRES", "", "SOURCE", "ISSUER", "SHA-256"]);
    let rows: Vec<Vec<Cell>> = certificates
        .iter()
        .map(|certificate| {
            let left = certificate.not_after.saturating_sub(now);
            let tone = match left {
                ..=0 => Tone::Bad,
                1..SOON => Tone::Warning,
                _ => Tone::Plain,
            };
            let fingerprint: String = certificate.sha256.chars().take(16).collect();
            vec![
                Cell::new(certificate.names.join(", "), Tone::Strong),
                Cell::new(human::moment(certificate.not_after), tone),
                Cell::new(human::distance(certificate.not_after, now), tone),
                Cell::from(&certificate.source),
                Cell::from(&certificate.issuer),
                Cell::new(fingerprint, Tone::Faint),
            ]
        })
        .collect();
    Ok(table.rows(output, &rows)?)
}
