//! The name server for delegated zones, asked by the real `dig` and by whoever means no good.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use acceptance::name_server::dig;
use acceptance::peer::{available, eventually};
use certify::dns::responder::{MAX_UDP_ANSWER, MAX_VALUES, Sockets, Transport, Zones, answer};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;

const ZONE: &str = "_acme-challenge.example.test";
const VALUE: &str = "gfj9Xq-Rg85nM_gfj9Xq-Rg85nM_gfj9Xq-Rg85nM_1";

fn zones() -> Arc<Zones> {
    let names = [ZONE.to_owned(), "acme.example.test".to_owned()];
    Arc::new(Zones::new(&names, "gateway.example.test").unwrap())
}

/// Serves `zones` in a thread of its own, for as long as the process lives.
fn serve(zones: &Arc<Zones>) -> SocketAddr {
    let sockets = Sockets::bind((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
    let (address, zones) = (sockets.local_addr().unwrap(), Arc::clone(zones));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(sockets.serve(zones)).unwrap();
    });
    address
}

#[test]
fn dig_sees_what_it_should() {
    if !available(&["dig"]) {
        return;
    }
    let zones = zones();
    let address = serve(&zones);
    let ask = |arguments: &[&str]| {
        let answer = dig(
            address,
            &[&["+norec", "+noall", "+comments", "+answer", "+authority", "+question"], arguments]
                .concat(),
        );
        answer.replace('\t', " ")
    };
    zones.add(ZONE, VALUE).unwrap();
    zones.add(ZONE, "second").unwrap();
    zones.add("www.deep.acme.example.test", "elsewhere").unwrap();

    let txt = ask(&[ZONE, "TXT"]);
    assert!(txt.contains("NOERROR") && txt.contains("flags: qr aa;"), "{txt}");
    assert!(txt.contains(&format!("TXT \"{VALUE}\"")) && txt.contains("TXT \"second\""), "{txt}");
    // Letters of random case come back as they were sent.
    let mixed = ask(&["_aCmE-cHaLlEnGe.ExAmPlE.tEsT", "TXT"]);
    assert!(mixed.contains("_aCmE-cHaLlEnGe.ExAmPlE.tEsT. 5 IN TXT"), "{mixed}");
    let soa = ask(&[ZONE, "SOA"]);
    assert!(soa.contains("IN SOA gateway.example.test. hostmaster."), "{soa}");
    assert!(ask(&[ZONE, "NS"]).contains("IN NS gateway.example.test."));
    // There, but not of this type: no error, and the SOA record in the authority section.
    for kind in ["CAA", "A", "AAAA", "MX", "DS", "DNSKEY", "TYPE65280"] {
        let nothing = ask(&[ZONE, kind]);
        assert!(nothing.contains("status: NOERROR") && nothing.contains("ANSWER: 0"), "{nothing}");
        assert!(nothing.contains("AUTHORITY: 1") && nothing.contains("IN SOA"), "{nothing}");
    }
    let between = ask(&["deep.acme.example.test", "TXT"]);
    assert!(between.contains("status: NOERROR") && between.contains("ANSWER: 0"), "{between}");
    let missing = ask(&["nobody.acme.example.test", "TXT"]);
    assert!(missing.contains("status: NXDOMAIN") && missing.contains("IN SOA"), "{missing}");
    for arguments in
        [["example.test", "TXT"], ["www.example.org", "A"], [".", "NS"], [ZONE, "IXFR=1"]]
    {
        let refused = ask(&arguments);
        assert!(refused.contains("REFUSED"), "{refused}");
        assert!(!refused.contains(" aa"), "{refused}");
    }
    assert!(ask(&["-c", "CH", "version.bind", "TXT"]).contains("status: REFUSED"));
    assert!(ask(&[ZONE, "ANY"]).contains("HINFO \"RFC8482\""));
    assert!(ask(&["+opcode=UPDATE", ZONE]).contains("status: NOTIMP"));
    assert!(ask(&["+edns=1", "+noednsneg", ZONE, "TXT"]).contains("status: BADVERS"));
    for options in [
        &["+noedns"][..],
        &["+tcp"],
        &["+dnssec"],
        &["+bufsize=512"],
        &["+cookie"],
        &["+subnet=192.0.2.0/24"],
        &["+ednsopt=65001:00"],
    ] {
        let answer = ask(&[options, &[ZONE, "TXT"]].concat());
        assert!(answer.contains(VALUE) && !answer.contains("WARNING"), "{options:?}: {answer}");
        assert_eq!(answer.contains("EDNS: version: 0"), options != ["+noedns"], "{answer}");
    }
    assert!(ask(&["+dnssec", ZONE, "TXT"]).contains("flags: do"), "the bit is given back");

    zones.remove(ZONE, VALUE);
    let after = ask(&[ZONE, "TXT"]);
    assert!(!after.contains(VALUE) && after.contains("second"), "{after}");
    assert_ne!(soa, ask(&[ZONE, "SOA"]), "the serial has grown");
}

