//! How far to read ahead: within a file, and over the files of a folder.
//! Knows offsets and positions that were asked for. Does not know names, sources or the store; it is pure but for its own table.
//! Invariant: the table is bounded, and forgetting a row costs speed only.

use parking_lot::Mutex;

use forebay_wire::block::{BlockSize, Extent, ObjectRef};

/// Rows of each of the `SHARDS` tables: 256 files read in sequence at once.
const ROWS: usize = 16;
const SHARDS: usize = 16;
/// The kernel sends the requests of one read-ahead in any order: so many of their lengths off still is in sequence. By length, so that small
/// random reads of one file aren't taken for a sequence because one happens to be near another.
const SLACK_READS: u64 = 8;
const SLACK_BYTES_MAX: u64 = 4 << 20;
/// 32 MiB ahead with blocks of 4 MiB: 8 requests hide a round trip of 50 ms at 5 Gbit/s.
const BLOCKS_AHEAD_MAX: u32 = 8;

/// What one read tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// It goes on where an earlier one ended, or starts at the beginning.
    pub sequential: bool,
    /// Blocks worth filling before they are asked for; may be empty.
    pub ahead: std::ops::Range<u32>,
}

#[derive(Clone, Copy, Default)]
struct Row {
    object: u128,
    /// Where the next read is expected.
    next: u64,
    /// Blocks to be ahead; doubles with each block that is read in sequence.
    window: u32,
    /// First block that was not yet asked for.
    ahead: u32,
    used: u64,
}

/// The sequences within files that go on now.
pub struct Windows {
    shards: [Mutex<(u64, [Row; ROWS])>; SHARDS],
}

impl Default for Windows {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::new((0, [Row::default(); ROWS]))) }
    }
}

impl Windows {
    /// Takes a read of `extent` into account. For objects of more than one block; others have nothing ahead.
    pub fn observe(&self, object: &ObjectRef, extent: Extent, block_size: BlockSize) -> Advice {
        let blocks = block_size.count(object.size);
        if blocks < 2 {
            return Advice { sequential: true, ahead: 0..0 };
        }
        let mut shard = self.shards[(object.id.0 >> 64) as usize % SHARDS].lock();
        let (clock, rows) = &mut *shard;
        *clock += 1;
        let slack = (SLACK_READS * extent.len()).min(SLACK_BYTES_MAX);
        let near = |row: &Row| row.object == object.id.0 && row.next.abs_diff(extent.start()) <= slack;
        let found = rows.iter_mut().filter(|row| row.used > 0 && near(row)).min_by_key(|row| row.next.abs_diff(extent.start()));
        let Some(row) = found else {
            // A jump: starts a sequence of its own if it goes on, and nothing is read ahead for it before that.
            let oldest = rows.iter_mut().min_by_key(|row| row.used).expect("there are rows");
            let next_block = block_size.index(extent.end() - 1).0 + 1;
            *oldest = Row { object: object.id.0, next: extent.end(), window: 0, ahead: next_block, used: *clock };
            return Advice { sequential: extent.start() == 0, ahead: 0..0 };
        };
        row.used = *clock;
        let before = block_size.index(row.next.max(1) - 1).0;
        row.next = row.next.max(extent.end());
        let now = block_size.index(row.next - 1).0;
        let half = row.next % block_size.bytes() >= block_size.bytes() / 2;
        row.window = match row.window {
            // Half a block in sequence is enough to begin with.
            0 if half || now > before => 1,
            window if now > before => (window * 2).min(BLOCKS_AHEAD_MAX),
            window => window,
        };
        let start = row.ahead.max(now + 1);
        let end = (now + 1 + row.window).min(blocks);
        row.ahead = start.max(end);
        Advice { sequential: true, ahead: start..start.max(end) }
    }
}

/// Sequences over files that go on at once: one for each worker of a loader.
const STREAMS: usize = 64;
/// Workers share one order and overtake each other: this far off still is in sequence.
const FILES_SLACK: u32 = 16;
/// Two workers that swapped places leave nothing out.
const WORKERS_SLACK: u32 = 4;
/// In-order files before anything is read ahead: by chance this happens in one of thousands of shuffled reads.
const RUN_MIN: u32 = 3;
/// At most so many files ahead; their bytes are bounded by whoever fills them.
const FILES_AHEAD_MAX: u32 = 64;

#[derive(Clone, Copy, Default)]
struct Stream {
    /// Position expected next.
    next: u32,
    run: u32,
    window: u32,
    ahead: u32,
    used: u64,
}

/// Files of one data set that are read in the order of their names. A position is the file's number in the manifest.
pub struct FileStreams {
    state: Mutex<(u64, [Stream; STREAMS])>,
}

impl Default for FileStreams {
    fn default() -> Self {
        Self { state: Mutex::new((0, [Stream::default(); STREAMS])) }
    }
}

impl FileStreams {
    /// Takes the first read of the file at `position` into account; gives positions worth filling before they are asked for.
    pub fn observe(&self, position: u32) -> std::ops::Range<u32> {
        let mut state = self.state.lock();
        let (clock, streams) = &mut *state;
        *clock += 1;
        let near = |stream: &Stream| position + FILES_SLACK >= stream.next && position <= stream.next + FILES_SLACK;
        let found = streams.iter_mut().filter(|stream| stream.used > 0 && near(stream)).min_by_key(|stream| stream.next.abs_diff(position));
        let Some(stream) = found else {
            let oldest = streams.iter_mut().min_by_key(|stream| stream.used).expect("there are streams");
            *oldest = Stream { next: position + 1, run: 0, window: 0, ahead: position + 1, used: *clock };
            return 0..0;
        };
        stream.used = *clock;
        if position == stream.next {
            stream.run += 1;
        } else if position > stream.next + WORKERS_SLACK {
            // Files were left out: the next ones may be too.
            stream.run /= 2;
            stream.window /= 2;
        }
        stream.next = stream.next.max(position + 1);
        if stream.run >= RUN_MIN && position + 1 == stream.next {
            stream.window = (stream.window * 2).clamp(2, FILES_AHEAD_MAX);
        }
        let start = stream.ahead.max(stream.next);
        let end = stream.next.saturating_add(stream.window);
        stream.ahead = start.max(end);
        start..start.max(end)
    }
}

/// Blocks that were touched once at random, so that the second touch is known as such. Forgetful: a fixed table of fingerprints.
pub struct Touches {
    rows: Box<[std::sync::atomic::AtomicU32]>,
}

/// 256 KiB; 64 K blocks of 4 MiB are 256 GiB of data under random reads.
const TOUCH_ROWS: usize = 1 << 16;

impl Default for Touches {
    fn default() -> Self {
        Self::new(TOUCH_ROWS)
    }
}

impl Touches {
    /// Remembers up to `rows` blocks, at 4 bytes each.
    pub fn new(rows: usize) -> Self {
        Self { rows: (0..rows).map(|_| std::sync::atomic::AtomicU32::new(0)).collect() }
    }

    /// Whether `block` was touched before (as far as the table remembers); it is from now on.
    pub fn touch(&self, block: forebay_wire::block::BlockId) -> bool {
        let mixed =
            (block.object.0 as u64 ^ u64::from(block.index.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let mark = (mixed as u32) | 1;
        self.rows[(mixed >> 32) as usize % self.rows.len()].swap(mark, std::sync::atomic::Ordering::Relaxed) == mark
    }
}

#[cfg(test)]
mod tests;
