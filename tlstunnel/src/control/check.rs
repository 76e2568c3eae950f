//! Settings that are legal and dangerous, found by looking at everything that is in effect.

use certify::schedule::is_ending;
use config_proto::message::{Check, Finding, Severity};
use config_proto::model::{BackendHost, Mode, Route, RouteName};

use super::Control;
use crate::config::unix_now;
use crate::config::warnings::{certificate_for, coalesces, is_public, terminates};
use crate::gateway::Snapshot;
use crate::tls::certificates::{Certificate, Source};

const DAY: i64 = 86_400;
/// In the last third of the time in which a certificate's end is a problem, it is dangerous: service ends soon.
const DANGER: i64 = 3;
/// What is left of a certificate is said in hours below this.
const DAYS_ARE_COUNTED: i64 = 2 * DAY;
/// The most names that one finding lists.
const NAMES_LISTED: usize = 5;

impl Control {
    /// Everything that `check` finds now.
    pub(super) fn check(&self) -> Check {
        let findings = self.findings(&self.gateway.snapshot.load_full(), unix_now());
        Check { findings, more: false }
    }

    /// In order of weight.
    pub(super) fn findings(&self, snapshot: &Snapshot, now: i64) -> Vec<Finding> {
        let mut findings = Vec::new();
        for active in snapshot.routes.iter_after(None) {
            about_route(&active.route, snapshot, &mut findings);
        }
        for certificate in snapshot.certificates.iter() {
            findings.extend(expiry(certificate, self.settings.certificate_alert, now));
        }
        let report = self.gateway.certificates.read();
        findings.extend(issuance(&report, now));
        findings.extend(files_and_clock(&report));
        findings.extend(unnamed_clients(snapshot));
        if self.settings.v1_key.is_some() {
            findings.push(finding(
                Severity::Warning,
                "control",
                "protocol v1 is enabled: its requests can be recorded and sent again, and its answers forged",
                "use tlstunnel-ctl and start the gateway without --control-v1",
            ));
        }
        if let Some(pending) = self.configuration.pending() {
            findings.push(finding(
                Severity::Warning,
                "control",
                format!(
                    "generation {} is undone in {} seconds",
                    pending.generation, pending.seconds_left
                ),
                format!("tlstunnel-ctl confirm {} keeps it", pending.generation),
            ));
        }
        findings.sort_by(|a, b| (a.severity, &a.subject).cmp(&(b.severity, &b.subject)));
        findings
    }
}

fn about_route(route: &Route, snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let name = route.name.to_string();
    if coalesces(route, &snapshot.certificates) {
        let others = names_sharing(route, snapshot);
        findings.push(finding(
            Severity::Danger,
            &name,
            format!(
                "h2 is offered under a certificate that others share: browsers may send requests for {others} on its \
                 connections, and its backend would get them"
            ),
            "remove h2 from its ALPN, or set a certificate for this name alone",
        ));
    }
    if terminates(route) && certificate_for(&route.name, &snapshot.certificates).is_none() {
        findings.push(finding(
            Severity::Danger,
            &name,
            "no certificate covers it: clients are refused",
            "tlstunnel-ctl cert set, or --acme, or use mode passthrough",
        ));
    }
    if route.settings.mode == Mode::Terminate {
        for backend in &route.settings.backends {
            if let BackendHost::Ip(ip) = backend.host
                && is_public(ip)
            {
                findings.push(finding(
                    Severity::Warning,
                    &name,
                    format!("the plain stream goes to {backend}, a public address: others can read it on its way"),
                    "use mode reencrypt or passthrough, or a private network",
                ));
            }
        }
    }
    if route.settings.backend_tls.is_some() && route.settings.mode != Mode::Reencrypt {
        findings.push(finding(
            Severity::Note,
            &name,
            "it says how the backend is verified, but its mode does not encrypt towards the backend",
            "use mode reencrypt",
        ));
    }
}

