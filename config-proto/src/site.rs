//! The sites of a site server (`unipi`): what is configured, and what is told about them.
//!
//! Secrets are not part of [`SiteSettings`]: they travel sealed beside it, in
//! [`Request::SiteAdd`](crate::message::Request::SiteAdd), and never come back.

use serde::{Deserialize, Serialize};

/// Everything about a site but its name and its secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SiteSettings {
    /// The repository: https, http, git or ssh, without user and password. Absent: the site is pushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The branch or tag. Absent: the remote's own, and `main` for a site that is pushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// What object ids are while nothing was pushed yet: `sha1` or `sha256`. Absent: `sha1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_format: Option<String>,
    /// The user for HTTP, beside the password. Absent: `git`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The SSH server's key: a fingerprint, a public key, or a line of `known_hosts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authenticator: Option<String>,
    /// The text of an `allowed_signers` file (ssh-keygen(1)): only what one of these keys signed goes live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_signers: Option<String>,
    /// Looks at the remote every so many seconds, unasked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poll_seconds: Option<u64>,
    /// Bytes that the site may have. Absent: the server's limit, which is also the most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// Generations that are kept. Absent: the server's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<u16>,
}

/// A page of sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SiteList {
    /// In order of their names.
    pub sites: Vec<SiteInfo>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// A site and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SiteInfo {
    /// The host name, or `default` for all that no site is named for.
    pub name: String,
    /// Where it comes from. The text of allowed signers is left out.
    pub settings: SiteSettings,
    /// Whether the command line configured it, and not a `site-add`.
    pub fixed: bool,
    /// Whether a webhook is believed.
    pub hook: bool,
    /// Whether it takes pushes.
    pub push: bool,
    /// How many signers are allowed; absent when unsigned commits go live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signers: Option<u64>,
    /// The generation that is live; absent when there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<SiteGeneration>,
    /// Whether new generations wait.
    pub pinned: bool,
    /// Why the last attempt failed; absent when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// A state of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SiteGeneration {
    /// Its number, for `site-rollback`.
    pub number: u64,
    /// The commit's id.
    pub commit: String,
    /// When it was committed, seconds since 1970.
    pub time: u64,
    /// Who wrote it.
    pub author: String,
    /// The first line of its message.
    pub subject: String,
    /// Bytes of all files.
    pub size: u64,
    /// Files.
    pub files: u64,
    /// Problems that do not keep it from being served.
    pub problems: u64,
}

/// What happened to a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SiteLog {
    /// The site's name.
    pub name: String,
    /// The number of the generation that is live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<u64>,
    /// Whether new generations wait.
    pub pinned: bool,
    /// What can be gone back to, oldest first.
    pub kept: Vec<SiteGeneration>,
    /// Newest first.
    pub log: Vec<SiteDeploy>,
}

/// An attempt to change a site, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SiteDeploy {
    /// When, in seconds since 1970.
    pub time: u64,
    /// `live`, `held`, `rolled-back`, `failed`, `pinned` or `unpinned`.
    pub outcome: String,
    /// Who or what asked for it.
    pub by: String,
    /// The generation that came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<SiteGeneration>,
    /// What is wrong with it, or why there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}
