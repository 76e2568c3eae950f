//! What is configured of one site, as it is stored and as the site works with it.

use std::time::Duration;

use config_proto::message::Sealed;
use config_proto::site::SiteSettings;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Defaults;
use crate::git::{Credentials, HashKind, HostKeyPin, Remote, RemoteUrl, SshIdentity, is_reference};
use crate::push::Token;
use crate::trust::AllowedSigners;
use crate::webhook::{Hook, Secret};

/// A site's record in the storage: settings and secrets. The push token is kept as its digest.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) settings: SiteSettings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hook_secret: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    push_token: Option<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ssh_key: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<Zeroizing<String>>,
}

/// The secrets of a site, where they are given.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// What webhooks are signed with.
    pub hook_secret: Option<Sealed>,
    /// What a push gives as password.
    pub push_token: Option<Sealed>,
    /// The private key for the remote.
    pub ssh_key: Option<Sealed>,
    /// The password or token for the remote over HTTP.
    pub password: Option<Sealed>,
}

/// Whose webhooks are believed.
#[derive(Debug)]
pub enum Trust {
    /// Those that are signed.
    Signed(Hook),
    /// Everybody who knows the path, by GET too, as with the original.
    Path,
}

/// What a site is told.
#[derive(Debug)]
pub struct Config {
    /// What of it can be shown; absent for the site of the command line, which is shown by `remote`.
    pub settings: SiteSettings,
    /// Where it comes from; without one it is pushed.
    pub remote: Option<Remote>,
    /// The branch that is pushed to: its full name.
    pub branch: String,
    /// Whose webhooks are believed.
    pub hook: Option<Trust>,
    /// What the object ids of an empty repository are.
    pub hash: HashKind,
    /// Who may push.
    pub push: Option<Token>,
    /// Whose commits go live; all of them without this.
    pub signers: Option<AllowedSigners>,
    /// Look this often unasked.
    pub poll: Option<Duration>,
    /// Bytes that the site may have.
    pub max_size: u64,
    /// Generations that are kept.
    pub keep: usize,
}

/// The branch of a site that is pushed, unless it says otherwise.
const BRANCH: &str = "main";

impl Record {
    /// The record of what is asked for, with the secrets of `before` where none are given. Those of the remote are not
    /// told to another host.
    pub(super) fn new(
        settings: SiteSettings,
        secrets: Secrets,
        before: Option<&Self>,
    ) -> Result<Self, String> {
        let plain = |sealed: Option<Sealed>| sealed.map(|Sealed(text)| Zeroizing::new(text));
        let before = before.cloned().unwrap_or_default();
        let same_host = host(&before.settings) == host(&settings);
        let kept = |secret: Option<Zeroizing<String>>| secret.filter(|_| same_host);
        let push_token = match plain(secrets.push_token) {
            Some(text) => Some(Token::new(text.as_bytes()).map_err(|error| error.to_string())?),
            None => before.push_token,
        };
        Ok(Self {
            hook_secret: plain(secrets.hook_secret).or(before.hook_secret),
            push_token,
            ssh_key: plain(secrets.ssh_key).or_else(|| kept(before.ssh_key)),
            password: plain(secrets.password).or_else(|| kept(before.password)),
            settings,
        })
    }

