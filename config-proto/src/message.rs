//! What client and server say to each other in protocol v2: one [`Request`], one [`Reply`], both JSON.
//!
//! Every request names its operation in the field `op`. A reply is either `{"ok": …}` with the operation's own result or
//! `{"error": …}` with who is to blame and what to do. Lists are paged, so that a frame stays bounded however many
//! routes there are. `PROTOCOL.md` is the specification for other languages.

use serde::{Deserialize, Serialize};

use crate::model::{Document, Route, RouteName};
use crate::site::SiteSettings;

/// Most entries of one page of a list.
pub const MAX_PAGE: u32 = 1000;
/// Longest text of a refusal on the wire, in bytes; a longer one ends in `…`.
pub const MAX_REFUSAL_TEXT: usize = 1024;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Request {
    /// Adds a route, or replaces the one of the same name if `replace` is set. → [`Changed`]
    Add {
        /// The name as the user typed it; a name without dots goes under the gateway's domain.
        name: String,
        /// Everything else about the route.
        settings: crate::model::RouteSettings,
        /// Whether an existing route of that name may be replaced.
        #[serde(default)]
        replace: bool,
    },
    /// Removes a route. → [`Changed`]
    Remove {
        /// The name, completed as in `Add`.
        name: String,
    },
    /// The routes in order of their names. → [`RouteList`]
    List {
        /// Only names that contain this text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filter: Option<String>,
        /// Only names after this one: the cursor of the next page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<RouteName>,
        /// Entries wanted, at most [`MAX_PAGE`].
        #[serde(default = "max_page")]
        limit: u32,
    },
    /// One route with the live state of its backends. → [`RouteDetail`]
    Show {
        /// The name, completed as in `Add`.
        name: String,
    },
    /// The gateway's state. → [`Status`]
    Status,
    /// Generations, newest first. → [`History`]
    History {
        /// Only generations below this one: the cursor of the next page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<u64>,
        /// Entries wanted, at most [`MAX_PAGE`].
        #[serde(default = "max_page")]
        limit: u32,
    },
    /// What changed between two generations. → [`Diff`]
    Diff {
        /// The older one.
        from: u64,
        /// The newer one; absent means the current one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
    },
    /// Makes the routes those of an earlier generation, as a new generation. → [`Changed`]
    Rollback {
        /// The generation whose routes are wanted.
        generation: u64,
    },
    /// Makes the routes those of a document; what it does not name is removed. → [`Applied`]
    Apply {
        /// All the routes.
        document: Document,
        /// Only says what would change.
        #[serde(default)]
        dry_run: bool,
        /// Seconds after which the change is undone unless [`Request::Confirm`] comes first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confirm_seconds: Option<u32>,
    },
    /// Keeps a change that was applied with `confirm_seconds`. → [`Changed`]
    Confirm {
        /// The generation that the change made.
        generation: u64,
    },
    /// What would become of a connection. → [`Why`]
    Why {
        /// The server name; absent means a ClientHello without one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The client's address, for hashing and caps.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<std::net::IpAddr>,
    },
    /// Settings that are legal and dangerous. → [`Check`]
    Check,
    /// The certificates. → [`CertificateList`]
    CertList,
    /// Adds a certificate, or replaces the one for the same names. → [`Changed`]
    CertSet {
        /// PEM: the certificate and its intermediates.
        chain_pem: String,
        /// PEM: the private key, sealed on the wire (`PROTOCOL.md`, "Sealed values").
        key_pem: Sealed,
    },
    /// Obtains a new certificate from the authority for a name, whatever the age of the one in use; answers when that has
    /// been taken note of. → [`Changed`]
    CertRenew {
        /// The name, completed as in `Add`.
        name: String,
    },
    /// Has the authority revoke the certificate in use for a name, and obtains a new one with a new key. → [`Changed`]
    CertRevoke {
        /// The name, completed as in `Add`.
        name: String,
        /// Why.
        #[serde(default)]
        reason: RevocationReason,
    },
    /// Gives the account with the authority a new key. → [`Changed`]
    CertRollOver,
    /// Makes a control key. → [`KeyAdded`]
    KeyAdd {
        /// Its id: 1 to 64 letters, digits, `-`, `_`, `.`.
        id: String,
        /// What it may do.
        role: Role,
    },
    /// The control keys, without their secrets. → [`KeyList`]
    KeyList,
    /// Removes a control key; its connections end. → [`Changed`]
    KeyRemove {
        /// Its id.
        id: String,
    },
    /// Live connections and rates. → [`Top`]
    Top {
        /// Most connections and routes wanted, at most [`MAX_PAGE`].
        #[serde(default = "max_page")]
        limit: u32,
    },
    /// Adds a site, or replaces the one of the same name if `replace` is set; secrets that are not given then stay, those
    /// of the remote only as long as its host stays. → [`Changed`]
    SiteAdd {
        /// The host name that it is served for, or `default` for all others.
        name: String,
        /// Everything else about it but its secrets.
        settings: SiteSettings,
        /// Whether an existing site of that name may be replaced.
        #[serde(default)]
        replace: bool,
        /// What webhooks are signed with; sealed on the wire, as all that follow.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hook_secret: Option<Sealed>,
        /// What `git push` to the site gives as password.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        push_token: Option<Sealed>,
        /// The private key for the remote: OpenSSH or PKCS#8 PEM.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ssh_key: Option<Sealed>,
        /// The password or access token for the remote over HTTP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password: Option<Sealed>,
    },
    /// Removes a site and everything that is kept of it. → [`Changed`]
    SiteRemove {
        /// Its name.
        name: String,
    },
    /// The sites in order of their names. → [`crate::site::SiteList`]
    SiteList {
        /// Only names that contain this text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filter: Option<String>,
        /// Only names after this one: the cursor of the next page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        /// Entries wanted, at most [`MAX_PAGE`].
        #[serde(default = "max_page")]
        limit: u32,
    },
    /// Looks at a site's remote now; answers before it has. → [`Changed`]
    SiteRefresh {
        /// Its name.
        name: String,
    },
    /// Makes an earlier generation of a site the live one. → [`Changed`]
    SiteRollback {
        /// Its name.
        name: String,
        /// Which generation; absent means the one that was live before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        generation: Option<u64>,
    },
    /// Keeps what is live until it is unpinned: new generations wait. → [`Changed`]
    SitePin {
        /// Its name.
        name: String,
        /// Whether to pin or to unpin; then the newest generation goes live.
        pinned: bool,
    },
    /// What happened to a site, and what is kept of it. → [`crate::site::SiteLog`]
    SiteLog {
        /// Its name.
        name: String,
        /// Entries wanted, at most [`MAX_PAGE`].
        #[serde(default = "max_page")]
        limit: u32,
    },
}

