//! Single scenes, written out.

use super::*;
use crate::config::KeepAlive;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// What a side sends at this moment.
fn sent(side: &mut Side, now: Duration) -> Vec<Outgoing> {
    side.tcp.on_time(now);
    std::iter::from_fn(|| side.tcp.next_segment(&side.key, side.super_segment, now)).collect()
}

fn give(side: &mut Side, segment: &Outgoing, data: &[u8], now: Duration) {
    let header = TcpRepr { payload: data, ..segment.header };
    side.tcp.receive(&header, 1 << 30, now).unwrap();
}

#[test]
fn the_orderly_end_of_both_orders() {
    for order in [[0, 1], [1, 0]] {
        let mut pair = Pair::calm();
        pair.run(ms(100));
        pair.sides[order[0]].tcp.close();
        pair.run(ms(100));
        assert_eq!(pair.sides[order[0]].tcp.state(), State::FinWait2);
        assert_eq!(pair.sides[order[1]].tcp.state(), State::CloseWait);
        assert!(pair.sides[order[1]].tcp.peer_ended());
        pair.sides[order[1]].tcp.write(b"last words", 99);
        pair.sides[order[1]].tcp.close();
        pair.run(ms(100));
        pair.read(order[0], 99);
        assert_eq!(pair.sides[order[0]].read, b"last words");
        assert_eq!(pair.sides[order[0]].tcp.state(), State::TimeWait);
        assert_eq!(pair.sides[order[1]].tcp.state(), State::Closed);
        assert_eq!(pair.sides.each_ref().map(|side| side.tcp.deadline()), [None, None]);
    }
}

#[test]
fn both_sides_end_at_once() {
    let mut pair = Pair::calm();
    pair.run(ms(100));
    pair.sides[0].tcp.close();
    pair.sides[1].tcp.close();
    pair.run(ms(100));
    for side in &mut pair.sides {
        assert_eq!((side.tcp.state(), side.tcp.take_failure()), (State::TimeWait, None));
    }
}

#[test]
fn both_sides_begin_at_once() {
    let flow = |own: u8, peer: u8| FlowKey {
        local: ([10, 0, 0, own], 1000).into(),
        remote: ([10, 0, 0, peer], 1000).into(),
    };
    let side = |initial, key| Side {
        tcp: Tcp::connect(&settings(), initial),
        key,
        read: Vec::new(),
        super_segment: 0,
    };
    let mut sides = [side(5, flow(1, 2)), side(NEAR_WRAP, flow(2, 1))];
    let mut now = ms(1);
    for _ in 0..4 {
        let flights = sides.each_mut().map(|side| sent(side, now));
        now += ms(10);
        for (index, flight) in flights.iter().enumerate() {
            for segment in flight {
                give(&mut sides[1 - index], segment, &[], now);
            }
        }
    }
    for side in &mut sides {
        assert_eq!(side.tcp.state(), State::Established);
        assert_eq!(side.tcp.options.peer_scale, Some(5));
        assert!(sent(side, now).is_empty());
    }
    assert_eq!(sides[0].tcp.write(b"hello", 99), 5);
    let hello = sent(&mut sides[0], now).remove(0);
    give(&mut sides[1], &hello, b"hello", now);
    assert_eq!(sides[1].tcp.readable(), 5);
}

#[test]
fn an_unanswered_syn_is_repeated_with_growing_pauses() {
    let key = FlowKey { local: ([10, 0, 0, 1], 1).into(), remote: ([10, 0, 0, 2], 2).into() };
    let tcp = Tcp::connect(&settings(), 9);
    let mut side = Side { tcp, key, read: Vec::new(), super_segment: 0 };
    let mut times = Vec::new();
    let mut now = Duration::ZERO;
    while times.len() < 5 {
        for segment in sent(&mut side, now) {
            assert_eq!(segment.header.control, TcpControl::Syn);
            times.push(now.as_secs());
        }
        now = side.tcp.deadline().unwrap();
    }
    assert_eq!(times, [0, 1, 3, 7, 15]);
}

#[test]
fn the_first_flight_has_ten_segments() {
    let mut pair = Pair::calm();
    pair.sides[1].tcp.write(&[1; 100_000], usize::MAX);
    let now = pair.now;
    let flight = sent(&mut pair.sides[1], now);
    assert_eq!(flight.len(), 10);
    assert!(flight.iter().all(|segment| segment.octets == 1448));
}