    /// What the site is to be told, or what is wrong with it.
    pub(super) fn config(&self, defaults: &Defaults) -> Result<Config, String> {
        let settings = self.settings.clone();
        let mut remote = settings.remote.as_deref().map(|url| self.remote(url)).transpose()?;
        if let Some(remote) = &mut remote {
            remote.name_servers.clone_from(&defaults.name_servers);
            remote.roots.clone_from(&defaults.roots);
        }
        if remote.is_none() && self.push_token.is_none() {
            return Err("a site needs a remote, or a push token, or both".to_owned());
        }
        if remote.is_none() && settings.poll_seconds.is_some() {
            return Err("a site without a remote cannot be polled".to_owned());
        }
        let reference = settings.branch.clone();
        let hook = match (&self.hook_secret, &remote) {
            (Some(_), None) => return Err("a webhook needs a remote to look at".to_owned()),
            (Some(secret), Some(_)) => {
                let secret = Secret::new(secret.as_bytes()).map_err(|error| error.to_string())?;
                Some(Trust::Signed(Hook::new(secret, reference.clone())))
            }
            (None, _) => None,
        };
        let signers = settings.allowed_signers.as_deref().map(AllowedSigners::parse).transpose();
        if settings.poll_seconds == Some(0) || settings.keep == Some(0) {
            return Err("poll and keep are at least 1".to_owned());
        }
        let hash = match settings.object_format.as_deref() {
            None | Some("sha1") => HashKind::Sha1,
            Some("sha256") => HashKind::Sha256,
            Some(_) => return Err("the object format is sha1 or sha256".to_owned()),
        };
        Ok(Config {
            remote,
            hash,
            branch: full_branch(reference.as_deref())?,
            hook,
            push: self.push_token.clone(),
            signers: signers.map_err(|error| error.to_string())?,
            poll: settings.poll_seconds.map(Duration::from_secs),
            max_size: settings.max_size.unwrap_or(u64::MAX).min(defaults.max_size),
            keep: settings.keep.map_or(defaults.keep, usize::from),
            settings,
        })
    }

    fn remote(&self, url: &str) -> Result<Remote, String> {
        if url.contains('#') {
            return Err("the branch stands in a field of its own, not in the URL".to_owned());
        }
        let mut remote = Remote::parse(url).map_err(|error| error.to_string())?;
        if remote.credentials.is_some() {
            return Err("a user and password in a URL are shown to everybody: give the password \
                        as a secret, and the user as a setting"
                .to_owned());
        }
        remote.reference = self.settings.branch.clone();
        if remote.reference.as_deref().is_some_and(|name| !is_reference(name)) {
            return Err("the branch cannot be the name of a branch or tag".to_owned());
        }
        if let Some(password) = &self.password {
            let user = self.settings.user.clone().unwrap_or_else(|| "git".to_owned());
            remote.credentials = Some(Credentials::Basic { user, password: password.clone() });
        }
        let pin = self.settings.authenticator.as_deref().map(str::parse::<HostKeyPin>);
        match (&remote.url, &self.ssh_key, pin.transpose()?) {
            (RemoteUrl::Ssh { .. }, Some(key), Some(host_key)) => {
                let private_key = crate::git::private_key(key)?;
                remote.ssh = Some(SshIdentity { private_key, host_key });
            }
            (RemoteUrl::Ssh { .. }, _, _) => {
                return Err("an SSH remote needs a private key and the server's key \
                            (authenticator)"
                    .to_owned());
            }
            _ => {}
        }
        Ok(remote)
    }
}

impl Config {
    /// What tells one origin of a site from another: what was kept of another is not this one's.
    pub fn source(&self) -> String {
        self.remote.as_ref().map_or_else(|| "push".to_owned(), |remote| remote.url.to_string())
    }
}

/// The full name of the branch that is pushed to.
///
/// # Errors
/// When it is no branch's name.
pub fn full_branch(reference: Option<&str>) -> Result<String, String> {
    let name = reference.unwrap_or(BRANCH);
    let full =
        if name.starts_with("refs/") { name.to_owned() } else { format!("refs/heads/{name}") };
    match is_reference(&full) {
        true => Ok(full),
        false => Err(format!("{name:?} cannot be the name of a branch")),
    }
}

fn host(settings: &SiteSettings) -> Option<String> {
    match Remote::parse(settings.remote.as_deref()?).ok()?.url {
        RemoteUrl::Git { host, port, .. } => Some(format!("git {host}:{port}")),
        RemoteUrl::Http(uri) => Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?)),
        RemoteUrl::Ssh { user, host, port, .. } => Some(format!("ssh {user}@{host}:{port}")),
    }
}
