#![expect(clippy::unwrap_used, reason = "tests")]
use super::*;
use proptest::prelude::*;

fn encoded(kind: Kind, is_last: bool, stream: u32, payload: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::from(&header(kind, is_last, stream, payload)[..]);
    bytes.extend_from_slice(payload);
    bytes
}

/// The same frame with another number of a kind, rightly summed.
fn of_kind(number: u8, flags: u8) -> BytesMut {
    let mut bytes = encoded(Kind::Cancel, false, 1, b"");
    (bytes[0], bytes[1]) = (number, flags);
    let sum = checksum(&bytes[..12], b"");
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn a_frame_is_written_as_last_year() {
    let bytes = encoded(Kind::Data, true, 7, b"forebay");
    assert_eq!(bytes[..12], [9, 1, 0, 0, 7, 0, 0, 0, 7, 0, 0, 0]);
    assert_eq!(bytes[12..16], GOLDEN_SUM);
    assert_eq!(&bytes[16..], b"forebay");
}

const GOLDEN_SUM: [u8; 4] = [73, 41, 145, 164];

#[test]
fn what_is_not_known_is_skipped_or_refused_by_its_number() {
    let mut bytes = of_kind(SKIPPABLE_FROM + 72, 0);
    bytes.extend_from_slice(&encoded(Kind::Cancel, false, 3, b""));
    assert!(matches!(decode(&mut bytes), Ok(None)));
    assert_eq!(decode(&mut bytes).unwrap().unwrap().stream, 3);
    assert!(bytes.is_empty());
    assert!(matches!(decode(&mut of_kind(SKIPPABLE_FROM - 1, 0)), Err(FrameError::Unknown { kind: 127 })));
    assert!(matches!(decode(&mut of_kind(Kind::Cancel as u8, 2)), Err(FrameError::Reserved)));
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_it_is_waited_for() {
    let mut bytes = encoded(Kind::Data, false, 1, b"");
    bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(wanted(&bytes), Err(FrameError::TooLong { length: u32::MAX })));
    assert!(matches!(decode(&mut bytes), Err(FrameError::TooLong { .. })));
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in(
        frames in prop::collection::vec((0..Kind::ALL.len(), any::<bool>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..3000)), 1..8),
        piece in 1_usize..5000,
    ) {
        let mut sent = BytesMut::new();
        for (kind, is_last, stream, payload) in &frames {
            sent.extend_from_slice(&encoded(Kind::ALL[*kind], *is_last, *stream, payload));
        }
        let (mut received, mut back) = (BytesMut::new(), Vec::new());
        for piece in sent.chunks(piece) {
            received.extend_from_slice(piece);
            while let Some(frame) = decode(&mut received).unwrap() {
                back.push(frame);
            }
        }
        let expected: Vec<Frame> = frames
            .into_iter()
            .map(|(kind, is_last, stream, payload)| Frame { kind: Kind::ALL[kind], is_last, stream, payload: payload.into() })
            .collect();
        prop_assert_eq!(back, expected);
        prop_assert!(received.is_empty());
    }

    #[test]
    fn any_bytes_are_decoded_without_a_panic_and_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..4000), is_short in any::<bool>()) {
        let mut received = BytesMut::from(&bytes[..]);
        if is_short && received.len() > 12 {
            // Otherwise almost all lengths are too large.
            received[9..12].fill(0);
        }
        loop {
            let before = received.len();
            match wanted(&received) {
                Ok(wanted) => prop_assert!(wanted <= HEADER_BYTES + PAYLOAD_BYTES_MAX),
                Err(_) => break,
            }
            match decode(&mut received) {
                Ok(Some(frame)) => prop_assert!(frame.payload.len() <= before),
                Ok(None) if received.len() < before => {}
                Ok(None) | Err(_) => break,
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_seen(payload in prop::collection::vec(any::<u8>(), 0..2000), bit in any::<prop::sample::Index>()) {
        let mut bytes = encoded(Kind::Data, false, 9, &payload);
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        // A longer length waits for bytes that never come; the connection's watch ends that.
        prop_assert!(!matches!(decode(&mut bytes), Ok(Some(_))));
    }
}
