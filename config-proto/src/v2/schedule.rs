//! From the shared secret and both hellos to the four keys of a connection (HKDF-SHA256, RFC 5869).
//!
//! The salt is both nonces, so that each connection has keys of its own; the info of each key is its label and all the
//! bytes of both hellos, so that whoever changes any bit of them ends up with other keys.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::hello::{ClientHello, ServerHello};

/// The length of every derived key in bytes.
pub(super) const KEY_LEN: usize = 32;

/// Keys for what one side sends.
pub(super) struct DirectionKeys {
    /// For the tags of frames.
    pub(super) mac: Zeroizing<[u8; KEY_LEN]>,
    /// For sealed values.
    pub(super) seal: Zeroizing<[u8; KEY_LEN]>,
}

/// All the keys of a connection.
pub(super) struct ConnectionKeys {
    pub(super) client: DirectionKeys,
    pub(super) server: DirectionKeys,
}

impl ConnectionKeys {
    pub(super) fn derive(secret: &[u8], client: &ClientHello, server: &ServerHello) -> Self {
        let salt = [client.nonce(), server.nonce()].concat();
        let hkdf = Hkdf::<Sha256>::new(Some(&salt), secret);
        let key = |label: &str| expand(&hkdf, label, client, server);
        Self {
            client: DirectionKeys { mac: key("client mac"), seal: key("client seal") },
            server: DirectionKeys { mac: key("server mac"), seal: key("server seal") },
        }
    }
}

#[expect(clippy::expect_used, reason = "RFC 5869 allows 255 blocks of output, and this is one")]
fn expand(
    hkdf: &Hkdf<Sha256>,
    label: &str,
    client: &ClientHello,
    server: &ServerHello,
) -> Zeroizing<[u8; KEY_LEN]> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    let info =
        [b"tlsctl v2 ", label.as_bytes(), b"\0", client.as_bytes(), server.as_bytes().as_slice()];
    hkdf.expand_multi_info(&info, &mut *key).expect("one block of output");
    key
}

impl std::fmt::Debug for ConnectionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionKeys(..)")
    }
}
