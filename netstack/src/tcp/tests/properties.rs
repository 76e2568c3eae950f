//! Whatever the wire does and however the sides behave, the exact octets arrive and it ends.

use proptest::prelude::*;

use super::*;

fn any_settings() -> impl Strategy<Value = Settings> {
    (1usize..200_000, 1usize..200_000, 88usize..3000, any::<u32>()).prop_map(
        |(receive_buffer, send_buffer, link_segment, stamp_offset)| Settings {
            receive_buffer,
            send_buffer,
            link_segment,
            path_segment: link_segment,
            stamp_offset,
            ..settings()
        },
    )
}

fn any_weather() -> impl Strategy<Value = Weather> {
    (0u64..300, 0u64..300, 0u64..800, 0u64..100).prop_map(
        |(loss, duplication, reordering, delay)| Weather {
            loss,
            duplication,
            reordering,
            delay: Duration::from_millis(delay),
        },
    )
}

proptest! {
    #[test]
    fn everything_arrives_in_any_weather(
        seed in any::<u64>(),
        weather in any_weather(),
        settings in [any_settings(), any_settings()],
        lengths in [0usize..60_000, 0usize..60_000],
        read in 1usize..20_000,
        nodelay in any::<bool>(),
        super_segment in prop_oneof![Just(0usize), Just(20_000)],
        sack in any::<bool>(),
    ) {
        let mut pair = Pair::new(seed, weather, settings);
        for side in &mut pair.sides {
            side.tcp.set_nodelay(nodelay);
            side.super_segment = super_segment;
            if !sack {
                side.tcp.options.sack = false;
                side.tcp.options.stamps = None;
            }
        }
        // One octet of window per round trip takes its time: shorter streams for smaller buffers.
        let flow = |index: usize| {
            let least = settings[index].send_buffer.min(settings[1 - index].receive_buffer);
            lengths[index].min(least * 200)
        };
        pair.exchange([flow(0), flow(1)], read);
    }

    #[test]
    fn a_path_that_narrows_loses_nothing(seed in any::<u64>(), at in 1usize..40, to in 88usize..1400) {
        let weather = Weather { loss: 10, delay: Duration::from_millis(5), ..Weather::default() };
        let mut pair = Pair::new(seed, weather, [settings(); 2]);
        let data = stream(0, 100_000);
        let mut written = 0;
        for _ in 0..at {
            written += pair.sides[0].tcp.write(&data[written..], usize::MAX);
            pair.step();
        }
        pair.sides[0].tcp.narrow_path(to);
        let mut turns = 0;
        while pair.sides[1].read.len() < data.len() {
            written += pair.sides[0].tcp.write(&data[written..], usize::MAX);
            prop_assert!(pair.step());
            pair.read(1, 1 << 20);
            turns += 1;
            prop_assert!(turns < 100_000);
        }
        prop_assert!(pair.sides[1].read == data);
    }

    /// Segments with numbers near the right ones, from somebody who does not know the timestamps:
    /// nothing panics, nothing beyond the limits is held, and what is not exactly right changes
    /// nothing that the application sees.
    #[test]
    fn forged_segments_do_no_harm(
        forged in proptest::collection::vec(
            (0u8..5, any::<i32>(), any::<i32>(), any::<u16>(), 0usize..2000, any::<[(u32, u32); 3]>(), 0u32..24),
            1..60,
        )
    ) {
        let mut pair = Pair::calm();
        let first = stream(0, 30_000);
        pair.sides[0].tcp.write(&first, usize::MAX);
        for (kind, near, ack_near, window, count, blocks, shift) in forged {
            pair.step();
            let (next, una) = (pair.sides[1].tcp.rx.next, pair.sides[1].tcp.tx.una);
            let wire = pair.sides[1].tcp.rx.numbers.wire(next).wrapping_add_signed(near >> shift);
            let ack = pair.sides[1].tcp.tx.numbers.wire(una).wrapping_add_signed(ack_near >> shift);
            let control = [
                TcpControl::None, TcpControl::Syn, TcpControl::Fin, TcpControl::Rst, TcpControl::Psh,
            ][usize::from(kind)];
            let exact = wire == pair.sides[1].tcp.rx.numbers.wire(next);
            if control == TcpControl::Rst && exact {
                continue;
            }
            let payload = vec![0xee; count];
            let mut segment = bare_segment(&pair.sides[0].key, control, wire, Some(ack), window);
            segment.payload = &payload;
            segment.sack_ranges = blocks.map(|(from, len)| Some((ack.wrapping_add(from >> shift), ack.wrapping_add((from >> shift).wrapping_add(len >> shift)))));
            // Half of them carry a stale timestamp.
            if near & 1 == 0 {
                let stamp = smoltcp::wire::TcpTimestampRepr { tsval: 0x8000_0000, tsecr: 0 };
                segment.timestamp = Some(stamp);
            }
            let limit = 1 << 20;
            let _ = pair.sides[1].tcp.receive(&segment, limit, pair.now);
            prop_assert!(pair.sides[1].tcp.held() < 4 * limit);
            prop_assert_ne!(pair.sides[1].tcp.state(), State::Closed);
        }
    }
}