/// A loss in the middle is repaired within a round trip of the acknowledgements that show it.
#[test]
fn one_loss_is_repaired_without_a_timeout() {
    let mut pair = Pair::calm();
    pair.run(ms(200));
    pair.sides[0].tcp.write(&[1; 14_480], usize::MAX);
    let mut now = pair.now;
    let [a, b] = &mut pair.sides;
    let flight = sent(a, now);
    now += ms(10);
    for (index, segment) in flight.iter().enumerate() {
        if index != 3 {
            give(b, segment, &[1; 1448], now);
        }
    }
    let report = sent(b, now);
    assert_eq!(report.len(), 1, "one report for what came together");
    now += ms(10);
    give(a, &report[0], &[], now);
    let repair = sent(a, now);
    assert_eq!(repair[0].header.seq_number, flight[3].header.seq_number);
    assert_eq!(repair[0].octets, 1448);
    give(b, &repair[0], &[1; 1448], now + ms(10));
    assert_eq!(b.tcp.readable(), 14_480);
    assert_eq!(a.tcp.take_counts().timeouts, 0);
}

/// The last segment is lost: a probe brings it long before a timeout.
#[test]
fn a_lost_tail_is_probed_for() {
    let mut pair = Pair::calm();
    pair.run(ms(200));
    pair.sides[0].tcp.write(&[1; 2000], usize::MAX);
    let start = pair.now;
    let [a, b] = &mut pair.sides;
    let flight = sent(a, start);
    give(b, &flight[0], &[1; 1448], start + ms(10));
    let report = sent(b, start + ms(50)).remove(0);
    give(a, &report, &[], start + ms(60));
    // One segment is out: twice the round trip, and the peer's delay.
    let due = a.tcp.deadline().unwrap();
    assert!(due <= start + ms(60) + ms(300), "{:?}", due - start);
    let probe = sent(a, due);
    assert_eq!((probe.len(), probe[0].octets), (1, 552));
    assert_eq!(a.tcp.take_counts(), Counts { retransmitted: 1, probes: 1, ..Counts::default() });
}

#[test]
fn a_needless_timeout_is_undone() {
    let mut pair = Pair::calm();
    pair.run(ms(200));
    let window = pair.sides[0].tcp.congestion.window();
    pair.sides[0].tcp.write(&[1; 14_480], usize::MAX);
    let mut now = pair.now;
    let [a, b] = &mut pair.sides;
    let flight = sent(a, now);
    // The path stalls for a second, and the probe is late as well.
    for _ in 0..2 {
        now = a.tcp.deadline().unwrap().max(now + ms(1));
        sent(a, now);
    }
    assert!(a.tcp.counts.timeouts >= 1);
    assert!(a.tcp.congestion.window() < window);
    for segment in &flight {
        give(b, segment, &[1; 1448], now);
    }
    let report = sent(b, now).pop().unwrap();
    give(a, &report, &[], now + ms(1));
    assert_eq!(a.tcp.take_counts().undone, 1);
    assert!(a.tcp.congestion.window() >= window);
}

#[test]
fn a_closed_window_is_probed_and_its_opening_seen() {
    let small = Settings { receive_buffer: 4000, ..settings() };
    let weather = Weather { delay: ms(10), ..Weather::default() };
    let mut pair = Pair::new(1, weather, [settings(), small]);
    pair.sides[0].tcp.write(&stream(0, 20_000), usize::MAX);
    pair.run(Duration::from_secs(300));
    assert_eq!(pair.sides[1].tcp.readable(), 4000, "the window is full to the last octet");
    assert_eq!(pair.sides[0].tcp.take_failure(), None, "a living peer is waited for");
    assert!(pair.sides[0].tcp.deadline().unwrap() <= pair.now + Duration::from_secs(60));
    // The update is lost; the next probe brings the news.
    pair.weather.loss = 1000;
    pair.read(1, 1 << 20);
    pair.send();
    pair.weather.loss = 0;
    let until = pair.now + Duration::from_secs(70);
    while pair.sides[1].read.len() < 20_000 && pair.now < until {
        pair.step();
        pair.read(1, 1 << 20);
    }
    assert_eq!(pair.sides[1].read, stream(0, 20_000));
}