#[test]
fn what_does_not_fit_is_fetched_over_tcp() {
    if !available(&["dig"]) {
        return;
    }
    let zones = zones();
    let address = serve(&zones);
    let long = "x".repeat(120);
    for number in 0..MAX_VALUES {
        zones.add(ZONE, &format!("{long}{number}")).unwrap();
    }
    assert!(zones.add(ZONE, "one too many").unwrap_err().passing);
    zones.add(ZONE, &format!("{long}0")).expect("it is there already");
    let udp = dig(address, &["+ignore", "+bufsize=4096", ZONE, "TXT"]);
    assert!(udp.contains("flags: qr aa tc") && udp.contains("ANSWER: 0"), "{udp}");
    let both = dig(address, &["+short", ZONE, "TXT"]);
    assert_eq!(both.lines().filter(|line| line.contains(&long)).count(), MAX_VALUES, "{both}");
}

#[test]
fn names_are_checked() {
    let zones = zones();
    let outside = zones.add("_acme-challenge.example.org", VALUE).unwrap_err();
    assert!(!outside.passing && outside.message.contains("NS gateway.example.test."), "{outside}");
    let inside = Zones::new(&["acme.example.test".to_owned()], "ns.acme.example.test");
    assert!(inside.unwrap_err().to_string().contains("lies in the zone"));
    assert!(Zones::new(&[], "ns.example.test").is_err());
    assert!(Zones::new(&["a..b".to_owned()], "ns.example.test").is_err());
}

#[test]
fn a_flood_is_answered_shortly_or_not_at_all() {
    let zones = zones();
    zones.add(ZONE, VALUE).unwrap();
    let address = serve(&zones);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let question = question(1, ZONE, RecordType::TXT, true);
    const QUESTIONS: usize = 2000;
    let mut received = Vec::new();
    let mut buffer = [0; 2048];
    for number in 0..QUESTIONS {
        socket.send_to(&question, address).unwrap();
        // Answers are read meanwhile, so that none is lost here.
        if number % 20 == 19 {
            socket.set_nonblocking(true).unwrap();
            while let Ok(length) = socket.recv(&mut buffer) {
                received.push(buffer[..length].to_vec());
            }
            socket.set_nonblocking(false).unwrap();
        }
    }
    while let Ok(length) = socket.recv(&mut buffer) {
        received.push(buffer[..length].to_vec());
    }
    let whole = received.iter().filter(|answer| answer[2] & 0x02 == 0).count();
    assert!(received.len() < QUESTIONS, "{}", received.len());
    assert!((60..QUESTIONS / 2).contains(&whole), "{whole} of {}", received.len());
    for short in received.iter().filter(|answer| answer[2] & 0x02 != 0) {
        assert!(short.len() <= question.len(), "no more than what was asked");
    }
    // TCP cannot be forged and stays open.
    assert!(ask_tcp(address, &[&question]).len() == 1);
}

#[test]
fn connections_are_bounded_in_size_number_and_time() {
    let zones = zones();
    zones.add(ZONE, VALUE).unwrap();
    let address = serve(&zones);
    let question = question(7, ZONE, RecordType::TXT, false);
    assert_eq!(
        ask_tcp(address, &[question.as_slice(); 64]).len(),
        64,
        "several questions in a row"
    );
    assert_eq!(ask_tcp(address, &[question.as_slice(); 65]).len(), 64, "and no more");
    assert!(ask_tcp(address, &[&vec![0; 5000]]).is_empty(), "too large");
    assert!(ask_tcp(address, &[b"short"]).is_empty(), "less than a header");

    // Connections that say nothing take no place for ever.
    let silent: Vec<TcpStream> = (0..70).map(|_| TcpStream::connect(address).unwrap()).collect();
    eventually("others are heard", || ask_tcp(address, &[&question]).len() == 1);
    drop(silent);
}

