//! DNS servers that lie, stammer or say nothing: whatever they answer, nothing is believed that is not signed, and every
//! question ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use certify::dns::tlsa::TlsaServer;
use certify::dns::{DnsError, DnsServer, DynamicUpdate};
use certify::http::Resolve;
use certify::system_clock;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::tsig::{TSIG, TsigAlgorithm, TsigError, make_tsig_record};
use hickory_proto::rr::rdata::{A, CNAME, NS, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType, TSigner};
use proptest::prelude::*;

const KEY: &str = "acme:SHA256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NAME: &str = "_acme-challenge.www.example.test";

struct Nobody;

impl Resolve for Nobody {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, String>> + Send + 'a>> {
        Box::pin(async move { Err(format!("{host} is not known")) })
    }
}

/// What is answered to a question, over UDP (true) or TCP. None: nothing.
type Answer = Arc<dyn Fn(&[u8], bool) -> Option<Vec<u8>> + Send + Sync>;

/// A server on UDP and TCP, for as long as the process lives.
fn serve(answer: Answer) -> SocketAddr {
    let (tcp, udp) = loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            break (tcp, udp);
        }
    };
    let address = tcp.local_addr().unwrap();
    let over_udp = Arc::clone(&answer);
    std::thread::spawn(move || {
        let mut buffer = [0; 65_535];
        while let Ok((length, source)) = udp.recv_from(&mut buffer) {
            if let Some(reply) = over_udp(&buffer[..length], true) {
                let _ = udp.send_to(&reply, source);
            }
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut question).is_ok()
                && let Some(reply) = answer(&question, false)
            {
                let length = u16::try_from(reply.len()).unwrap();
                let _ = stream.write_all(&[&length.to_be_bytes()[..], &reply].concat());
            }
        }
    });
    address
}