#[test]
fn a_window_that_is_taken_back_stops_nothing_for_ever() {
    let mut pair = Pair::calm();
    pair.run(ms(100));
    pair.sides[0].tcp.write(&stream(0, 14_480), usize::MAX);
    let now = pair.now;
    let flight = sent(&mut pair.sides[0], now);
    // The peer takes what it offered back, and the data with it.
    let mut header = pair.sides[1].tcp.challenge(&pair.sides[1].key.clone(), now);
    header.window_len = 0;
    pair.sides[0].tcp.receive(&header, 1 << 30, now).unwrap();
    drop(flight);
    let until = now + Duration::from_secs(30);
    while pair.sides[1].read.len() < 14_480 && pair.now < until {
        pair.step();
        pair.read(1, 1 << 20);
    }
    assert_eq!(pair.sides[1].read, stream(0, 14_480));
}

#[test]
fn small_segments_wait_for_each_other_unless_told_otherwise() {
    for nodelay in [false, true] {
        let mut pair = Pair::calm();
        pair.run(ms(100));
        let now = pair.now;
        let side = &mut pair.sides[0];
        side.tcp.set_nodelay(nodelay);
        let count = (0..5).map(|_| {
            side.tcp.write(b"x", 99);
            sent(side, now).len()
        });
        assert_eq!(count.sum::<usize>(), if nodelay { 5 } else { 1 });
    }
}

#[test]
fn an_acknowledgement_waits_for_an_answer_but_not_long() {
    let mut pair = Pair::calm();
    pair.run(ms(100));
    let [a, b] = &mut pair.sides;
    let mut now = pair.now;
    // At first each segment is acknowledged at once, until answers carry acknowledgements.
    for round in 0..3 {
        a.tcp.write(b"question", 99);
        let question = sent(a, now).remove(0);
        now += ms(10);
        give(b, &question, b"question", now);
        if round == 2 {
            assert!(sent(b, now).is_empty());
            let due = b.tcp.deadline().unwrap();
            assert_eq!(due, now + ms(40));
            assert_eq!(sent(b, due).len(), 1);
            return;
        }
        b.tcp.write(b"answer", 99);
        let answer = sent(b, now);
        assert_eq!(answer.len(), 1, "the answer carries it");
        now += ms(10);
        give(a, &answer[0], b"answer", now);
    }
}

#[test]
fn a_silent_peer_is_given_up_and_told() {
    let impatient = Settings { user_timeout: Duration::from_secs(9), ..settings() };
    let mut pair = Pair::new(1, Weather::default(), [impatient; 2]);
    pair.run(ms(100));
    pair.weather.loss = 1000;
    let start = pair.now;
    pair.sides[0].tcp.write(b"anyone?", 99);
    while pair.step() {}
    assert!(pair.sides[0].tcp.is_over());
    assert_eq!(pair.sides[0].tcp.take_failure(), Some(SocketError::TimedOut));
    assert_eq!((pair.now - start).as_secs(), 9);
}

#[test]
fn keep_alive_asks_an_idle_peer_and_ends_for_a_dead_one() {
    let mut pair = Pair::calm();
    pair.run(ms(100));
    let seconds = Duration::from_secs;
    let keepalive = KeepAlive { idle: seconds(10), interval: seconds(5), give_up: seconds(30) };
    pair.sides[0].tcp.set_keepalive(Some(keepalive));
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.sides[0].tcp.state(), State::Established);
    let start = pair.now;
    pair.weather.loss = 1000;
    while pair.step() {}
    assert_eq!(pair.sides[0].tcp.take_failure(), Some(SocketError::TimedOut));
    // The last answer came up to ten seconds before the peer died.
    assert!((20..=30).contains(&(pair.now - start).as_secs()));
}

#[test]
fn an_idle_connection_holds_little() {
    let mut pair = Pair::calm();
    for round in 0..3 {
        pair.sides[0].tcp.write(&[round; 200_000], usize::MAX);
        for _ in 0..2000 {
            pair.step();
            pair.read(1, 1 << 20);
        }
        for side in &pair.sides {
            assert_eq!((side.tcp.held(), side.tcp.deadline()), (0, None));
        }
    }
    assert!(size_of::<Tcp>() < 2048, "{}", size_of::<Tcp>());
}

#[test]
fn a_bulk_connection_fills_a_long_path() {
    // 50 ms there and back, no loss: a MiB of window carries 20 MiB per second.
    let weather = Weather { delay: ms(25), ..Weather::default() };
    let mut pair = Pair::new(1, weather, [settings(); 2]);
    let took = pair.exchange([8 << 20, 0], 1 << 20);
    assert!(took < ms(1400), "{took:?}");
}

