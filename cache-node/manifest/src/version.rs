//! Versions in few bytes: an ETag that is an MD5 takes 16 instead of 32, one of a multipart upload 16 and its number of parts.
//! Invariant: `parse` and `to_version` give back the same bytes, for every input.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use forebay_source::Version;

/// A version's parts, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionRef<'a> {
    /// 32 lower-case hex digits.
    Md5([u8; 16]),
    /// The same, `-`, and a decimal number without leading zeros.
    Md5Parts([u8; 16], u32),
    Opaque(&'a [u8]),
}

impl<'a> VersionRef<'a> {
    pub fn parse(text: &'a [u8]) -> Self {
        let Some((digest, rest)) = text.split_at_checked(32) else { return Self::Opaque(text) };
        let Some(digest) = parse_hex(digest) else { return Self::Opaque(text) };
        match rest {
            [] => Self::Md5(digest),
            [b'-', digits @ ..] => parse_parts(digits).map_or(Self::Opaque(text), |parts| Self::Md5Parts(digest, parts)),
            [_, ..] => Self::Opaque(text),
        }
    }

    pub fn to_version(self) -> Version {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let hex = |digest: [u8; 16]| {
            digest.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]).collect::<Vec<u8>>()
        };
        Version(match self {
            Self::Md5(digest) => Bytes::from(hex(digest)),
            Self::Md5Parts(digest, parts) => {
                let mut text = hex(digest);
                text.extend_from_slice(format!("-{parts}").as_bytes());
                Bytes::from(text)
            }
            Self::Opaque(text) => Bytes::copy_from_slice(text),
        })
    }

    /// 21 bytes that stand for it in hashes: kind, digest, parts; an opaque one by its 128-bit hash.
    pub(super) fn fixed(self) -> [u8; 21] {
        let (kind, digest, parts) = match self {
            Self::Md5(digest) => (1, digest, 0),
            Self::Md5Parts(digest, parts) => (2, digest, parts),
            Self::Opaque(text) => (3, xxh3_128(text).to_le_bytes(), 0),
        };
        let mut fixed = [0; 21];
        fixed[0] = kind;
        fixed[1..17].copy_from_slice(&digest);
        fixed[17..].copy_from_slice(&parts.to_le_bytes());
        fixed
    }
}

fn parse_hex(digits: &[u8]) -> Option<[u8; 16]> {
    let mut digest = [0u8; 16];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = HEX_VALUE[usize::from(pair[0])].checked_shl(4)? | HEX_VALUE[usize::from(pair[1])];
        if HEX_VALUE[usize::from(pair[0])] > 15 || HEX_VALUE[usize::from(pair[1])] > 15 {
            return None;
        }
    }
    Some(digest)
}

/// Value of a lower-case hex digit, 255 for any other byte.
const HEX_VALUE: [u8; 256] = {
    let mut table = [255u8; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

/// Canonical decimal `u32`: no sign, no leading zero.
fn parse_parts(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 10 || (digits[0] == b'0' && digits.len() > 1) {
        return None;
    }
    let number = digits.iter().try_fold(0u64, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))?;
    u32::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, is_opaque: bool) {
        let version = VersionRef::parse(text.as_bytes());
        assert_eq!(matches!(version, VersionRef::Opaque(_)), is_opaque, "{text}");
        assert_eq!(version.to_version().0, text.as_bytes(), "{text}");
    }

    #[test]
    fn every_version_comes_back_as_it_was() {
        check("d41d8cd98f00b204e9800998ecf8427e", false);
        check("d41d8cd98f00b204e9800998ecf8427e-1", false);
        check("d41d8cd98f00b204e9800998ecf8427e-0", false);
        check("d41d8cd98f00b204e9800998ecf8427e-4294967295", false);
        check("d41d8cd98f00b204e9800998ecf8427e-4294967296", true);
        check("d41d8cd98f00b204e9800998ecf8427e-01", true);
        check("d41d8cd98f00b204e9800998ecf8427e-", true);
        check("d41d8cd98f00b204e9800998ecf8427e-+1", true);
        check("d41d8cd98f00b204e9800998ecf8427ex", true);
        check("D41D8CD98F00B204E9800998ECF8427E", true);
        check("d41d8cd98f00b204e9800998ecf8427", true);
        check("gg1d8cd98f00b204e9800998ecf8427e", true);
        check("", true);
        check("1700000000-12", true);
    }
}
