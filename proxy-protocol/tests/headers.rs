//! PROXY protocol: vectors built by hand from the published layout, exact reading, and arbitrary bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;

use proptest::prelude::*;
use proxy_protocol::{
    Addresses, Extras, MAX_V1_LEN, MAX_V2_LEN, MalformedHeader, Parsed, ReadHeaderError, TlsExtras,
    encode_v1, encode_v2, parse, read_header,
};
use tokio::io::AsyncReadExt;

const SIGNATURE: &[u8] = b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn proxied(source: &str, destination: &str) -> Option<Addresses> {
    Some(Addresses { source: addr(source), destination: addr(destination), tls: false })
}

fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[version_command, family], &len, body].concat()
}

#[test]
fn v1_lines_say_what_they_say() {
    let cases: [(&[u8], Option<Addresses>); 6] = [
        (
            b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            proxied("192.168.0.1:56324", "192.168.0.11:443"),
        ),
        (
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            proxied("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        (b"PROXY TCP6 2001:db8::1 ::1 1 443\r\n", proxied("[2001:db8::1]:1", "[::1]:443")),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 0 0\r\n", proxied("1.1.1.1:0", "1.1.1.1:0")),
    ];
    for (line, addresses) in cases {
        let followed = [line, b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(parse(&followed), Ok(Parsed::Complete { addresses, len: line.len() }));
    }
}

#[test]
fn malformed_v1_lines_are_refused() {
    let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    let cases: [(&[u8], MalformedHeader); 11] = [
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n", MalformedHeader::BadLine),
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 2 3\r\n", MalformedHeader::BadLine),
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n", MalformedHeader::BadLine),
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 01 2\r\n", MalformedHeader::BadLine),
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 +1 2\r\n", MalformedHeader::BadLine),
        (b"PROXY TCP4  1.1.1.1 1.1.1.1 1 2\r\n", MalformedHeader::BadLine),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", MalformedHeader::BadLine),
        (b"PROXY TCP5 1.1.1.1 1.1.1.1 1 2\r\n", MalformedHeader::BadLine),
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 2\n", MalformedHeader::BadLine),
        (b"GET / HTTP/1.1\r\n", MalformedHeader::NotProxy),
        (&long, MalformedHeader::TooLong),
    ];
    for (line, error) in cases {
        assert_eq!(parse(line), Err(error), "{}", line.escape_ascii());
    }
}

#[test]
fn v2_headers_say_what_they_say() {
    let tcp4 = [192, 0, 2, 7, 203, 0, 113, 9, 0xdb, 0x04, 0x01, 0xbb];
    // TLVs: NOOP (0x04) of two bytes, and an unknown type 0xEE of zero bytes.
    let tlvs = [0x04, 0, 2, 9, 9, 0xee, 0, 0];
    let mut tcp6 = [0; 36];
    tcp6[15] = 1;
    tcp6[16] = 0x20;
    tcp6[31] = 2;
    tcp6[32..].copy_from_slice(&[0x12, 0x34, 0x00, 0x50]);
    let v4 = proxied("192.0.2.7:56068", "203.0.113.9:443");
    let cases = [
        (v2(0x21, 0x11, &tcp4), v4),
        (v2(0x21, 0x11, &[&tcp4[..], &tlvs].concat()), v4),
        (v2(0x21, 0x21, &tcp6), proxied("[::1]:4660", "[2000::2]:80")),
        // LOCAL, with and without a body that must be skipped.
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &[1, 2, 3]), None),
        // UNSPEC, UDP over IPv4, UNIX stream.
        (v2(0x21, 0x00, &[]), None),
        (v2(0x21, 0x12, &tcp4), None),
        (v2(0x21, 0x31, &[0; 216]), None),
    ];
    for (header, addresses) in cases {
        let len = header.len();
        let followed = [&header[..], b"\x16\x03\x01"].concat();
        assert_eq!(parse(&followed), Ok(Parsed::Complete { addresses, len }));
    }
}

#[test]
fn malformed_v2_headers_are_refused() {
    let over = u16::try_from(MAX_V2_LEN - 16 + 1).unwrap().to_be_bytes();
    let cases = [
        (v2(0x11, 0x11, &[0; 12]), MalformedHeader::BadVersion),
        (v2(0x22, 0x11, &[0; 12]), MalformedHeader::BadCommand),
        (v2(0x21, 0x11, &[0; 11]), MalformedHeader::TooShort),
        (v2(0x21, 0x21, &[0; 35]), MalformedHeader::TooShort),
        (v2(0x21, 0x11, &[0; 14]), MalformedHeader::BadTlv),
        (v2(0x21, 0x11, &[&[0; 12][..], &[1, 0, 2, 7]].concat()), MalformedHeader::BadTlv),
        ([SIGNATURE, &[0x21, 0x11], &over].concat(), MalformedHeader::TooLong),
        (b"\r\n\r\n\0\r\nQUIX".to_vec(), MalformedHeader::NotProxy),
    ];
    for (header, error) in cases {
        assert_eq!(parse(&header), Err(error), "{}", header.escape_ascii());
    }
}

