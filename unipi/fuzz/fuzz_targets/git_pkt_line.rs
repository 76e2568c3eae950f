//! Any bytes as packet lines, and as the commands of a push.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use unipi::git::pkt_line::{self, Packet};
use unipi::git::receive::Receiver;
use unipi::git::{HashKind, Limits};

fuzz_target!(|data: &[u8]| {
    let mut buffer = BytesMut::from(data);
    let mut rest = data.len();
    while let Ok(Some(packet)) = pkt_line::decode(&mut buffer) {
        assert!(buffer.len() < rest);
        rest = buffer.len();
        if let Packet::Data(line) = packet {
            let mut again = Vec::new();
            pkt_line::line(&mut again, &line);
            let decoded = pkt_line::decode(&mut BytesMut::from(&again[..]));
            assert_eq!(decoded, Ok(Some(Packet::Data(line))));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let limits = Limits { unpacked_bytes: 1 << 20, objects: 1000, ..Limits::default() };
        let mut receiver = Receiver::new(HashKind::Sha1, &limits, None);
        if receiver.push(data).await.is_ok() {
            let _ = receiver.finish();
        }
    });
});
