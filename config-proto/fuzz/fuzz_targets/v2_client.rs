//! The v2 client under arbitrary bytes of a peer that does not hold the key, before and after its hello.
#![no_main]

use config_proto::key::Key;
use config_proto::v2::client::{Client, Event};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((stage, data)) = data.split_first() else { return };
    let key = Key::generate("admin".parse().unwrap(), &[7; 32]);
    let (mut client, _) = Client::new(&key, [1; 32]);
    if stage % 2 == 1 {
        let hello = [&config_proto::v2::MAGIC[..], &[config_proto::v2::VERSION], &[2; 32]].concat();
        client.feed(&hello).unwrap();
    }
    let (first, second) = data.split_at(data.len() / 2);
    for bytes in [first, second] {
        let Ok(events) = client.feed(bytes) else { break };
        for event in events {
            assert!(matches!(event, Event::Send(_)), "a tag was guessed");
        }
    }
    assert!(client.buffered() <= 512.max(2 * data.len()));
    assert!(!client.is_ready());
    let _ = client.end();
});
