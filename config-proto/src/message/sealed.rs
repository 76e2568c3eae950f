//! Secrets inside messages.

use serde::{Deserialize, Serialize};

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
