//! What a person may ask of the work on certificates while it goes on.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Requests that wait at the same time; more are refused.
const WAITING: usize = 16;
/// For an answer. The work does one thing at a time, and an authority may take minutes for it.
const PATIENCE: Duration = Duration::from_secs(8);

/// Why a certificate is revoked (RFC 5280, section 5.3.1), as far as its holder can know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
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

impl std::str::FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        match text {
            "unspecified" => Ok(Self::Unspecified),
            "key-compromise" => Ok(Self::KeyCompromise),
            "affiliation-changed" => Ok(Self::AffiliationChanged),
            "superseded" => Ok(Self::Superseded),
            "cessation-of-operation" => Ok(Self::CessationOfOperation),
            _ => Err(UnknownReason(text.to_owned())),
        }
    }
}

/// Why a text is no reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no reason: unspecified, key-compromise, affiliation-changed, superseded or cessation-of-operation"
)]
pub struct UnknownReason(pub String);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A new certificate for a name, whatever the age of the one in use.
    Renew {
        /// The name.
        name: String,
    },
    /// The certificate in use for a name is to be believed by nobody any more; a new one, with a new key, is ordered.
    Revoke {
        /// The name.
        name: String,
        /// Why.
        reason: Reason,
    },
    /// A new key for the account.
    RollOver,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done. A renewal then begins.
    Done,
    /// Other work goes before it; reports will tell.
    Waiting,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Not a name whose certificates are looked after.
    #[error("no certificate from an authority is looked after for {0}")]
    Name(String),
    /// There is nothing to revoke.
    #[error("no certificate from this authority is in use for {0}")]
    NoCertificate(String),
    /// The authority asked to wait.
    #[error("the authority has asked to be left alone until {0} (seconds since 1970)")]
    Held(i64),
    /// The authority or the storage.
    #[error("{0}")]
    Failed(String),
    /// There are too many requests already.
    #[error("too many requests wait already")]
    Busy,
    /// The work has ended.
    #[error("certificates are not looked after any more: the program is stopping")]
    Ended,
}

pub(crate) type Answer = oneshot::Sender<Result<(), RequestError>>;

/// Where requests are handed in. A clone is another handle on the same.
#[derive(Clone, Debug)]
pub struct Requests(mpsc::Sender<(Request, Answer)>);

impl Requests {
    pub(crate) fn channel() -> (Self, mpsc::Receiver<(Request, Answer)>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// Hands a request in and waits a few seconds for its answer.
    ///
    /// # Errors
    /// When it cannot be carried out.
    pub async fn ask(&self, request: Request) -> Result<Outcome, RequestError> {
        let (sender, answer) = oneshot::channel();
        self.0.try_send((request, sender)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RequestError::Busy,
            mpsc::error::TrySendError::Closed(_) => RequestError::Ended,
        })?;
        match timeout(PATIENCE, answer).await {
            Ok(Ok(answered)) => answered.map(|()| Outcome::Done),
            Ok(Err(_)) => Err(RequestError::Ended),
            Err(_) => Ok(Outcome::Waiting),
        }
    }
}
