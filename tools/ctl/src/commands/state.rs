//! `status`, `why` and `check`.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use config_proto::message::{CertificateInfo, Check, Finding, Request, Severity, Status, Why};

use super::{certificates, paging};
use crate::failure::Failure;
use crate::output::human::{bytes, clean, plural, span};
use crate::output::{Output, Tone, settings as show_settings};
use crate::session::Session;

pub(super) fn status(session: &mut Session, output: &mut Output) -> Result<(), Failure> {
    let mut status: Status = session.ask(&Request::Status)?;
    if std::mem::take(&mut status.more_certificates) {
        let last = status.certificates.last().map(CertificateInfo::cursor);
        status.certificates.append(&mut paging::certificates(session, last)?);
    }
    if output.as_json(&status)? {
        return Ok(());
    }
    output.field("gateway", &format!("{} (tlstunnel {})", status.name, status.version))?;
    output.field("up for", &span(Duration::from_secs(status.uptime_seconds)))?;
    output.field("generation", &status.generation.to_string())?;
    output.field("routes", &status.routes.to_string())?;
    if !status.domains.is_empty() {
        output.field("domains", &status.domains.join(", "))?;
    }
    output.field("connections", &format!("{} open, {} since start", status.open, status.total))?;
    if status.backends_down != 0 {
        output.field("down", &plural(status.backends_down, "backend"))?;
    }
    if status.control_refusals != 0 {
        output.field("refused", &plural(status.control_refusals, "control request"))?;
    }
    let (used, capacity) = (status.storage.used, status.storage.capacity);
    output.field("storage", &format!("{} of {} used", bytes(used), bytes(capacity)))?;
    if let Some(memory) = &status.route_memory {
        let (used, limit) = (bytes(memory.used), bytes(memory.limit));
        output.field("memory", &format!("{used} of {limit} for routes used"))?;
    }
    if let Some(pending) = &status.pending {
        let text = format!(
            "generation {} is undone in {} unless: tlstunnel-ctl confirm",
            pending.generation,
            span(Duration::from_secs(pending.seconds_left))
        );
        let text = output.paint(Tone::Warning, &text);
        let label = output.paint(Tone::Faint, &format!("{:<14}", "pending"));
        writeln!(output, "{label} {text}")?;
    }
    for problem in &status.problems {
        let label = output.paint(Tone::Bad, &format!("{:<14}", "problem"));
        writeln!(output, "{label} {}", clean(problem))?;
    }
    if !status.certificates.is_empty() {
        writeln!(output)?;
        certificates::print(output, &status.certificates)?;
    }
    Ok(())
}

pub(super) fn why(
    session: &mut Session,
    output: &mut Output,
    name: Option<String>,
    from: Option<IpAddr>,
) -> Result<(), Failure> {
    let why: Why = session.ask(&Request::Why { name, from })?;
    if output.as_json(&why)? {
        return Ok(());
    }
    output.field("server name", why.server_name.as_deref().unwrap_or("(none sent)"))?;
    match &why.route {
        Some(route) => {
            let mode = show_settings::mode(route.settings.mode);
            output.field("route", &format!("{} ({mode})", route.name))?;
        }
        None => output.field("route", "none")?,
    }
    if let Some(certificate) = &why.certificate {
        output.field("certificate", &certificate.names.join(", "))?;
    }
    if !why.alpn.is_empty() {
        output.field("alpn offered", &why.alpn.join(", "))?;
    }
    output.field("backend", why.backend.as_deref().unwrap_or("none"))?;
    for (number, step) in why.steps.iter().enumerate() {
        output.line(&format!("{:>3}. {step}", number + 1))?;
    }
    Ok(())
}

/// Prints the findings, and fails if one is a danger, so that a script or CI job can stop on it.
pub(super) fn check(session: &mut Session, output: &mut Output) -> Result<(), Failure> {
    let check: Check = session.ask(&Request::Check)?;
    if !output.as_json(&check)? {
        if check.findings.is_empty() {
            output.line("Nothing dangerous was found.")?;
        }
        check.findings.iter().try_for_each(|finding| print_finding(output, finding))?;
        if check.more {
            output.line("There are more findings, of less weight.")?;
        }
    }
    if check.findings.iter().any(|finding| finding.severity == Severity::Danger) {
        return Err(Failure::Danger);
    }
    Ok(())
}

fn print_finding(output: &mut Output, finding: &Finding) -> Result<(), Failure> {
    let (word, tone) = match finding.severity {
        Severity::Danger => ("danger", Tone::Bad),
        Severity::Warning => ("warning", Tone::Warning),
        Severity::Note => ("note", Tone::Faint),
    };
    let word = output.paint(tone, word);
    writeln!(output, "{word}: {}: {}", clean(&finding.subject), clean(&finding.message))?;
    output.line(&format!("    {}", finding.advice))?;
    Ok(())
}