/// Sends all of `questions` over one connection, and gives what comes back.
fn ask_tcp(address: SocketAddr, questions: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answers = Vec::new();
    for question in questions {
        let length = u16::try_from(question.len()).unwrap();
        let sent = stream.write_all(&[&length.to_be_bytes()[..], question].concat());
        let mut length = [0; 2];
        if sent.is_err() || stream.read_exact(&mut length).is_err() {
            break;
        }
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        answers.push(answer);
    }
    answers
}

fn question(id: u16, name: &str, kind: RecordType, edns: bool) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if edns {
        message.set_edns(Edns::new());
    }
    message.to_vec().unwrap()
}

fn name() -> impl Strategy<Value = String> {
    let label = "[a-zA-Z0-9_-]{1,12}";
    let own = prop_oneof![
        Just(ZONE.to_owned()),
        Just("www.acme.example.test".to_owned()),
        Just("acme.example.test".to_owned()),
    ];
    prop_oneof![
        own.clone(),
        (label, own).prop_map(|(label, own)| format!("{label}.{own}")),
        proptest::collection::vec(label, 0..6).prop_map(|labels| format!("{}.", labels.join("."))),
    ]
}

proptest! {
    /// Whatever is asked: the answer is one to the question, short enough, and nothing is claimed about others' names.
    #[test]
    fn every_question_gets_an_honest_answer(id: u16, name in name(), kind: u16, edns: bool, tcp: bool) {
        let zones = zones();
        zones.add(ZONE, VALUE).unwrap();
        zones.add("www.acme.example.test", "other").unwrap();
        let Ok(mut asked) = Name::from_ascii(&name) else { return Ok(()) };
        asked.set_fqdn(true);
        let bytes = question(id, &name, RecordType::from(kind), edns);
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let bytes = answer(&zones, &bytes, transport).expect("a question is answered");
        prop_assert!(tcp || bytes.len() <= MAX_UDP_ANSWER);
        let said = Message::from_vec(&bytes).expect("what we send can be read");
        prop_assert_eq!(said.metadata.id, id);
        prop_assert_eq!(said.metadata.message_type, MessageType::Response);
        prop_assert!(!said.metadata.recursion_available);
        prop_assert_eq!(said.edns.is_some(), edns);
        if said.queries.len() == 1 {
            prop_assert_eq!(said.queries[0].name().to_ascii(), asked.to_ascii(), "letter for letter");
        }
        let zones = [ZONE, "acme.example.test"].map(|zone| Name::from_ascii(zone).unwrap());
        let ours = zones.iter().any(|zone| zone.zone_of(&asked));
        if !ours && said.metadata.response_code != ResponseCode::FormErr {
            prop_assert_eq!(said.metadata.response_code, ResponseCode::Refused);
            prop_assert!(!said.metadata.authoritative && said.answers.is_empty() && said.authorities.is_empty());
        }
        for record in &said.answers {
            if let RData::TXT(txt) = &record.data {
                prop_assert!(record.name == asked && txt.txt_data.concat() != b"");
            }
        }
    }

    /// Bytes of any kind do no harm: no panic, no answer to an answer, and none that is longer than allowed.
    #[test]
    fn hostile_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let zones = zones();
        zones.add(ZONE, VALUE).unwrap();
        let reply = answer(&zones, &bytes, Transport::Udp);
        prop_assert!(reply.as_ref().is_none_or(|reply| reply.len() <= MAX_UDP_ANSWER));
        let is_answer = bytes.get(2).is_none_or(|flags| flags & 0x80 != 0);
        prop_assert!(!is_answer || reply.is_none());
    }

    /// A good question with a few bytes changed, cut off or doubled.
    #[test]
    fn damaged_questions_are_survived(
        name in name(), kind: u16, edns: bool,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<proptest::sample::Index>(), again: bool,
    ) {
        let zones = zones();
        zones.add(ZONE, VALUE).unwrap();
        if Name::from_ascii(&name).is_err() {
            return Ok(());
        }
        let mut bytes = question(9, &name, RecordType::from(kind), edns);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if again {
            bytes.extend_from_within(12..);
        } else {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        if let Some(reply) = answer(&zones, &bytes, Transport::Udp) {
            prop_assert!(reply.len() <= MAX_UDP_ANSWER);
            prop_assert_eq!(&reply[..2], &bytes[..2]);
        }
    }
}