/// RFC 5961: only an exact reset is obeyed, and at most one challenge goes out per half second.
#[test]
fn blind_resets_are_challenged_sparingly() {
    let mut pair = Pair::calm();
    pair.run(ms(100));
    let next = pair.sides[1].tcp.rx.numbers.wire(pair.sides[1].tcp.rx.next);
    let key = pair.sides[0].key;
    let reset =
        |offset: u32| bare_segment(&key, TcpControl::Rst, next.wrapping_add(offset), None, 0);
    let now = pair.now;
    let tcp = &mut pair.sides[1].tcp;
    let answers: Vec<_> =
        (1..100).map(|n| tcp.receive(&reset(n), 0, now).unwrap_err().answer).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == Answer::Challenge).count(), 1);
    assert_eq!(tcp.receive(&reset(u32::MAX), 0, now).unwrap_err().answer, Answer::Nothing);
    tcp.receive(&reset(0), 0, now).unwrap();
    assert_eq!(tcp.take_failure(), Some(SocketError::ConnectionReset));
}

#[test]
fn an_old_duplicate_is_refused_by_its_timestamp() {
    let mut pair = Pair::calm();
    pair.run(ms(100));
    pair.sides[0].tcp.write(b"new", 99);
    let now = pair.now + ms(50);
    let segment = sent(&mut pair.sides[0], now).remove(0);
    give(&mut pair.sides[1], &segment, b"new", now);
    sent(&mut pair.sides[1], now);
    let mut old = segment.header;
    old.seq_number += 3;
    let stamp = old.timestamp.as_mut().unwrap();
    stamp.tsval = stamp.tsval.wrapping_sub(20);
    old.payload = b"old";
    let refusal = pair.sides[1].tcp.receive(&old, 99, now).unwrap_err();
    assert_eq!(refusal.reason, crate::counters::DropReason::Stale);
    assert_eq!(pair.sides[1].tcp.readable(), 3);
}

#[test]
fn without_memory_data_is_refused_and_comes_again() {
    let mut pair = Pair::calm();
    pair.run(ms(100));
    pair.sides[0].tcp.write(b"patience", 99);
    let now = pair.now;
    let segment = sent(&mut pair.sides[0], now).remove(0);
    let header = TcpRepr { payload: b"patience", ..segment.header };
    pair.sides[1].tcp.receive(&header, 0, now).unwrap();
    assert_eq!(pair.sides[1].tcp.readable(), 0);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.sides[1].tcp.readable(), 8);
}

/// Who cannot see the connection must not be able to make its peer's segments look old.
#[test]
fn a_blind_stamp_poisons_nothing() {
    let mut pair = Pair::calm();
    pair.sides[0].tcp.write(&stream(0, 50_000), usize::MAX);
    for round in 0..200u32 {
        pair.step();
        pair.read(1, 1 << 20);
        let tcp = &mut pair.sides[1].tcp;
        let next = tcp.rx.numbers.wire(tcp.rx.next);
        let una = tcp.tx.numbers.wire(tcp.tx.una);
        let future = tcp.options.stamps.unwrap().recent().wrapping_add(1 << 30);
        // Before the window; and within it with an acknowledgement of what was never sent.
        for (sequence, acknowledged) in
            [(next.wrapping_sub(100_000 + round), una), (next, una.wrapping_add(1_000_000))]
        {
            let mut forged =
                bare_segment(&pair.sides[0].key, TcpControl::None, sequence, Some(acknowledged), 9);
            forged.timestamp = Some(smoltcp::wire::TcpTimestampRepr { tsval: future, tsecr: 0 });
            assert!(pair.sides[1].tcp.receive(&forged, 1 << 20, pair.now).is_err());
        }
    }
    assert!(pair.sides[1].read == stream(0, 50_000));
}

#[test]
fn an_orphan_does_not_wait_for_a_peer_that_takes_nothing() {
    let small = Settings { receive_buffer: 4000, ..settings() };
    let impatient = Settings { user_timeout: Duration::from_secs(60), ..settings() };
    let weather = Weather { delay: ms(10), ..Weather::default() };
    let mut pair = Pair::new(1, weather, [impatient, small]);
    pair.sides[0].tcp.write(&stream(0, 20_000), usize::MAX);
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.sides[0].tcp.state(), State::Established, "an application may wait");
    pair.sides[0].tcp.orphan();
    pair.sides[0].tcp.close();
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.sides[0].tcp.state(), State::Closed);
    assert_eq!(pair.sides[1].tcp.take_failure(), Some(SocketError::ConnectionReset));
}