impl Request {
    /// Reads a request from its JSON form.
    ///
    /// # Errors
    /// When the operation or a field is unknown, or a value has the wrong form.
    pub fn from_json(value: serde_json::Value) -> Result<Self, serde_json::Error> {
        let fields = value.as_object().map_or(0, serde_json::Map::len);
        let request: Self = serde_json::from_value(value)?;
        // `deny_unknown_fields` does not reach the operations without fields.
        match request {
            Self::Status | Self::Check | Self::CertList | Self::CertRollOver | Self::KeyList
                if fields > 1 =>
            {
                Err(serde::de::Error::custom("this operation has no fields besides op"))
            }
            _ => Ok(request),
        }
    }
}

const fn max_page() -> u32 {
    MAX_PAGE
}

/// Why a certificate is revoked (RFC 5280, section 5.3.1), as far as its holder can know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RevocationReason {
    /// None is given.
    #[default]
    Unspecified,
    /// Somebody else may have the key.
    KeyCompromise,
    /// The holder's name or organisation changed.
    AffiliationChanged,
    /// Another certificate took its place.
    Superseded,
    /// The name is served no more.
    CessationOfOperation,
}

/// A secret text inside a message. In the program it is plain; on the wire it is sealed with the connection's sealing
/// key (the codec does that), so that a recorded frame plus a later reading of logs gives nobody a private key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(pub String);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealed(..)")
    }
}

/// What the holder of a control key may do.
///
/// Text form: `admin`, `viewer`, or `names:*.team.example.org`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Role {
    /// Everything.
    Admin,
    /// Reading only, and no secrets.
    Viewer,
    /// Reading, and adding and removing routes whose names lie under this wildcard.
    Names(RouteName),
}

/// Why a text is not a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a role: admin, viewer, or names:*.team.example.org")]
pub struct RoleError(pub String);

