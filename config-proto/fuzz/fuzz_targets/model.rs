//! The texts that people write: whatever parses prints as what it is, and whatever is a request stays one.
#![no_main]

use config_proto::key::Key;
use config_proto::message::{Request, Role};
use config_proto::model::{BackendAddress, Document, RouteName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<RouteName>() {
        // The host `default.` prints as the route of that name.
        if !matches!(&name, RouteName::Exact(host) if host == "default" || host == "no-sni") {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
    }
    if let Ok(address) = text.parse::<BackendAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(role) = text.parse::<Role>() {
        assert_eq!(role.to_string().parse(), Ok(role));
    }
    if let Ok(key) = Key::from_file_text(text) {
        let again = Key::from_file_text(&key.to_file_text()).unwrap();
        assert_eq!((again.id(), again.secret()), (key.id(), key.secret()));
    }
    if let Ok(document) = serde_json::from_str::<Document>(text) {
        let json = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<Document>(&json).unwrap(), document);
    }
    if let Some(request) =
        serde_json::from_str(text).ok().and_then(|value| Request::from_json(value).ok())
    {
        let json = serde_json::to_value(&request).unwrap();
        assert_eq!(Request::from_json(json).unwrap(), request);
    }
});