#[test]
fn encoded_headers_have_the_published_layout() {
    let (client, local) = (addr("192.0.2.7:56068"), addr("[::ffff:203.0.113.9]:443"));
    assert_eq!(encode_v1(client, local), b"PROXY TCP4 192.0.2.7 203.0.113.9 56068 443\r\n");
    assert_eq!(
        encode_v1(addr("[2001:db8::1]:5"), addr("203.0.113.9:443")),
        b"PROXY TCP6 2001:db8::1 ::ffff:203.0.113.9 5 443\r\n"
    );
    let tls = TlsExtras { version: "TLSv1.3", cipher: "AES", client_certificate: false };
    let extras = Extras {
        alpn: Some(b"h2"),
        authority: Some("a.b"),
        unique_id: Some(b"id"),
        tls: Some(tls),
    };
    let expected = v2(
        0x21,
        0x11,
        &[
            &[192, 0, 2, 7, 203, 0, 113, 9, 0xdb, 0x04, 0x01, 0xbb][..],
            b"\x01\x00\x02h2",
            b"\x02\x00\x03a.b",
            b"\x05\x00\x02id",
            // SSL: client flags, verify, then version and cipher.
            b"\x20\x00\x15\x01\x00\x00\x00\x01",
            b"\x21\x00\x07TLSv1.3",
            b"\x23\x00\x03AES",
        ]
        .concat(),
    );
    let header = encode_v2(client, local, &extras);
    assert_eq!(header, expected);
    let told = Addresses { tls: true, ..proxied("192.0.2.7:56068", "203.0.113.9:443").unwrap() };
    let len = header.len();
    assert_eq!(parse(&header), Ok(Parsed::Complete { addresses: Some(told), len }));

    let verified =
        Extras { tls: Some(TlsExtras { client_certificate: true, ..tls }), ..Extras::default() };
    let header = encode_v2(client, local, &verified);
    assert_eq!(header[28..36], *b"\x20\x00\x15\x07\x00\x00\x00\x00");
}

/// Hands out one byte at a time and counts.
struct Dribble<'a>(&'a [u8]);

impl tokio::io::AsyncRead for Dribble<'_> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let n = self.0.len().min(1);
        let (piece, rest) = self.0.split_at(n);
        buf.put_slice(piece);
        self.0 = rest;
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn reading_takes_the_header_and_nothing_else() {
    let headers = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        encode_v1(addr("192.0.2.7:56068"), addr("203.0.113.9:443")),
        encode_v2(addr("192.0.2.7:56068"), addr("203.0.113.9:443"), &Extras::default()),
        v2(0x20, 0x00, &[]),
    ];
    for header in headers {
        let bytes = [&header[..], b"\r\npayload"].concat();
        let Ok(Parsed::Complete { addresses, .. }) = parse(&bytes) else { panic!() };

        let mut whole = &bytes[..];
        assert_eq!(read_header(&mut whole).await.unwrap(), addresses);
        assert_eq!(whole, b"\r\npayload");

        let mut dribble = Dribble(&bytes);
        assert_eq!(read_header(&mut dribble).await.unwrap(), addresses);
        let mut rest = Vec::new();
        dribble.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"\r\npayload");

        let mut cut = &header[..header.len() - 1];
        assert!(matches!(read_header(&mut cut).await, Err(ReadHeaderError::Stream(_))));
    }
    let mut other = &b"\x16\x03\x01\x02\x00"[..];
    assert!(matches!(read_header(&mut other).await, Err(ReadHeaderError::Malformed(_))));
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from),
        (any::<[u8; 16]>(), any::<u16>()).prop_map(SocketAddr::from),
    ]
}

/// What an address becomes on the wire when its counterpart is `other`.
fn wire_form(address: SocketAddr, other: SocketAddr) -> SocketAddr {
    let (ip, other) = (address.ip().to_canonical(), other.ip().to_canonical());
    let ip = match ip {
        std::net::IpAddr::V4(v4) if other.is_ipv6() => v4.to_ipv6_mapped().into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

proptest! {
    #[test]
    fn what_is_encoded_is_parsed_again(
        source in any_addr(),
        destination in any_addr(),
        alpn in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
    ) {
        let expected = Some(Addresses {
            source: wire_form(source, destination),
            destination: wire_form(destination, source),
            tls: false,
        });
        let extras = Extras { alpn: alpn.as_deref(), ..Extras::default() };
        for header in [encode_v1(source, destination), encode_v2(source, destination, &extras)] {
            let len = header.len();
            prop_assert_eq!(parse(&header), Ok(Parsed::Complete { addresses: expected, len }));
            for cut in 0..len {
                let Ok(Parsed::Incomplete { missing }) = parse(&header[..cut]) else {
                    return Err(TestCaseError::fail("a part of a header is incomplete"));
                };
                prop_assert!((1..=len - cut).contains(&missing));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_ask_beyond_the_limits(
        start in prop_oneof![
            Just(Vec::new()),
            Just(b"PROXY ".to_vec()),
            Just(b"PROXY TCP4 ".to_vec()),
            Just(SIGNATURE.to_vec()),
            Just([SIGNATURE, &[0x21, 0x11]].concat()),
        ],
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [start, bytes].concat();
        match parse(&bytes) {
            Ok(Parsed::Complete { len, .. }) => prop_assert!(len <= bytes.len()),
            Ok(Parsed::Incomplete { missing }) => {
                prop_assert!(missing > 0);
                prop_assert!(bytes.len() + missing <= MAX_V2_LEN.max(MAX_V1_LEN + 1));
            }
            Err(_) => {}
        }
    }
}
