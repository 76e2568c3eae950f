//! Why a command failed: who is to blame, what to try, and the exit code that says it to scripts.

use std::process::ExitCode;

use config_proto::message::Refusal;

/// Everything that can go wrong. Each kind has its own exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The gateway understood the request and refused it; nothing changed.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The command cannot be carried out as typed, or a local file cannot be read or written.
    #[error("{message}")]
    Usage { message: String, hint: Option<String> },
    /// There is no gateway, it is silent, or what answers is none.
    #[error("{message}")]
    Unreachable { message: String, hint: Option<String> },
    /// Key and id do not fit, on this side or that of the peer.
    #[error("{message}")]
    NotAuthenticated { message: String, hint: Option<String> },
    /// `check` found a danger. The findings are already printed.
    #[error("there are dangerous settings")]
    Danger,
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    /// A [`Failure::Usage`].
    pub(crate) fn usage(message: impl Into<String>, hint: Option<&str>) -> Self {
        Self::Usage { message: message.into(), hint: hint.map(str::to_owned) }
    }

    /// Whether there is nothing more to say: the findings are printed, or the reader of the output has seen enough
    /// (`tlstunnel-ctl list | head`).
    pub(crate) fn is_told(&self) -> bool {
        match self {
            Self::Danger => true,
            Self::Output(error) => error.kind() == std::io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }

    /// The exit code; the table stands in `tlstunnel-ctl --help`.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Refused(_) | Self::Danger => 1,
            // A broken pipe is no failure.
            Self::Output(_) if self.is_told() => 0,
            Self::Usage { .. } | Self::Output(_) => 2,
            Self::Unreachable { .. } => 3,
            Self::NotAuthenticated { .. } => 4,
        })
    }

    /// The kind as a word for programs: the gateway's own code for a refusal.
    pub(crate) fn code(&self) -> String {
        match self {
            Self::Refused(refusal) => match serde_json::to_value(refusal.code) {
                Ok(serde_json::Value::String(code)) => code,
                _ => "refused".to_owned(),
            },
            Self::Danger => "danger".to_owned(),
            Self::Usage { .. } => "usage".to_owned(),
            Self::Output(_) => "output".to_owned(),
            Self::Unreachable { .. } => "unreachable".to_owned(),
            Self::NotAuthenticated { .. } => "not-authenticated".to_owned(),
        }
    }

    /// What to try next.
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => refusal.hint.as_deref(),
            Self::Usage { hint, .. }
            | Self::Unreachable { hint, .. }
            | Self::NotAuthenticated { hint, .. } => hint.as_deref(),
            Self::Danger | Self::Output(_) => None,
        }
    }
}