fn publish(server: SocketAddr) -> Result<(), DnsError> {
    let server = DnsServer {
        address: server,
        key: KEY.parse().unwrap(),
        authoritative_port: server.port(),
        patience: Duration::from_secs(2),
    };
    let update = DynamicUpdate::new(server, Arc::new(Nobody), system_clock());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(update.publish(NAME, "value"))
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// An answer with authority to a question, as an honest server of `example.test.` gives it.
fn honest(question: &Message) -> Message {
    let mut answer =
        Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    answer.metadata.authoritative = true;
    answer.queries = question.queries.clone();
    let zone = name("example.test.");
    if question.metadata.op_code == OpCode::Query {
        let query = &question.queries[0];
        match query.query_type() {
            RecordType::NS => {
                let record = Record::from_rdata(zone, 60, RData::NS(NS(name("ns1.example.test."))));
                answer.add_answer(record);
                let address = RData::A(A(Ipv4Addr::LOCALHOST));
                answer.add_additional(Record::from_rdata(name("ns1.example.test."), 60, address));
            }
            _ => {
                let soa =
                    SOA::new(name("ns1.example.test."), name("admin.example.test."), 1, 1, 1, 1, 1);
                answer.add_authority(Record::from_rdata(zone, 60, RData::SOA(soa)));
            }
        }
    }
    answer
}

/// Honest, but for the answer to updates.
fn with_update(
    answer: impl Fn(&Message, Message) -> Vec<u8> + Send + Sync + 'static,
) -> SocketAddr {
    serve(Arc::new(move |bytes, _| {
        let question = Message::from_vec(bytes).unwrap();
        let honest = honest(&question);
        Some(match question.metadata.op_code {
            OpCode::Update => answer(&question, honest),
            _ => honest.to_vec().unwrap(),
        })
    }))
}

fn now() -> u64 {
    u64::try_from(system_clock()()).unwrap()
}

/// Signs `answer` as the server that knows `secret` does, `late` seconds ago.
fn signed(question: &Message, mut answer: Message, secret: &[u8], late: u64) -> Vec<u8> {
    let key = TSigner::new(secret.to_vec(), TsigAlgorithm::HmacSha256, name("acme."), 300).unwrap();
    let mac = question.signature().unwrap().data.mac.clone();
    let stub = TSIG::new(
        TsigAlgorithm::HmacSha256,
        now() - late,
        300,
        Vec::new(),
        question.metadata.id,
        None,
        Vec::new(),
    );
    let tbs = key.encode_response_tbs(&mac, &answer.to_vec().unwrap(), &stub).unwrap();
    let stub = stub.set_mac(key.sign(&tbs).unwrap());
    answer.set_signature(Box::new(make_tsig_record(name("acme."), stub)));
    answer.to_vec().unwrap()
}

#[test]
fn success_is_believed_only_with_the_right_signature_of_now() {
    let secret: Vec<u8> = (0..32).collect();
    let unsigned = with_update(|_, answer| answer.to_vec().unwrap());
    let error = publish(unsigned).unwrap_err();
    assert!(matches!(error, DnsError::Unsigned { .. }), "{error}");

    let forged = with_update(|question, answer| signed(question, answer, &[7; 32], 0));
    let error = publish(forged).unwrap_err();
    assert!(matches!(error, DnsError::Unsigned { .. }), "{error}");

    let right = secret.clone();
    let old = with_update(move |question, answer| signed(question, answer, &right, 1000));
    let error = publish(old).unwrap_err();
    assert!(matches!(error, DnsError::Unsigned { .. }), "{error}");

    // The signature of another answer.
    let right = secret.clone();
    let moved = with_update(move |question, mut answer| {
        let good = Message::from_vec(&signed(question, answer.clone(), &right, 0)).unwrap();
        answer.metadata.authoritative = false;
        answer.signature = good.signature;
        answer.to_vec().unwrap()
    });
    let error = publish(moved).unwrap_err();
    assert!(matches!(error, DnsError::Unsigned { .. }), "{error}");

    let right = secret.clone();
    let good = with_update(move |question, answer| signed(question, answer, &right, 0));
    let error = publish(good).unwrap_err();
    assert!(matches!(error, DnsError::Lagging { .. }), "believed, and then not shown: {error}");

    let right = secret.clone();
    let refused = with_update(move |question, mut answer| {
        answer.metadata.response_code = ResponseCode::Refused;
        signed(question, answer, &right, 0)
    });
    let error = publish(refused).unwrap_err();
    assert!(matches!(error, DnsError::Policy { .. }), "{error}");

    // A time before 1970 plus the fudge must not be computed with.
    let early = with_update(|question, mut answer| {
        let stub = TSIG::new(
            TsigAlgorithm::HmacSha256,
            5,
            300,
            vec![0; 32],
            question.metadata.id,
            None,
            Vec::new(),
        );
        answer.set_signature(Box::new(make_tsig_record(name("acme."), stub)));
        answer.to_vec().unwrap()
    });
    assert!(matches!(publish(early).unwrap_err(), DnsError::Unsigned { .. }));
    let short = with_update(|question, mut answer| {
        let stub = TSIG::new(
            TsigAlgorithm::HmacSha256,
            now(),
            300,
            vec![0; 4],
            question.metadata.id,
            Some(TsigError::BadTime),
            vec![1, 2],
        );
        answer.set_signature(Box::new(make_tsig_record(name("acme."), stub)));
        answer.to_vec().unwrap()
    });
    assert!(matches!(publish(short).unwrap_err(), DnsError::Clock { by: None, .. }));
}

#[test]
fn servers_that_say_nothing_or_nonsense_are_left_in_time() {
    let silent = serve(Arc::new(|_, _| None));
    let error = publish(silent).unwrap_err();
    assert!(matches!(error, DnsError::NoAnswer { .. }) && error.is_passing(), "{error}");

    // A flood of answers to other questions over UDP; TCP still works.
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let wrong_id = serve(Arc::new(move |bytes, udp| {
        let question = Message::from_vec(bytes).unwrap();
        let mut answer = honest(&question);
        if udp {
            counted.fetch_add(1, Ordering::SeqCst);
            answer.metadata.id = answer.metadata.id.wrapping_add(1);
        } else {
            answer.metadata.response_code = ResponseCode::ServFail;
        }
        Some(answer.to_vec().unwrap())
    }));
    let error = publish(wrong_id).unwrap_err();
    assert!(matches!(error, DnsError::Answer { code: ResponseCode::ServFail, .. }), "{error}");
    assert_eq!(count.load(Ordering::SeqCst), 2, "asked twice over UDP");

    let nonsense = serve(Arc::new(|_, udp| Some(if udp { vec![1; 3] } else { vec![0xff; 40] })));
    let error = publish(nonsense).unwrap_err();
    assert!(matches!(error, DnsError::Nonsense { .. }), "{error}");

    // CNAME records without end.
    let endless = serve(Arc::new(|bytes, _| {
        let question = Message::from_vec(bytes).unwrap();
        let asked = question.queries[0].name().clone();
        let next = asked.prepend_label("x").unwrap();
        let mut answer = honest(&question);
        answer.authorities.clear();
        answer.add_answer(Record::from_rdata(asked, 60, RData::CNAME(CNAME(next))));
        Some(answer.to_vec().unwrap())
    }));
    let error = publish(endless).unwrap_err();
    assert!(matches!(error, DnsError::Aliases(_)), "{error}");

    // A zone that is not above the name must not be changed.
    let foreign = serve(Arc::new(|bytes, _| {
        let question = Message::from_vec(bytes).unwrap();
        let mut answer = honest(&question);
        answer.authorities.iter_mut().for_each(|record| record.name = name("victim.test."));
        Some(answer.to_vec().unwrap())
    }));
    let error = publish(foreign).unwrap_err();
    assert!(matches!(error, DnsError::NotResponsible { .. }), "{error}");
}

fn mutated(changes: Vec<(u16, u8)>, cut: Option<u16>) -> Answer {
    Arc::new(move |bytes, udp| {
        let question = Message::from_vec(bytes).ok()?;
        let mut answer = honest(&question);
        if udp {
            // To TCP at once: over UDP every damaged answer would be waited for.
            answer.metadata.truncation = true;
            return answer.to_vec().ok();
        }
        let mut reply = answer.to_vec().ok()?;
        for (place, byte) in &changes {
            let place = usize::from(*place) % reply.len();
            // The id stays, or it is no answer at all.
            if place > 1 {
                reply[place] = *byte;
            }
        }
        if let Some(cut) = cut {
            reply.truncate(usize::from(cut) % reply.len());
        }
        Some(reply)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Answers with a few bytes changed or cut off: never a panic, never success.
    #[test]
    fn damaged_answers_are_survived(
        changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<u16>()),
    ) {
        let server = serve(mutated(changes, cut));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tlsa = TlsaServer::new(server, KEY.parse().unwrap(), system_clock());
        runtime.block_on(async {
            let _ = tokio::time::timeout(Duration::from_secs(30), tlsa.look("example.test")).await.expect("it ends");
            let posted = tokio::time::timeout(Duration::from_secs(60), tlsa.post("example.test", vec![1])).await.expect("it ends");
            assert!(posted.is_err(), "nothing was signed");
        });
    }
}
