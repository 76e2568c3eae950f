//! What the fuzz targets in `fuzz/` and the tests below call: everything that judges bytes of strangers, with what must
//! hold for any bytes. Not part of the interface.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use proxy_protocol::{MAX_V2_LEN, Parsed};
use tokio::io::AsyncReadExt;

use crate::client_hello::{self, Hello, HelloError};
use crate::redirect;

/// Bytes of the longest ClientHello that [`client_hello`] allows.
const HELLO_LIMIT: usize = 4096;
/// Status, `Location`, two fields about the content, `Connection`.
const MOST_FIELDS: usize = 4;

/// Reads a ClientHello, in one piece and in two: the result is the same, and nothing beyond the hello or the limit is
/// taken.
pub fn client_hello(data: &[u8]) {
    let Some((cut, data)) = data.split_first() else { return };
    let (first, second) = data.split_at(usize::from(*cut).min(data.len()));
    let mut whole = data;
    let whole = now(client_hello::read(&mut whole, HELLO_LIMIT));
    let pieces = now(client_hello::read(&mut first.chain(second), HELLO_LIMIT));
    match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => {
            assert!(whole.raw.len() <= HELLO_LIMIT && data.starts_with(&whole.raw));
            assert_eq!((&whole.raw, &whole.server_name), (&pieces.raw, &pieces.server_name));
            assert_eq!(whole.accepted.is_ok(), pieces.accepted.is_ok());
        }
        (Err(_), Err(_)) => {}
        _ => unreachable!("the cut of the stream changed the result"),
    }
}

/// The result of a future that waits for nothing, as those over memory do.
fn now(read: impl Future<Output = Result<Hello, HelloError>>) -> Result<Hello, HelloError> {
    match pin!(read).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("memory is always there"),
    }
}

/// Parses a PROXY header: its length lies in the bytes, every shorter beginning is incomplete and asks for no byte beyond
/// the header, and the addresses survive being written and read again.
pub fn proxy_header(data: &[u8]) {
    match proxy_protocol::parse(data) {
        Err(_) => {}
        Ok(Parsed::Incomplete { missing }) => assert!(missing > 0 && data.len() < MAX_V2_LEN),
        Ok(Parsed::Complete { addresses, len }) => {
            assert!(len <= data.len());
            for end in 0..len {
                match proxy_protocol::parse(&data[..end]) {
                    Ok(Parsed::Incomplete { missing }) => {
                        assert!(missing > 0 && end + missing <= len)
                    }
                    other => unreachable!("{end} of {len} bytes: {other:?}"),
                }
            }
            if let Some(addresses) = addresses {
                let written = proxy_protocol::encode_v1(addresses.source, addresses.destination);
                let again = proxy_protocol::parse(&written);
                assert!(
                    matches!(again, Ok(Parsed::Complete { addresses: Some(_), len }) if len == written.len())
                );
            }
        }
    }
}

/// Answers a request of port 80: the answer is one whole response, and nothing of the request makes a field of its own.
pub fn http_request(data: &[u8]) {
    let Some((response, head)) = redirect::answer_to(data, 443) else { return };
    assert!(head <= data.len());
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    let length = match parsed.parse(&response) {
        Ok(httparse::Status::Complete(length)) => length,
        other => unreachable!("no response: {other:?}"),
    };
    assert!(response[length..].iter().filter(|byte| **byte == b'\n').count() <= 1);
    let code = parsed.code.unwrap_or_default();
    let location = parsed.headers.iter().find(|field| field.name == "Location");
    assert_eq!(location.is_some(), matches!(code, 301 | 308));
    if let Some(location) = location {
        assert!(location.value.starts_with(b"https://"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in vec(any::<u8>(), 0..400)) {
            client_hello(&bytes);
            proxy_header(&bytes);
            http_request(&bytes);
        }

        #[test]
        fn almost_requests_are_judged(
            method in "[A-Z]{1,8}", target in "[ -~]{0,40}", host in "[ -~\\r\\n]{0,40}", rest in "[ -~\\r\\n]{0,60}",
        ) {
            http_request(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{rest}\r\n\r\n").as_bytes());
        }

        #[test]
        fn almost_headers_are_judged(at in 0usize..60, byte: u8) {
            for header in [
                proxy_protocol::encode_v1("192.0.2.1:5".parse().unwrap(), "[::1]:6".parse().unwrap()),
                proxy_protocol::encode_v2(
                    "[2001:db8::1]:5".parse().unwrap(),
                    "[::1]:6".parse().unwrap(),
                    &proxy_protocol::Extras::default(),
                ),
            ] {
                let mut header = [&header[..], b"GET / HTTP/1.1"].concat();
                if let Some(changed) = header.get_mut(at) {
                    *changed = byte;
                }
                proxy_header(&header);
            }
        }
    }
}
