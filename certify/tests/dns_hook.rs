//! TXT records made by others over HTTP: a webhook and an acme-dns server of the test's own, after their public protocols.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use certify::dns::hook::{AcmeDns, Webhook};
use certify::http::{Client, MAX_ANSWER, Resolve};
use certify::roots::public_roots;
use certify::{Challenge, Host, HostError, Record, TxtError, TxtPublisher, Wanted};
use zeroize::Zeroizing;

const NAME: &str = "_acme-challenge.example.test";

/// What a server was asked.
#[derive(Clone, Debug)]
struct Request {
    line: String,
    fields: BTreeMap<String, String>,
    body: serde_json::Value,
}

/// A server whose answers are computed by `answer`: status line and body.
fn serve(answer: impl Fn(&Request) -> (u16, String) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let request = read(&stream);
            let (status, body) = answer(&request);
            let length = body.len();
            let _ =
                write!(&stream, "HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\n\r\n{body}");
        }
    });
    address
}

fn read(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let fields: BTreeMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; fields["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let body = serde_json::from_slice(&body).unwrap();
    Request { line: lines[0].clone(), fields, body }
}

/// Knows one alias.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<Option<String>>>);

impl Resolve for Names {
    fn resolve<'a>(
        &'a self,
        _host: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, String>> + Send + 'a>> {
        Box::pin(async { Ok(vec![Ipv4Addr::LOCALHOST.into()]) })
    }

    fn alias<'a>(
        &'a self,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<String>, String>> + Send + 'a>> {
        assert_eq!(name, NAME);
        let known = self.0.lock().unwrap().clone();
        Box::pin(async move { Ok(known) })
    }
}

fn client(names: &Names) -> Client {
    Client::new(public_roots(), names.clone()).unwrap()
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work)
}

fn webhook(address: SocketAddr, authorization: Option<&str>) -> Webhook {
    let address = format!("http://localhost:{}/dns/", address.port()).parse().unwrap();
    Webhook::new(client(&Names::default()), address, authorization).unwrap()
}

#[test]
fn the_webhook_is_told_what_to_make_and_what_to_take_away() {
    let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
    let log = Arc::clone(&seen);
    let address = serve(move |request| {
        log.lock().unwrap().push(request.clone());
        (200, String::new())
    });
    let hook = webhook(address, Some("Bearer s3cret\n"));
    run(hook.publish(NAME, "value")).unwrap();
    run(hook.withdraw(NAME, "value")).unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].line, "POST /dns/present HTTP/1.1");
    assert_eq!(seen[1].line, "POST /dns/cleanup HTTP/1.1");
    for request in seen.iter() {
        let expected = serde_json::json!({ "fqdn": format!("{NAME}."), "value": "value" });
        assert_eq!(request.body, expected);
        assert_eq!(request.fields["authorization"], "Bearer s3cret");
        assert_eq!(request.fields["content-type"], "application/json");
        assert_eq!(request.fields["host"], format!("localhost:{}", address.port()));
    }
    assert!(!format!("{hook:?}").contains("s3cret"), "{hook:?}");
}

#[test]
fn what_the_webhook_says_reaches_people() {
    let cases = [
        (403, "this key may not\u{7} change example.test", false, "this key may not change"),
        (500, "later", true, "500"),
        (429, "slowly", true, "429"),
        (302, "elsewhere", false, "302"),
        (400, &"x".repeat(MAX_ANSWER + 1), true, "too large"),
    ];
    for (status, body, passing, said) in cases {
        let body = body.to_owned();
        let address = serve(move |_| (status, body.clone()));
        let TxtError { message, passing: is_passing } =
            run(webhook(address, None).publish(NAME, "value")).unwrap_err();
        assert!(message.contains(said) && message.contains("/dns/present"), "{message}");
        assert!(message.len() < 500, "{message}");
        assert_eq!(is_passing, passing, "{message}");
    }
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let error = run(webhook(nobody, None).publish(NAME, "value")).unwrap_err();
    assert!(error.passing && error.message.contains("cannot be connected to"), "{error}");
    let address = "https://hook.example.test".parse().unwrap();
    assert!(Webhook::new(client(&Names::default()), address, Some("a\nb")).is_err());
}