impl std::str::FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        match text {
            "admin" => Ok(Self::Admin),
            "viewer" => Ok(Self::Viewer),
            _ => match text.strip_prefix("names:").map(str::parse) {
                Some(Ok(name @ (RouteName::Wildcard(_) | RouteName::Exact(_)))) => {
                    Ok(Self::Names(name))
                }
                _ => Err(RoleError(text.to_owned())),
            },
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::Viewer => f.write_str("viewer"),
            Self::Names(scope) => write!(f, "names:{scope}"),
        }
    }
}

impl TryFrom<String> for Role {
    type Error = RoleError;

    fn try_from(text: String) -> Result<Self, RoleError> {
        text.parse()
    }
}

impl From<Role> for String {
    fn from(role: Role) -> Self {
        role.to_string()
    }
}

/// What a server answers: the result of the operation, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply<T> {
    /// It was done.
    Ok(T),
    /// It was refused; nothing changed.
    Error(Refusal),
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind, for programs.
    pub code: RefusalCode,
    /// One sentence for people.
    pub message: String,
    /// What to try next, when there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Refusal {
    /// The same refusal with texts of at most [`MAX_REFUSAL_TEXT`] bytes. Messages quote what the client sent, which can
    /// be as long as a frame, and a refusal must always fit into one.
    #[must_use]
    pub fn shortened(&self) -> Self {
        Self {
            code: self.code,
            message: shortened(&self.message),
            hint: self.hint.as_deref().map(shortened),
        }
    }
}

fn shortened(text: &str) -> String {
    if text.len() <= MAX_REFUSAL_TEXT {
        return text.to_owned();
    }
    let room = MAX_REFUSAL_TEXT - '…'.len_utf8();
    let fits = |(start, c): &(usize, char)| start + c.len_utf8() <= room;
    text.char_indices().take_while(fits).map(|(_, c)| c).chain(['…']).collect()
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RefusalCode {
    /// The request is not understood: wrong JSON, unknown operation or field.
    Malformed,
    /// A value in it is not valid.
    Invalid,
    /// The key's role does not allow it.
    Forbidden,
    /// There is no such route, generation, key or certificate.
    NotFound,
    /// It exists already, and replacing it was not asked for.
    Exists,
    /// The store is full.
    Full,
    /// A change that waits for confirmation is in the way.
    Pending,
    /// The gateway failed; it is not the client's fault.
    Internal,
}

/// A change was made durable and is in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Changed {
    /// The current generation.
    pub generation: u64,
    /// One sentence: what changed.
    pub message: String,
    /// The name in full, where the change was about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the user may want to know: legal, and perhaps not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A page of routes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteList {
    /// The current generation.
    pub generation: u64,
    /// Routes in order of their names.
    pub routes: Vec<Route>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// One route and the live state of its backends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteDetail {
    /// The route as configured.
    pub route: Route,
    /// Its backends, in the configured order.
    pub backends: Vec<BackendState>,
    /// The names of the certificate that is served for it, when TLS is terminated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateInfo>,
    /// ALPN protocols that are offered, best first.
    #[serde(default)]
    pub alpn: Vec<String>,
    /// Open connections.
    pub open: u64,
    /// Connections since start.
    pub total: u64,
    /// Bytes from clients to backends since start.
    pub bytes_in: u64,
    /// Bytes from backends to clients since start.
    pub bytes_out: u64,
}

/// The live state of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackendState {
    /// As configured.
    pub address: String,
    /// Whether it is used.
    pub healthy: bool,
    /// Open connections.
    pub open: u64,
    /// Connections since start.
    pub total: u64,
    /// Failed connection attempts since start.
    pub failures: u64,
    /// The last failure in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// A certificate that the gateway serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CertificateInfo {
    /// Its subject alternative names.
    pub names: Vec<String>,
    /// Who issued it.
    pub issuer: String,
    /// Start of validity, seconds since 1970.
    pub not_before: i64,
    /// End of validity, seconds since 1970.
    pub not_after: i64,
    /// SHA-256 of the certificate in hexadecimal digits.
    pub sha256: String,
    /// Where it is from: `file`, `self-signed`, `uploaded`, `acme`.
    pub source: String,
}

