//! What is legal and perhaps not meant, said when it is set up and not only by `check`.

use std::net::IpAddr;

use config_proto::model::{BackendHost, Mode, Route, RouteName};

use crate::tls::certificates::{Certificate, CertificateTable};

/// The most warnings of one answer.
const MAX_WARNINGS: usize = 20;

/// Warnings about routes that are about to be in effect.
pub(super) fn about<'r>(
    routes: impl IntoIterator<Item = &'r Route>,
    certificates: &CertificateTable,
    domains: &[String],
) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut left_out = 0_usize;
    for warning in routes.into_iter().flat_map(|route| about_one(route, certificates, domains)) {
        match warnings.len() < MAX_WARNINGS {
            true => warnings.push(warning),
            false => left_out += 1,
        }
    }
    if left_out > 0 {
        warnings.push(format!("and {left_out} more; tlstunnel-ctl check shows them"));
    }
    warnings
}

fn about_one(route: &Route, certificates: &CertificateTable, domains: &[String]) -> Vec<String> {
    let name = &route.name;
    let mut warnings = Vec::new();
    if coalesces(route, certificates) {
        warnings.push(format!(
            "{name} offers h2 under a certificate that other names share: browsers may send requests for those names \
             on its connections; offer http/1.1 only, or give it a certificate of its own"
        ));
    }
    if terminates(route) && certificate_for(name, certificates).is_none() {
        let missing = match name {
            RouteName::Exact(_) | RouteName::Wildcard(_) if !is_under(name, domains) => {
                "lies outside --domains and no certificate covers it"
            }
            RouteName::Exact(_) | RouteName::Wildcard(_) => "is covered by no certificate",
            RouteName::Default | RouteName::NoSni => "needs a certificate, and there is none",
        };
        warnings.push(format!(
            "{name} {missing}: clients are refused until there is one, from --acme or tlstunnel-ctl cert set"
        ));
    }
    for backend in &route.settings.backends {
        match &backend.host {
            BackendHost::Ip(ip) if ip.is_unspecified() || ip.is_multicast() => {
                warnings.push(format!("{name}: {backend} is no address that can be connected to"));
            }
            BackendHost::Ip(ip) if ip.is_loopback() => {
                warnings.push(format!("{name}: {backend} is on the gateway's own machine"));
            }
            _ => {}
        }
    }
    warnings
}

/// Whether the gateway shows a certificate for this route.
pub(crate) fn terminates(route: &Route) -> bool {
    matches!(route.settings.mode, Mode::Terminate | Mode::Reencrypt)
}

/// Whether the route itself says that HTTP/2 is offered.
pub(crate) fn offers_h2(route: &Route) -> bool {
    let alpn = route.settings.alpn.as_ref();
    alpn.is_some_and(|alpn| alpn.iter().any(|protocol| protocol == "h2"))
}

/// Whether a browser may take a connection of this route for one to another name (RFC 9113, section 9.1.1): `h2` is
/// offered explicitly under a certificate that is not this name's alone.
pub(crate) fn coalesces(route: &Route, certificates: &CertificateTable) -> bool {
    let own = |certificate: &Certificate| match &route.name {
        RouteName::Exact(host) => certificate.is_own(host),
        _ => false,
    };
    offers_h2(route)
        && terminates(route)
        && certificate_for(&route.name, certificates).is_some_and(|certificate| !own(certificate))
}

/// The certificate that is shown for a route's name. For a wildcard route: for the names directly below it.
pub(crate) fn certificate_for<'t>(
    name: &RouteName,
    certificates: &'t CertificateTable,
) -> Option<&'t Certificate> {
    match name {
        RouteName::Exact(host) => certificates.find(Some(host)),
        RouteName::Wildcard(parent) => certificates.find(Some(&format!("*.{parent}"))),
        RouteName::Default | RouteName::NoSni => certificates.default_certificate(),
    }
    .map(AsRef::as_ref)
}

/// Whether an address can be reached over the internet, as far as an address can tell.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            // Shared address space of carriers: RFC 6598.
            let shared = a == 100 && (64..128).contains(&b);
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_documentation()
                || v4.is_broadcast()
                || v4.is_multicast()
                || shared)
        }
        IpAddr::V6(v6) => {
            // Global unicast addresses are 2000::/3 (RFC 4291), of which 2001:db8::/32 is for documentation.
            let [a, b, ..] = v6.segments();
            a & 0xe000 == 0x2000 && !(a == 0x2001 && b == 0x0db8)
        }
    }
}

fn is_under(name: &RouteName, domains: &[String]) -> bool {
    let (RouteName::Exact(host) | RouteName::Wildcard(host)) = name else { return true };
    domains.iter().any(|domain| {
        host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses() {
        for public in ["8.8.8.8", "2a00::1", "::ffff:8.8.8.8"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in
            ["10.0.0.1", "100.64.0.1", "127.0.0.1", "::1", "fd00::1", "fe80::1", "2001:db8::1"]
        {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn domains_end_at_labels() {
        let domains = ["example.org".to_owned()];
        assert!(is_under(&"a.example.org".parse().unwrap(), &domains));
        assert!(is_under(&"*.example.org".parse().unwrap(), &domains));
        assert!(!is_under(&"badexample.org".parse().unwrap(), &domains));
    }

    #[test]
    fn loopback_and_missing_certificates_are_said() {
        let route = Route::new("blog.test".parse().unwrap(), vec!["127.0.0.1:80".parse().unwrap()]);
        let warnings = about([&route], &CertificateTable::default(), &[]);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        let many: Vec<Route> = std::iter::repeat_n(route, 50).collect();
        let warnings = about(&many, &CertificateTable::default(), &[]);
        assert_eq!(warnings.len(), MAX_WARNINGS + 1);
        assert!(warnings[MAX_WARNINGS].contains("80 more"));
    }
}
