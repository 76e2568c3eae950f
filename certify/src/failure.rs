//! Why an attempt failed: who is to blame, and how soon it makes sense to try again.

use instant_acme::Error;

use crate::host::HostError;
use crate::http::{TransportError, chain};
use crate::requests::RequestError;
use crate::schedule::Pace;

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Whether trying another name instead would make a difference.
    pub(crate) scope: Scope,
    pub(crate) pace: Pace,
    pub(crate) message: String,
    /// The authority's `Retry-After`, in seconds.
    pub(crate) retry_after: Option<u64>,
    /// The type of the authority's problem document.
    pub(crate) problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The authority or our account with it: no name will fare better now.
    Authority,
    /// This name only.
    Name,
}

/// Problem types of RFC 8555, section 6.7, that are told apart.
pub(crate) const ACCOUNT_DOES_NOT_EXIST: &str = "accountDoesNotExist";
pub(crate) const ALREADY_REVOKED: &str = "alreadyRevoked";
pub(crate) const BAD_NONCE: &str = "badNonce";
const RATE_LIMITED: &str = "rateLimited";
const SERVER_INTERNAL: &str = "serverInternal";
/// Problems with the account rather than with a name.
const ABOUT_ACCOUNT: [&str; 6] = [
    ACCOUNT_DOES_NOT_EXIST,
    "externalAccountRequired",
    "invalidContact",
    "unsupportedContact",
    "userActionRequired",
    "badSignatureAlgorithm",
];

impl Failure {
    pub(crate) fn new(scope: Scope, pace: Pace, message: impl Into<String>) -> Self {
        Self { scope, pace, message: message.into(), retry_after: None, problem: None }
    }

    /// Nobody else is to blame: storage, keys, our own clock.
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self::new(Scope::Name, Pace::Local, message)
    }

    /// The authority says no to this name.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Scope::Name, Pace::Refused, message)
    }

    pub(crate) fn is(&self, problem: &str) -> bool {
        self.problem.as_deref() == Some(problem)
    }

    /// Reads an error of the ACME library. `retry_after` is that of the last answer.
    pub(crate) fn from_acme(error: &Error, retry_after: Option<u64>) -> Self {
        let message = error.to_string();
        match error {
            Error::Api(problem) => {
                let kind = problem.r#type.as_deref().unwrap_or_default();
                let kind = kind.rsplit(':').next().unwrap_or_default();
                let (scope, pace) = match kind {
                    RATE_LIMITED => (Scope::Name, Pace::RateLimited),
                    BAD_NONCE | SERVER_INTERNAL => (Scope::Authority, Pace::Unreachable),
                    _ if ABOUT_ACCOUNT.contains(&kind) => (Scope::Authority, Pace::Refused),
                    _ => (Scope::Name, Pace::Refused),
                };
                Self { scope, pace, message, retry_after, problem: Some(kind.to_owned()) }
            }
            Error::Timeout(_) => Self {
                retry_after,
                ..Self::new(
                    Scope::Name,
                    Pace::Unreachable,
                    "the authority has not finished; its order is looked at again later",
                )
            },
            Error::Other(other) => match other.downcast_ref::<TransportError>() {
                Some(error) => Self {
                    retry_after: error.retry_after().or(retry_after),
                    ..Self::new(Scope::Authority, Pace::Unreachable, chain(error))
                },
                None => Self::refused(message),
            },
            Error::Crypto | Error::KeyRejected => Self::local(message),
            _ => Self::new(
                Scope::Authority,
                Pace::Unreachable,
                format!("the answer is not that of an ACME server: {message}"),
            ),
        }
    }
}

impl From<Failure> for RequestError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure.message)
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        Self::local(error.to_string())
    }
}