/// The gateway's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The instance's name (`--name`).
    pub name: String,
    /// The program's version.
    pub version: String,
    /// The current generation.
    pub generation: u64,
    /// Number of routes.
    pub routes: u64,
    /// The domains that bare names go under, first first.
    pub domains: Vec<String>,
    /// Seconds since start.
    pub uptime_seconds: u64,
    /// Open connections.
    pub open: u64,
    /// Connections since start.
    pub total: u64,
    /// Backends that are down now.
    pub backends_down: u64,
    /// Every certificate with its expiry.
    pub certificates: Vec<CertificateInfo>,
    /// Control requests refused since start: wrong keys, replays, malformed frames.
    pub control_refusals: u64,
    /// A change that waits for confirmation: its generation and the seconds left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// Bytes used and capacity of the store.
    pub storage: StorageState,
    /// What needs attention, in words.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// A change that is undone unless it is confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pending {
    /// The generation that waits.
    pub generation: u64,
    /// Seconds until it is undone.
    pub seconds_left: u64,
}

/// How full the store is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StorageState {
    /// Bytes in use.
    pub used: u64,
    /// Bytes in all.
    pub capacity: u64,
}

/// A page of generations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct History {
    /// Newest first.
    pub generations: Vec<Generation>,
    /// Whether there are older ones.
    pub more: bool,
}

/// One generation of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Generation {
    /// Its number; each change adds one.
    pub number: u64,
    /// When it was made, seconds since 1970.
    pub time: i64,
    /// The id of the key that made it, or `start`, `migration`, `v1`, `automatic-rollback`.
    pub author: String,
    /// One sentence: what was done.
    pub summary: String,
}

/// What changed between two generations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Diff {
    /// The older generation.
    pub from: u64,
    /// The newer generation.
    pub to: u64,
    /// In order of the names, at most [`MAX_PAGE`].
    pub changes: Vec<RouteChange>,
    /// Whether changes were left out.
    pub more: bool,
}

/// The change of one route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteChange {
    /// Which route.
    pub name: RouteName,
    /// Before; absent when it was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Route>,
    /// After; absent when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Route>,
}

/// What `apply` did or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Applied {
    /// The current generation.
    pub generation: u64,
    /// Whether anything was changed (not with `dry_run`, not when all was as wanted).
    pub applied: bool,
    /// What changed or would change.
    pub diff: Diff,
    /// Live connections on routes that are changed or removed; they go on undisturbed.
    pub connections: u64,
    /// Seconds until the change is undone unless confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u32>,
    /// What the user may want to know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

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
    /// In order of weight.
    pub findings: Vec<Finding>,
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

/// Every certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CertificateList {
    /// In order of their first names.
    pub certificates: Vec<CertificateInfo>,
}

/// A new control key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeyAdded {
    /// The current generation.
    pub generation: u64,
    /// Its id.
    pub id: String,
    /// The secret in base64, shown this once; sealed on the wire.
    pub secret: Sealed,
}

/// The control keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeyList {
    /// In order of their ids.
    pub keys: Vec<KeyInfo>,
}

/// A control key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeyInfo {
    /// Its id.
    pub id: String,
    /// What it may do.
    pub role: Role,
    /// When it was made, seconds since 1970; 0 for the key given at start.
    pub created: i64,
}

/// Live connections and counters, for a screen that refreshes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Top {
    /// Milliseconds since the gateway's start; rates are differences of counters over differences of this.
    pub uptime_ms: u64,
    /// Open connections.
    pub open: u64,
    /// Connections since start.
    pub total: u64,
    /// TLS handshakes that succeeded since start.
    pub handshakes: u64,
    /// TLS handshakes that failed since start.
    pub handshake_failures: u64,
    /// Bytes from clients to backends since start.
    pub bytes_in: u64,
    /// Bytes from backends to clients since start.
    pub bytes_out: u64,
    /// The busiest routes.
    pub routes: Vec<RouteActivity>,
    /// The oldest open connections.
    pub connections: Vec<ConnectionInfo>,
}

/// Counters of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteActivity {
    /// Which route.
    pub name: RouteName,
    /// Open connections.
    pub open: u64,
    /// Connections since start.
    pub total: u64,
    /// Bytes from clients to backends since start.
    pub bytes_in: u64,
    /// Bytes from backends to clients since start.
    pub bytes_out: u64,
}

/// A live connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConnectionInfo {
    /// Its number since start.
    pub id: u64,
    /// The client.
    pub client: String,
    /// The server name asked for.
    pub server_name: Option<String>,
    /// The route's name.
    pub route: Option<RouteName>,
    /// The backend.
    pub backend: Option<String>,
    /// Milliseconds since it was accepted.
    pub age_ms: u64,
    /// Bytes from client to backend so far.
    pub bytes_in: u64,
    /// Bytes from backend to client so far.
    pub bytes_out: u64,
}
