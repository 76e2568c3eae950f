//! Control keys as they are made, listed and limited to a role.

use serde::{Deserialize, Serialize};

use super::Sealed;
use crate::model::RouteName;
use crate::text::text_in_json;

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

text_in_json!(Role);

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
