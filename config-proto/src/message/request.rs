//! What a client may ask for.

use serde::{Deserialize, Serialize};

use super::{CertificateCursor, MAX_PAGE, RevocationReason, Role, Sealed};
use crate::model::{Document, RouteName};
use crate::site::SiteSettings;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Request {
    /// Adds a route, or replaces the one of the same name if `replace` is set. → [`Changed`](super::Changed)
    Add {
        /// The name as the user typed it; a name without dots goes under the gateway's domain.
        name: String,
        /// Everything else about the route.
        settings: crate::model::RouteSettings,
        /// Whether an existing route of that name may be replaced.
        #[serde(default)]
        replace: bool,
    },
    /// Removes a route. → [`Changed`](super::Changed)
    Remove {
        /// The name, completed as in `Add`.
        name: String,
    },
    /// The routes in order of their names. → [`RouteList`](super::RouteList)
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
    /// One route with the live state of its backends. → [`RouteDetail`](super::RouteDetail)
    Show {
        /// The name, completed as in `Add`.
        name: String,
    },
    /// The gateway's state. → [`Status`](super::Status)
    Status,
    /// Generations, newest first. → [`History`](super::History)
    History {
        /// Only generations below this one: the cursor of the next page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<u64>,
        /// Entries wanted, at most [`MAX_PAGE`].
        #[serde(default = "max_page")]
        limit: u32,
    },
    /// What changed between two generations. → [`Diff`](super::Diff)
    Diff {
        /// The older one.
        from: u64,
        /// The newer one; absent means the current one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
    },
    /// Makes the routes those of an earlier generation, as a new generation. → [`Changed`](super::Changed)
    Rollback {
        /// The generation whose routes are wanted.
        generation: u64,
    },
    /// Makes the routes those of a document; what it does not name is removed. → [`Applied`](super::Applied)
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
    /// Keeps a change that was applied with `confirm_seconds`. → [`Changed`](super::Changed)
    Confirm {
        /// The generation that the change made.
        generation: u64,
    },
    /// What would become of a connection. → [`Why`](super::Why)
    Why {
        /// The server name; absent means a ClientHello without one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The client's address, for hashing and caps.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<std::net::IpAddr>,
    },
    /// Settings that are legal and dangerous. → [`Check`](super::Check)
    Check,
    /// The certificates in order of their first names. → [`CertificateList`](super::CertificateList)
    CertList {
        /// Only certificates after this place: that of the last one of the page before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<CertificateCursor>,
        /// Entries wanted, at most [`MAX_PAGE`]. Left out where it is that: older gateways know no pages here.
        #[serde(default = "max_page", skip_serializing_if = "is_max_page")]
        limit: u32,
    },
    /// The certificate that clients of a name are shown, with what comes behind it in the handshake. →
    /// [`CertificateChain`](super::CertificateChain)
    CertShow {
        /// The name, completed as in `Add`.
        name: String,
    },
    /// Adds a certificate, or replaces the one for the same names. → [`Changed`](super::Changed)
    CertSet {
        /// PEM: the certificate and its intermediates.
        chain_pem: String,
        /// PEM: the private key, sealed on the wire (`PROTOCOL.md`, "Sealed values").
        key_pem: Sealed,
    },
    /// Obtains a new certificate from the authority for a name, whatever the age of the one in use; answers when that has
    /// been taken note of. → [`Changed`](super::Changed)
    CertRenew {
        /// The name, completed as in `Add`.
        name: String,
    },
    /// Has the authority revoke the certificate in use for a name, and obtains a new one with a new key. → [`Changed`](super::Changed)
    CertRevoke {
        /// The name, completed as in `Add`.
        name: String,
        /// Why.
        #[serde(default)]
        reason: RevocationReason,
    },
    /// Gives the account with the authority a new key. → [`Changed`](super::Changed)
    CertRollOver,
    /// Makes a control key. → [`KeyAdded`](super::KeyAdded)
    KeyAdd {
        /// Its id: 1 to 64 letters, digits, `-`, `_`, `.`.
        id: String,
        /// What it may do.
        role: Role,
    },
    /// The control keys, without their secrets. → [`KeyList`](super::KeyList)
    KeyList,
    /// Removes a control key; its connections end. → [`Changed`](super::Changed)
    KeyRemove {
        /// Its id.
        id: String,
    },
    /// Live connections and rates. → [`Top`](super::Top)
    Top {
        /// Most connections and routes wanted, at most [`MAX_PAGE`].
        #[serde(default = "max_page")]
        limit: u32,
    },
    /// Adds a site, or replaces the one of the same name if `replace` is set; secrets that are not given then stay, those
    /// of the remote only as long as its host stays. → [`Changed`](super::Changed)
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
    /// Removes a site and everything that is kept of it. → [`Changed`](super::Changed)
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
    /// Looks at a site's remote now; answers before it has. → [`Changed`](super::Changed)
    SiteRefresh {
        /// Its name.
        name: String,
    },
    /// Makes an earlier generation of a site the live one. → [`Changed`](super::Changed)
    SiteRollback {
        /// Its name.
        name: String,
        /// Which generation; absent means the one that was live before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        generation: Option<u64>,
    },
    /// Keeps what is live until it is unpinned: new generations wait. → [`Changed`](super::Changed)
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
            Self::Status | Self::Check | Self::CertRollOver | Self::KeyList if fields > 1 => {
                Err(serde::de::Error::custom("this operation has no fields besides op"))
            }
            _ => Ok(request),
        }
    }
}

const fn max_page() -> u32 {
    MAX_PAGE
}

// Serde asks with a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_max_page(limit: &u32) -> bool {
    *limit == MAX_PAGE
}
