//! Git over SSH: the server runs `git-upload-pack` for us. Its host key must be the pinned one.

use std::sync::Arc;

use bytes::Bytes;
use russh::client::{Config, Handle, Handler, Msg};
use russh::keys::{
    HashAlg, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate, decode_secret_key,
};
use russh::{Channel, ChannelMsg};
use tokio::net::TcpStream;

use crate::git::{FetchError, HostKeyPin, Remote};

/// Bytes of the server's standard error that are kept for an error message.
const MAX_COMPLAINT: usize = 4 << 10;

/// A session in which the server runs `git-upload-pack`.
pub(super) struct Link {
    channel: Channel<Msg>,
    complaint: Vec<u8>,
    /// The connection ends with its handle.
    _connection: Handle<Pinned>,
}

/// Accepts exactly one host key.
struct Pinned {
    pin: HostKeyPin,
}

impl Handler for Pinned {
    type Error = SshError;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, SshError> {
        let key = key.public_key();
        let shown = key.fingerprint(HashAlg::Sha256).to_string();
        let fits = match &self.pin {
            HostKeyPin::Fingerprint(expected) => {
                shown.trim_end_matches('=') == expected.trim().trim_end_matches('=')
            }
            HostKeyPin::PublicKey(expected) => PublicKey::from_openssh(expected)
                .is_ok_and(|expected| expected.key_data() == key.key_data()),
        };
        if fits { Ok(true) } else { Err(SshError::HostKey(shown)) }
    }
}

#[derive(Debug, thiserror::Error)]
enum SshError {
    #[error("the server's key is {0}, which is not the expected one")]
    HostKey(String),
    #[error(transparent)]
    Ssh(#[from] russh::Error),
}

impl From<SshError> for FetchError {
    fn from(error: SshError) -> Self {
        match error {
            SshError::HostKey(_) => Self::Refused(error.to_string()),
            SshError::Ssh(error) => Self::Connection(format!("SSH: {error}")),
        }
    }
}

impl Link {
    /// Authenticates on `stream` and starts the service.
    pub(super) async fn open(
        stream: TcpStream,
        remote: &Remote,
        user: &str,
        path: &str,
    ) -> Result<Self, FetchError> {
        let identity = remote.ssh.as_ref().ok_or_else(|| {
            FetchError::Configuration("an SSH remote needs a private key and a host key".into())
        })?;
        let key = decode_secret_key(&identity.private_key, None)
            .map_err(|error| FetchError::Configuration(format!("the private key: {error}")))?;
        let config = Arc::new(Config::default());
        let handler = Pinned { pin: identity.host_key.clone() };
        let mut connection = russh::client::connect_stream(config, stream, handler).await?;
        let hash = match key.algorithm().is_rsa() {
            true => connection.best_supported_rsa_hash().await.map_err(SshError::from)?.flatten(),
            false => None,
        };
        // A server that says nothing about RSA still takes SHA-256 signatures, unless it is older than RFC 8332.
        let hash = hash.or(Some(HashAlg::Sha256));
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        let entered = connection.authenticate_publickey(user, key).await.map_err(SshError::from)?;
        if !entered.success() {
            let text = format!("the server does not let {user:?} in with this key");
            return Err(FetchError::Refused(text));
        }
        let channel = connection.channel_open_session().await.map_err(SshError::from)?;
        // Servers that do not accept the variable speak version 0, which is understood too.
        channel.set_env(false, "GIT_PROTOCOL", "version=2").await.map_err(SshError::from)?;
        let command = format!("git-upload-pack {}", quoted(path));
        channel.exec(false, command).await.map_err(SshError::from)?;
        Ok(Self { channel, complaint: Vec::new(), _connection: connection })
    }

    pub(super) async fn send(&mut self, request: Vec<u8>) -> Result<(), FetchError> {
        Ok(self.channel.data_bytes(request).await.map_err(SshError::from)?)
    }

    /// The next bytes of the service's output. `None`: it has ended.
    pub(super) async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            match self.channel.wait().await? {
                ChannelMsg::Data { data } => return Some(data),
                ChannelMsg::ExtendedData { data, .. } => {
                    let room = MAX_COMPLAINT - self.complaint.len();
                    self.complaint.extend_from_slice(&data[..data.len().min(room)]);
                }
                ChannelMsg::Close => return None,
                // The end of the output may come before what the service complained about; the end of the channel is
                // after both.
                _ => {}
            }
        }
    }

    /// What the service wrote to its standard error.
    pub(super) fn complaint(&self) -> Option<FetchError> {
        let text = String::from_utf8_lossy(&self.complaint);
        let text = text.trim();
        (!text.is_empty()).then(|| FetchError::NoRepository(text.to_owned()))
    }
}

/// The path as one word of a POSIX shell.
fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', r"'\''"))
}
