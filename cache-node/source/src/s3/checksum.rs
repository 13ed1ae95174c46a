//! Which whole-object checksum an answer to HeadObject gives.
//! Knows S3's headers. Does not compute anything.
//! Invariant: a sum over parts (`COMPOSITE`, or with `-N` behind it) is never taken for one over bytes.

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ChecksumType, ServerSideEncryption};
use aws_smithy_types::base64;

use crate::checksum::{Algorithm, Checksum};

/// The cheapest of those that cover the whole object.
pub(super) fn of(answer: &HeadObjectOutput) -> Option<Checksum> {
    let given = [
        (Algorithm::Crc64Nvme, answer.checksum_crc64_nvme(), 8),
        (Algorithm::Crc32c, answer.checksum_crc32_c(), 4),
        (Algorithm::Crc32, answer.checksum_crc32(), 4),
        (Algorithm::Sha1, answer.checksum_sha1(), 20),
        (Algorithm::Sha256, answer.checksum_sha256(), 32),
    ];
    let is_composite = answer.checksum_type() == Some(&ChecksumType::Composite);
    let whole = given.into_iter().filter(|_| !is_composite).find_map(|(algorithm, text, bytes)| {
        let sum = base64::decode(text.filter(|text| !text.contains('-'))?).ok()?;
        (sum.len() == bytes).then(|| Checksum::new(algorithm, sum))
    });
    whole.or_else(|| md5_of(answer))
}

/// An ETag is the MD5 of the bytes only where the server says how it encrypts, as AWS always does: `AES256` and one part. Elsewhere 32
/// hex digits may be anything.
fn md5_of(answer: &HeadObjectOutput) -> Option<Checksum> {
    if answer.server_side_encryption() != Some(&ServerSideEncryption::Aes256) {
        return None;
    }
    let etag = answer.e_tag()?.trim_matches('"');
    let digits = (etag.len() == 32 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(etag)?;
    let sum = (0..32).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect::<Option<Vec<_>>>()?;
    Some(Checksum::new(Algorithm::Md5, sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "\"25f9e794323b453885f5181f1b624d0b\"";

    #[test]
    fn only_a_sum_over_all_bytes_counts() {
        let check = |answer: HeadObjectOutput, expected: Option<Algorithm>| {
            assert_eq!(of(&answer).map(|sum| sum.algorithm()), expected, "{answer:?}");
        };
        let answer = HeadObjectOutput::builder;
        check(answer().build(), None);
        check(answer().checksum_crc32("y/Q5Jg==").build(), Some(Algorithm::Crc32));
        check(answer().checksum_crc32("y/Q5Jg==").checksum_type(ChecksumType::FullObject).build(), Some(Algorithm::Crc32));
        check(answer().checksum_crc32("y/Q5Jg==-3").build(), None);
        check(answer().checksum_crc32("y/Q5Jg==").checksum_type(ChecksumType::Composite).build(), None);
        check(answer().checksum_crc32("y/Q5").build(), None);
        check(answer().checksum_crc32("not base64").build(), None);
        check(answer().checksum_crc32("y/Q5Jg==").checksum_crc64_nvme("rosUhgp5mIg=").build(), Some(Algorithm::Crc64Nvme));
        check(answer().e_tag(MD5).build(), None);
        check(answer().e_tag(MD5).server_side_encryption(ServerSideEncryption::Aes256).build(), Some(Algorithm::Md5));
        check(answer().e_tag(MD5).server_side_encryption(ServerSideEncryption::AwsKms).build(), None);
        check(answer().e_tag("\"25f9e794323b453885f5181f1b624d0b-4\"").server_side_encryption(ServerSideEncryption::Aes256).build(), None);
    }
}
