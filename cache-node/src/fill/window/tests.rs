use super::*;
use forebay_wire::block::{BlockId, BlockIndex, ObjectId};

const BLOCK: u64 = 4 << 20;

fn read(windows: &Windows, offset: u64, len: u64) -> Advice {
    let object = ObjectRef { id: ObjectId(7), size: 100 * BLOCK };
    windows.observe(&object, Extent::new(offset, offset + len).expect("not empty"), BlockSize::DEFAULT)
}

#[test]
fn a_sequence_opens_a_window_that_doubles_up_to_its_limit_and_asks_for_each_block_once() {
    let windows = Windows::default();
    let mut asked = Vec::new();
    let mut widest = 0;
    for step in 0..(60 * BLOCK / (128 << 10)) {
        let advice = read(&windows, step * (128 << 10), 128 << 10);
        assert!(advice.sequential);
        let reading = (step * (128 << 10) / BLOCK) as u32;
        widest = widest.max(advice.ahead.end.saturating_sub(reading + 1));
        asked.extend(advice.ahead);
    }
    assert_eq!(asked, (1..1 + asked.len() as u32).collect::<Vec<_>>(), "every block once, in order");
    assert_eq!(widest, BLOCKS_AHEAD_MAX);
}

#[test]
fn random_reads_are_no_sequence() {
    let windows = Windows::default();
    for step in 1..50_u64 {
        let advice = read(&windows, (step * 37 % 97) * BLOCK + 4096, 4096);
        assert_eq!(advice, Advice { sequential: false, ahead: 0..0 });
    }
}

#[test]
fn requests_of_one_read_ahead_may_come_in_any_order() {
    let windows = Windows::default();
    for pair in 0..40 {
        for offset in [2 * pair + 1, 2 * pair] {
            let advice = read(&windows, offset * (512 << 10), 512 << 10);
            assert!(advice.sequential || pair == 0);
        }
    }
}

#[test]
fn files_read_in_order_are_read_ahead_and_shuffled_ones_are_not() {
    let streams = FileStreams::default();
    let ahead: Vec<u32> = (100..300).flat_map(|position| streams.observe(position)).collect();
    assert!(ahead.windows(2).all(|pair| pair[0] + 1 == pair[1]), "each file once, in order");
    assert!(*ahead.last().expect("there are some") >= 300 + FILES_AHEAD_MAX / 2);

    let streams = FileStreams::default();
    let shuffled = (0..1000_u32).map(|step| step.wrapping_mul(7919) % 100_003);
    assert_eq!(shuffled.flat_map(|position| streams.observe(position)).count(), 0);
}

#[test]
fn a_second_touch_is_known() {
    let touches = Touches::default();
    let block = |index| BlockId { object: ObjectId(99), index: BlockIndex(index) };
    assert!((0..100).all(|index| !touches.touch(block(index))));
    assert!((0..100).filter(|index| touches.touch(block(*index))).count() > 95);
}
