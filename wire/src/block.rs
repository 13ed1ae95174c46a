//! What is cached: fixed-size blocks of one version of one object.
//! Knows sizes, ranges and identities. Does not know names, clocks, disks or sockets.
//! Invariant: two different contents never share an `ObjectId` (up to a 128-bit hash collision).

use xxhash_rust::xxh3::Xxh3;

/// Identity of one version of one object of one source: the 128-bit xxh3 of (source name, key, version), each with its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub u128);

impl ObjectId {
    /// Hashes the three parts; the lengths keep `("ab", "c")` and `("a", "bc")` apart.
    pub fn new(source_name: &str, key: &[u8], version: &[u8]) -> Self {
        let mut hash = Xxh3::new();
        for part in [source_name.as_bytes(), key, version] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.digest128())
    }
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One object version as the store and the fill see it: its identity and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    pub id: ObjectId,
    pub size: u64,
}

/// Position of a block in its object: block `i` holds the bytes `[i * block_size, min((i + 1) * block_size, size))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockIndex(pub u32);

/// Names one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId {
    pub object: ObjectId,
    pub index: BlockIndex,
}

impl std::fmt::Display for BlockId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.object, self.index.0)
    }
}

/// Half-open range of bytes of an object; never empty by construction through `new`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    start: u64,
    end: u64,
}

impl Extent {
    /// `[start, end)`; `None` when it would be empty or reversed.
    pub fn new(start: u64, end: u64) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }
    pub fn start(self) -> u64 {
        self.start
    }
    pub fn end(self) -> u64 {
        self.end
    }
    #[expect(clippy::len_without_is_empty, reason = "an extent is never empty")]
    pub fn len(self) -> u64 {
        self.end - self.start
    }
    /// The part of `self` inside `[0, size)`.
    pub fn clamp(self, size: u64) -> Option<Self> {
        Self::new(self.start, self.end.min(size))
    }
}

/// Bytes of a full block: a power of two from 64 KiB to 16 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSize(u32);

impl BlockSize {
    pub const DEFAULT: Self = Self(4 << 20);

    pub fn new(bytes: u64) -> Option<Self> {
        let bytes = u32::try_from(bytes).ok()?;
        (bytes.is_power_of_two() && (64 << 10..=16 << 20).contains(&bytes)).then_some(Self(bytes))
    }
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }
    /// Number of blocks of an object of `size` bytes; 0 for an empty one.
    pub fn count(self, size: u64) -> u32 {
        u32::try_from(size.div_ceil(self.bytes())).unwrap_or(u32::MAX)
    }
    /// The block that holds byte `offset`.
    pub fn index(self, offset: u64) -> BlockIndex {
        BlockIndex(u32::try_from(offset / self.bytes()).unwrap_or(u32::MAX))
    }
    /// The bytes of the object that block `index` holds; `None` beyond its end.
    pub fn extent(self, index: BlockIndex, size: u64) -> Option<Extent> {
        let start = u64::from(index.0) * self.bytes();
        Extent::new(start, (start + self.bytes()).min(size))
    }
}
