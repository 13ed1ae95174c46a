//! FUSE's inode number as Forebay uses it: a hash of content, plus two bits.
//! Knows the bits. Does not know how a hash is made (`manifest`) or what a file is.
//! Invariant: an inode number names one content in one I/O mode for ever, so the kernel can never mix two.

/// Bit 0 of a node id: how the kernel reads the file. An inode that is open has one mode; mixing gives the application `EIO`.
const PASSTHROUGH_BIT: u64 = 1;
/// Bit 1 of a node id: a directory.
const DIRECTORY_BIT: u64 = 2;

/// How the bytes of an inode reach a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoMode {
    /// Through the mount's page cache: the daemon answers READ.
    Cached,
    /// Straight from a complete file of the store.
    Passthrough,
}

/// An inode number of one mount. The root folder is 1; everything else is a content hash with the two low bits as above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    pub const ROOT: Self = Self(1);

    pub fn mode(self) -> IoMode {
        if self != Self::ROOT && self.0 & PASSTHROUGH_BIT != 0 { IoMode::Passthrough } else { IoMode::Cached }
    }
    pub fn is_directory(self) -> bool {
        self == Self::ROOT || self.0 & DIRECTORY_BIT != 0
    }
    /// The same content without the I/O mode: what `stat` shows as inode number, so that it stays when a file becomes complete.
    pub fn content(self) -> u64 {
        if self == Self::ROOT { self.0 } else { self.0 & !PASSTHROUGH_BIT }
    }
    /// The same content in `mode`. The root folder and folders have one mode only.
    pub fn with_mode(self, mode: IoMode) -> Self {
        match mode {
            IoMode::Cached => Self(self.content()),
            IoMode::Passthrough if self.is_directory() => self,
            IoMode::Passthrough => Self(self.0 | PASSTHROUGH_BIT),
        }
    }
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_part_of_a_files_id_and_not_of_a_folders() {
        let file = NodeId(0xabc0);
        assert_eq!(file.with_mode(IoMode::Passthrough).mode(), IoMode::Passthrough);
        assert_eq!(file.with_mode(IoMode::Passthrough).content(), file.0);
        assert_eq!(file.with_mode(IoMode::Passthrough).with_mode(IoMode::Cached), file);
        let folder = NodeId(0xabc2);
        assert_eq!(folder.with_mode(IoMode::Passthrough), folder);
        assert!(folder.is_directory() && NodeId::ROOT.is_directory() && !file.is_directory());
        assert_eq!(NodeId::ROOT.mode(), IoMode::Cached);
    }
}
