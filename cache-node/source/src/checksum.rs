//! The checksum of a whole object, as its source keeps it, and what compares bytes with it.
//! Knows algorithms. Does not know where the bytes or the checksum come from.
//! Invariant: `Hasher::is_met` is true only when every byte was given, in order, and the sum is the expected one.

use aws_smithy_checksums::ChecksumAlgorithm;
use aws_smithy_checksums::http::HttpChecksum;
use md5::{Digest, Md5};

/// How a sum is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
    Md5,
}

/// What the bytes of an object must sum up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    algorithm: Algorithm,
    expected: Vec<u8>,
}

impl Checksum {
    pub fn new(algorithm: Algorithm, expected: Vec<u8>) -> Self {
        Self { algorithm, expected }
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Begins a comparison.
    pub fn hasher(&self) -> Hasher {
        let sum = match self.algorithm {
            Algorithm::Crc32 => Sum::Http(ChecksumAlgorithm::Crc32.into_impl()),
            Algorithm::Crc32c => Sum::Http(ChecksumAlgorithm::Crc32c.into_impl()),
            Algorithm::Crc64Nvme => Sum::Http(ChecksumAlgorithm::Crc64Nvme.into_impl()),
            Algorithm::Sha1 => Sum::Http(ChecksumAlgorithm::Sha1.into_impl()),
            Algorithm::Sha256 => Sum::Http(ChecksumAlgorithm::Sha256.into_impl()),
            Algorithm::Md5 => Sum::Md5(Md5::new()),
        };
        Hasher { sum, expected: self.expected.clone() }
    }
}

enum Sum {
    Http(Box<dyn HttpChecksum>),
    Md5(Md5),
}

/// A comparison under way.
pub struct Hasher {
    sum: Sum,
    expected: Vec<u8>,
}

impl Hasher {
    /// The object's next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.sum {
            Sum::Http(sum) => sum.update(bytes),
            Sum::Md5(sum) => sum.update(bytes),
        }
    }

    /// Whether all that was given sums up as expected.
    pub fn is_met(self) -> bool {
        match self.sum {
            Sum::Http(sum) => sum.finalize()[..] == self.expected[..],
            Sum::Md5(sum) => sum.finalize()[..] == self.expected[..],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_met(algorithm: Algorithm, hex: &str, bytes: &[u8]) -> bool {
        let expected = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect();
        let mut hasher = Checksum::new(algorithm, expected).hasher();
        bytes.chunks(2).for_each(|part| hasher.update(part));
        hasher.is_met()
    }

    #[test]
    fn each_algorithm_knows_its_check_value() {
        for (algorithm, hex) in [
            (Algorithm::Crc32, "cbf43926"),
            (Algorithm::Crc32c, "e3069283"),
            (Algorithm::Crc64Nvme, "ae8b14860a799888"),
            (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (Algorithm::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
            (Algorithm::Md5, "25f9e794323b453885f5181f1b624d0b"),
        ] {
            assert!(is_met(algorithm, hex, b"123456789"), "{algorithm:?}");
            assert!(!is_met(algorithm, hex, b"123456788"), "{algorithm:?}");
            assert!(!is_met(algorithm, hex, b"12345678"), "{algorithm:?}");
        }
    }
}