/// Keeps records in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Host for Memory {
    fn wanted(&self) -> (u64, Vec<Wanted>) {
        (0, Vec::new())
    }

    async fn changed(&self, _since: u64) {
        std::future::pending().await
    }

    async fn records(&self) -> Result<Vec<Record>, HostError> {
        let records = self.0.lock().unwrap().clone();
        Ok(records.into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect())
    }

    async fn save(&self, key: String, record: Option<Zeroizing<Vec<u8>>>) -> Result<(), HostError> {
        let record = record.expect("nothing is removed").to_vec();
        self.0.lock().unwrap().insert(key, record);
        Ok(())
    }

    async fn install(
        &self,
        _name: String,
        _chain_pem: String,
        _key_pem: Zeroizing<String>,
    ) -> Result<(), HostError> {
        unreachable!("no certificate is obtained here")
    }

    fn publish(&self, _challenge: &Challenge) {}

    fn withdraw(&self, _challenge: &Challenge) {}
}

/// An acme-dns server: its accounts, and the last values by subdomain.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<(u32, BTreeMap<String, String>)>>);

impl Server {
    fn answer(&self, request: &Request) -> (u16, String) {
        let mut state = self.0.lock().unwrap();
        if request.line.starts_with("POST /register ") {
            state.0 += 1;
            let sub = format!("sub-{}", state.0);
            let account = serde_json::json!({
                "username": format!("user-{}", state.0), "password": "p4ssword", "subdomain": sub,
                "fulldomain": format!("{sub}.auth.test"), "allowfrom": [],
            });
            return (201, account.to_string());
        }
        assert!(request.line.starts_with("POST /update "), "{}", request.line);
        let sub = request.body["subdomain"].as_str().unwrap();
        let user = sub.replace("sub", "user");
        let authorized =
            request.fields["x-api-user"] == user && request.fields["x-api-key"] == "p4ssword";
        let value = request.body["txt"].as_str().unwrap().to_owned();
        // The real one takes nothing but what dns-01 has: 43 letters.
        if !authorized || value.len() != 43 {
            return (401, r#"{"error": "forbidden"}"#.to_owned());
        }
        let answer = serde_json::json!({ "txt": value }).to_string();
        state.1.insert(sub.to_owned(), value);
        (200, answer)
    }
}

#[test]
fn acme_dns_is_registered_with_once_and_says_which_record_is_missing() {
    let server = Server::default();
    let serving = server.clone();
    let address = serve(move |request| serving.answer(request));
    let (names, memory) = (Names::default(), Memory::default());
    let url = format!("http://{address}/");
    let publisher = |url: &str| AcmeDns::new(client(&names), url.parse().unwrap(), memory.clone());
    let value = "v".repeat(43);

    for _ in 0..2 {
        let error = run(publisher(&url).publish(NAME, &value)).unwrap_err();
        assert!(error.message.contains(&format!("{NAME}. CNAME sub-1.auth.test.")), "{error}");
        assert!(!error.passing);
    }
    *names.0.lock().unwrap() = Some("Sub-1.Auth.Test.".to_owned());
    run(publisher(&url).publish(NAME, &value)).unwrap();
    run(publisher(&url).withdraw(NAME, &value)).unwrap();
    assert_eq!(server.0.lock().unwrap().1["sub-1"], value);
    assert_eq!(server.0.lock().unwrap().0, 1, "the account was stored");
    let error = run(publisher(&url).publish(NAME, "short")).unwrap_err();
    assert!(error.message.contains("401") && error.message.contains("forbidden"), "{error}");

    // Another server is another account.
    *names.0.lock().unwrap() = Some("sub-2.auth.test".to_owned());
    let other = format!("http://localhost:{}", address.port());
    run(publisher(&other).publish(NAME, &value)).unwrap();
    assert_eq!(server.0.lock().unwrap().0, 2);
}

#[test]
fn a_server_that_is_no_acme_dns_is_named() {
    let address = serve(|_| (200, "{}".to_owned()));
    let url = format!("http://{address}").parse().unwrap();
    let publisher = AcmeDns::new(client(&Names::default()), url, Memory::default());
    let error = run(publisher.publish(NAME, "value")).unwrap_err();
    assert!(error.message.contains("not that of an acme-dns server"), "{error}");
}
