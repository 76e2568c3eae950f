//! Where a site comes from: the URL, the reference, and how to be let in.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::FetchError;

/// A repository and the branch or tag of it.
#[derive(Clone)]
pub struct Remote {
    /// Where the repository is.
    pub url: RemoteUrl,
    /// A branch or tag: short (`main`, `v1`; a branch goes before a tag) or full (`refs/tags/v1`). `None`: the remote's
    /// `HEAD`.
    pub reference: Option<String>,
    /// How to be let in over HTTP.
    pub credentials: Option<Credentials>,
    /// Trust anchors for HTTPS. `None`: those of Mozilla's program.
    pub roots: Option<Arc<rustls::RootCertStore>>,
    /// How to be let in over SSH, and whom to trust there.
    pub ssh: Option<SshIdentity>,
    /// Name servers to ask for the host's address. Empty: those of /etc/resolv.conf.
    pub name_servers: Vec<SocketAddr>,
    /// Hears of the progress of a fetch.
    pub progress: Option<ProgressSink>,
}

/// Hears of the progress of a fetch, within the fetch: it must be quick.
pub type ProgressSink = Arc<dyn Fn(Progress<'_>) + Send + Sync>;

/// The way to a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteUrl {
    /// `git://host[:port]/path`: neither secret nor authentic.
    Git {
        /// Host name or address.
        host: String,
        /// TCP port, 9418 by default.
        port: u16,
        /// Path on the server, with its leading slash.
        path: String,
    },
    /// `http://` or `https://`, without user information.
    Http(http::Uri),
    /// `ssh://[user@]host[:port]/path` or `[user@]host:path`.
    Ssh {
        /// User on the server, `git` by default.
        user: String,
        /// Host name or address.
        host: String,
        /// TCP port, 22 by default.
        port: u16,
        /// Path on the server, as the server is to be asked for it.
        path: String,
    },
}

/// How to be let in over HTTP. Never sent to another host than the URL's, nor in clear text after a redirect.
#[derive(Clone)]
pub enum Credentials {
    /// HTTP Basic (RFC 7617). Forges take an access token as the password.
    Basic {
        /// User name.
        user: String,
        /// Password or access token.
        password: Zeroizing<String>,
    },
    /// A bearer token (RFC 6750).
    Bearer(Zeroizing<String>),
}

/// Who to be over SSH, and whom to trust.
#[derive(Clone)]
pub struct SshIdentity {
    /// The private key in OpenSSH or PKCS#8 PEM form, without a passphrase.
    pub private_key: Zeroizing<String>,
    /// The server's key.
    pub host_key: HostKeyPin,
}

/// What the server's SSH key must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostKeyPin {
    /// The fingerprint as OpenSSH prints it: `SHA256:` and unpadded base64.
    Fingerprint(String),
    /// The public key in OpenSSH form, `ssh-ed25519 AAAA...`.
    PublicKey(String),
}

/// How far a fetch is.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A line that the remote wrote for people. It may hold any characters: escape it before a terminal shows it.
    Remote(&'a str),
    /// Objects received so far.
    Objects {
        /// Received.
        done: u32,
        /// Of so many.
        total: u32,
        /// Bytes of the pack received.
        bytes: u64,
        /// Bytes of memory that they have become.
        unpacked: u64,
    },
}

impl Remote {
    /// A remote from `URL` or `URL#reference`. User information in an HTTP URL becomes [`Credentials::Basic`].
    ///
    /// # Errors
    ///
    /// [`FetchError::Configuration`] says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        let (url, reference) = match text.rsplit_once('#') {
            Some((url, reference)) if !reference.is_empty() => (url, Some(reference.to_owned())),
            Some((url, _)) => (url, None),
            None => (text, None),
        };
        if let Some(reference) = &reference
            && !is_reference(reference)
        {
            return Err(bad(format!("{reference:?} cannot be the name of a branch or tag")));
        }
        let (url, credentials) = split_credentials(url)?;
        let url = url.parse()?;
        Ok(Self {
            url,
            reference,
            credentials,
            roots: None,
            ssh: None,
            name_servers: Vec::new(),
            progress: None,
        })
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("url", &self.url)
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Git { host, port, path } => write!(f, "git://{}:{port}{path}", bracketed(host)),
            Self::Http(uri) => write!(f, "{uri}"),
            Self::Ssh { user, host, port, path } => {
                let slash = if path.starts_with('/') { "" } else { "/~/" };
                write!(f, "ssh://{user}@{}:{port}{slash}{path}", bracketed(host))
            }
        }
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

