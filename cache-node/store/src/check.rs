//! Checksums: crc32c of each 64 KiB unit of an object's bytes.

/// What one checksum covers: a read of any part costs reading its whole unit.
pub(crate) const UNIT_BYTES: u64 = 64 << 10;

pub(crate) fn sum(data: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(data)
}

pub(crate) fn units(bytes: u64) -> usize {
    bytes.div_ceil(UNIT_BYTES) as usize
}

/// Puts the crc32c of everything behind the first four bytes into these four.
pub(crate) fn seal(record: &mut [u8]) {
    let crc = sum(&record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
}

/// Whether `seal` made this record. All zeros never is: crc32c of zeros is not zero.
pub(crate) fn is_sealed(record: &[u8]) -> bool {
    get_u32(record, 0) == sum(&record[4..])
}

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) fn get_u128(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}

pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}
