//! Answers to "why does this happen" and "is this what I want".

use serde::{Deserialize, Serialize};

use super::CertificateInfo;
use crate::model::Route;

/// What would become of a connection, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Why {
    /// The server name in its compared form; absent for none.
    pub server_name: Option<String>,
    /// The route that matches.
    pub route: Option<Route>,
    /// The certificate that is served.
    pub certificate: Option<CertificateInfo>,
    /// ALPN protocols that are offered.
    pub alpn: Vec<String>,
    /// The backend that would be tried first.
    pub backend: Option<String>,
    /// Each decision with its reason, in order.
    pub steps: Vec<String>,
}

/// Settings that are legal and dangerous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Check {
    /// In order of weight, as many as a page holds.
    pub findings: Vec<Finding>,
    /// Whether there are more, of less weight.
    #[serde(default)]
    pub more: bool,
}

/// One finding of a [`Check`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: a route's name, a certificate, `control`.
    pub subject: String,
    /// What is the matter.
    pub message: String,
    /// What to do.
    pub advice: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Wrong data can reach the wrong place, or service ends soon.
    Danger,
    /// Probably not meant.
    Warning,
    /// Worth knowing.
    Note,
}