impl FromStr for RemoteUrl {
    type Err = FetchError;

    fn from_str(text: &str) -> Result<Self, FetchError> {
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(bad("a URL has neither spaces nor control characters (write %20)".into()));
        }
        if let Some(rest) = text.strip_prefix("git://") {
            let (authority, path) = split_path(rest)?;
            let (host, port) = host_port(authority, 9418)?;
            return Ok(Self::Git { host, port, path: percent_decoded(path)? });
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            let uri: http::Uri = text.parse().map_err(|error| bad(format!("{error}")))?;
            if uri.query().is_some() {
                return Err(bad("a repository's URL has no query".into()));
            }
            return Ok(Self::Http(uri));
        }
        if let Some(rest) = text.strip_prefix("ssh://") {
            let (authority, path) = split_path(rest)?;
            let (user, authority) = authority.split_once('@').unwrap_or(("git", authority));
            let (host, port) = host_port(authority, 22)?;
            let path = percent_decoded(path.strip_prefix("/~/").unwrap_or(path))?;
            return Ok(Self::Ssh { user: user.to_owned(), host, port, path });
        }
        if text.contains("://") {
            return Err(bad("the URL's scheme is none of https, http, ssh and git".into()));
        }
        if let Some((authority, path)) = text.split_once(':')
            && !authority.is_empty()
            && !authority.contains('/')
            && !path.is_empty()
        {
            let (user, host) = authority.split_once('@').unwrap_or(("git", authority));
            return Ok(Self::Ssh {
                user: user.to_owned(),
                host: host.to_owned(),
                port: 22,
                path: path.to_owned(),
            });
        }
        Err(bad("a remote looks like https://host/path, git@host:path or git://host/path".into()))
    }
}

fn bad(text: String) -> FetchError {
    FetchError::Configuration(text)
}

fn split_path(rest: &str) -> Result<(&str, &str), FetchError> {
    let at = rest.find('/').ok_or_else(|| bad("the URL names no repository".into()))?;
    Ok(rest.split_at(at))
}

fn host_port(authority: &str, default: u16) -> Result<(String, u16), FetchError> {
    let parsed: http::uri::Authority =
        authority.parse().map_err(|_| bad(format!("{authority:?} is no host")))?;
    let host = parsed.host().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(bad("the URL names no host".into()));
    }
    Ok((host.to_owned(), parsed.port_u16().unwrap_or(default)))
}

/// Takes `user:password@` out of an HTTP URL, so that it never shows in a log.
fn split_credentials(url: &str) -> Result<(String, Option<Credentials>), FetchError> {
    let Some((scheme, rest)) = url.split_once("://").filter(|(s, _)| s.starts_with("http")) else {
        return Ok((url.to_owned(), None));
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let Some(at) = rest[..end].rfind('@') else {
        return Ok((url.to_owned(), None));
    };
    let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
    let credentials = Credentials::Basic {
        user: percent_decoded(user)?,
        password: Zeroizing::new(percent_decoded(password)?),
    };
    Ok((format!("{scheme}://{}", &rest[at + 1..]), Some(credentials)))
}

fn percent_decoded(text: &str) -> Result<String, FetchError> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let mut byte = [0_u8];
            let digits = after.get(..2).ok_or_else(|| bad("% needs two digits".into()))?;
            hex::decode_to_slice(digits, &mut byte)
                .map_err(|_| bad("% needs two hexadecimal digits".into()))?;
            out.push(byte[0]);
            rest = &after[2..];
        } else {
            out.push(first);
            rest = after;
        }
    }
    let out = String::from_utf8(out).map_err(|_| bad("the URL is not UTF-8".into()))?;
    if out.contains(['\0', '\n', '\r']) {
        return Err(bad("the URL hides a control character".into()));
    }
    Ok(out)
}

/// The rules of `git check-ref-format` that keep a name from meaning something else.
pub(crate) fn is_reference(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 1024
        && !name.starts_with(['/', '-'])
        && !name.ends_with(['/', '.'])
        && !name.contains("..")
        && !name.contains("//")
        && !name.contains("@{")
        && !name.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c))
}
