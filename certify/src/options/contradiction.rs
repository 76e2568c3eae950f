//! Options that contradict each other, or do nothing without another, as far as the command line's own rules cannot say it.

use super::AcmeOptions;
use crate::settings::ChallengeKind;

/// Why options cannot be followed together. Whoever wrote them is to change them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Contradiction {
    /// It is about an authority's certificates, and there is no authority.
    #[error("--{0} is about certificates from an authority: say which with --acme")]
    WithoutAuthority(&'static str),
    /// It is a way of another challenge.
    #[error(
        "--{option} makes TXT records, which {challenge} does not use: add --acme-challenge dns-01, or leave it out"
    )]
    OtherChallenge {
        /// The option.
        option: &'static str,
        /// The challenge that is to be answered.
        challenge: ChallengeKind,
    },
    /// A challenge that takes more to be answered.
    #[error(
        "dns-01 needs a way to make TXT records: --dns-server with --dns-key, --dns-hook, --dns-hook-acme-dns, or --acme-dns-listen with --acme-dns-zone"
    )]
    NoWay,
    /// A wildcard certificate cannot be obtained by this challenge (RFC 8555, section 7.1.3; every authority's policy).
    #[error("a certificate for {0} takes --acme-challenge dns-01")]
    Wildcard(String),
}

impl AcmeOptions {
    /// Whether these options can be followed together.
    ///
    /// # Errors
    /// The first [`Contradiction`].
    pub fn consistent(&self) -> Result<(), Contradiction> {
        let dns = &self.dns;
        let ways = [
            ("dns-server", dns.dns_server.is_some()),
            ("dns-hook", dns.dns_hook.is_some()),
            ("dns-hook-acme-dns", dns.dns_hook_acme_dns.is_some()),
            ("acme-dns-listen", !dns.acme_dns_listen.is_empty()),
        ];
        let mut way = ways.into_iter().filter(|(_, given)| *given).map(|(option, _)| option);
        if self.acme.is_none() {
            let about = [
                ("acme-challenge", self.acme_challenge != ChallengeKind::default()),
                ("acme-eab", self.acme_eab.is_some()),
                ("acme-profile", !self.acme_profile.is_empty()),
                ("acme-key-type", !self.acme_key_type.is_empty()),
                ("acme-preferred-chain", self.acme_preferred_chain.is_some()),
                ("acme-domain", !dns.acme_domain.is_empty()),
            ];
            let about = about.into_iter().find(|(_, given)| *given).map(|(option, _)| option);
            // A server for updates is also the original's way, which needs no authority here.
            let left = about.or_else(|| way.find(|option| *option != "dns-server"));
            return left.map_or(Ok(()), |option| Err(Contradiction::WithoutAuthority(option)));
        }
        let challenge = self.acme_challenge;
        if challenge == ChallengeKind::Dns01 {
            return way.next().map_or(Err(Contradiction::NoWay), |_| Ok(()));
        }
        if let Some(option) = way.next() {
            return Err(Contradiction::OtherChallenge { option, challenge });
        }
        let wildcard = dns.acme_domain.iter().find(|name| name.starts_with("*."));
        wildcard.map_or(Ok(()), |name| Err(Contradiction::Wildcard(name.clone())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        acme: AcmeOptions,
    }

    fn said(line: &str) -> Option<String> {
        let words = std::iter::once("program").chain(line.split_whitespace());
        let options = Program::try_parse_from(words).unwrap().acme;
        options.consistent().err().map(|error| error.to_string())
    }

    const UPDATE: &str = "--dns-server 192.0.2.1 --dns-key acme:SHA256:AAECAwQFBgcICQoLDA0ODw==";
    const ZONE: &str =
        "--acme-dns-listen 127.0.0.1:53 --acme-dns-zone acme.test --acme-dns-name-server ns.test";

    #[test]
    fn what_goes_together() {
        for line in [
            "",
            UPDATE,
            "--acme letsencrypt",
            "--acme letsencrypt --acme-domain a.example.org",
            &format!("--acme letsencrypt --acme-challenge dns-01 --acme-domain *.a.test {UPDATE}"),
            &format!("--acme letsencrypt --acme-challenge dns-01 {ZONE}"),
        ] {
            assert_eq!(said(line), None, "{line}");
        }
    }

    #[test]
    fn what_contradicts_names_the_option_to_change() {
        for (line, expected) in [
            ("--acme-challenge dns-01", "--acme-challenge is about"),
            ("--acme-domain a.test", "--acme-domain is about"),
            ("--acme-profile shortlived", "--acme-profile is about"),
            ("--acme-key-type p384", "--acme-key-type is about"),
            ("--acme-eab kid:AAECAwQFBgcICQoLDA0ODw", "--acme-eab is about"),
            ("--acme-preferred-chain Root", "--acme-preferred-chain is about"),
            ("--dns-hook https://hook.test", "--dns-hook is about"),
            (ZONE, "--acme-dns-listen is about"),
            (&format!("--acme-challenge dns-01 {UPDATE}"), "--acme-challenge is about"),
            (
                &format!("--acme letsencrypt {UPDATE}"),
                "--dns-server makes TXT records, which http-01",
            ),
            (
                &format!("--acme letsencrypt --acme-challenge tls-alpn-01 {ZONE}"),
                "--acme-dns-listen makes TXT records, which tls-alpn-01",
            ),
            ("--acme letsencrypt --acme-challenge dns-01", "dns-01 needs a way"),
            ("--acme letsencrypt --acme-domain *.a.test", "*.a.test takes --acme-challenge dns-01"),
        ] {
            let said = said(line).unwrap_or_default();
            assert!(said.contains(expected), "{line}: {said}");
        }
    }
}