/// Some of the other names that a browser may take for the same server.
fn names_sharing(route: &Route, snapshot: &Snapshot) -> String {
    let Some(shared) = certificate_for(&route.name, &snapshot.certificates) else {
        return String::new();
    };
    let mut others = snapshot
        .routes
        .iter_after(None)
        .filter(|active| active.route.name != route.name && terminates(&active.route))
        .filter(|active| {
            certificate_for(&active.route.name, &snapshot.certificates)
                .is_some_and(|certificate| certificate.sha256() == shared.sha256())
        })
        .map(|active| active.route.name.to_string());
    let mut listed: Vec<String> = others.by_ref().take(NAMES_LISTED).collect();
    if others.next().is_some() {
        listed.push("others".to_owned());
    }
    match listed.is_empty() {
        true => shared.names().join(", "),
        false => listed.join(", "),
    }
}

fn expiry(certificate: &Certificate, alert: i64, now: i64) -> Option<Finding> {
    let validity = certificate.validity();
    if !is_ending(validity, alert, now) {
        return None;
    }
    let left = certificate.not_after().saturating_sub(now);
    let subject = certificate.names().first().cloned().unwrap_or_default();
    let (severity, message) = match left {
        ..0 => (Severity::Danger, "its certificate has expired".to_owned()),
        0..DAYS_ARE_COUNTED => {
            (Severity::Danger, format!("its certificate ends in {} hours", left / 3600))
        }
        _ if is_ending(validity, alert / DANGER, now) => {
            (Severity::Danger, format!("its certificate ends in {} days", left / DAY))
        }
        _ => (Severity::Warning, format!("its certificate ends in {} days", left / DAY)),
    };
    let advice = match certificate.source() {
        Source::Acme => "tlstunnel-ctl status says why it is not renewed",
        Source::File => "renew it; its files are read again when they change",
        _ => "renew it and use tlstunnel-ctl cert set",
    };
    Some(finding(severity, subject, message, advice))
}

/// Certificate files that cannot be used any more, and a clock by which no certificate can be judged.
fn files_and_clock(report: &certify::Report) -> Vec<Finding> {
    let files = report.files.iter().map(|(file, error)| {
        finding(
            Severity::Warning,
            file,
            format!("it has changed and is not used, the certificate before it is: {error}"),
            "write certificate and key anew, both",
        )
    });
    let clock = report.clock_ahead.map(|ahead| {
        let direction = if ahead > 0 { "ahead" } else { "behind" };
        finding(
            Severity::Danger,
            "clock",
            format!("the clock is {} minutes {direction}", ahead.saturating_abs() / 60),
            "set it: renewals come at the wrong time, and certificates seem expired or not valid yet",
        )
    });
    files.chain(clock).collect()
}

/// What fails on the way to certificates from an authority.
fn issuance(report: &certify::Report, now: i64) -> Vec<Finding> {
    let about = |subject: &str, problem: &certify::Problem, advice: &str| {
        let minutes = problem.next_attempt.saturating_sub(now).max(0).saturating_add(59) / 60;
        finding(
            Severity::Warning,
            subject,
            format!(
                "no certificate could be obtained ({} attempts): {}; next attempt within {minutes} min",
                problem.failures, problem.error
            ),
            advice,
        )
    };
    let of_authority = report.authority.iter().map(|problem| {
        about("acme", problem, "is --acme right, and can the authority be reached from here?")
    });
    let of_names = report.failing.iter().map(|(name, problem)| {
        about(name, problem, "does its DNS entry point here, and can the authority reach the port?")
    });
    of_authority.chain(of_names).collect()
}

/// Whether clients without a server name, such as scanners that try addresses, reach a backend.
fn unnamed_clients(snapshot: &Snapshot) -> Option<Finding> {
    let route = snapshot.routes.lookup(None).route?;
    if route.route.settings.mode == Mode::Reject {
        return None;
    }
    let advice = match route.route.name {
        RouteName::Default => {
            "if that is not meant: tlstunnel-ctl add no-sni --mode reject keeps them out"
        }
        _ => "if that is not meant: remove the route no-sni, or give it mode reject",
    };
    Some(finding(
        Severity::Note,
        route.route.name.to_string(),
        "clients that send no server name, such as scanners of addresses, reach a backend and see a certificate with \
         its names",
        advice,
    ))
}

fn finding(
    severity: Severity,
    subject: impl Into<String>,
    message: impl Into<String>,
    advice: impl Into<String>,
) -> Finding {
    Finding { severity, subject: subject.into(), message: message.into(), advice: advice.into() }
}
