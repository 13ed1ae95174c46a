//! Which checksum an answer gives.
//! Knows S3's headers. Does not compute anything.
//! Invariant: a sum over parts (`COMPOSITE`, or with `-N` behind it) is never taken for one over bytes.

use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::base64;

use crate::checksum::{Algorithm, Checksum};

/// The cheapest first, with the bytes of a sum.
const HEADERS: [(Algorithm, &str, usize); 5] = [
    (Algorithm::Crc64Nvme, "x-amz-checksum-crc64nvme", 8),
    (Algorithm::Crc32c, "x-amz-checksum-crc32c", 4),
    (Algorithm::Crc32, "x-amz-checksum-crc32", 4),
    (Algorithm::Sha1, "x-amz-checksum-sha1", 20),
    (Algorithm::Sha256, "x-amz-checksum-sha256", 32),
];

/// Of the whole object, from an answer to HeadObject.
pub(super) fn of_object(headers: &Headers) -> Option<Checksum> {
    let mut whole = sums(headers).filter(|(_, bytes, sum)| sum.len() == *bytes);
    whole.next().map(|(algorithm, _, sum)| Checksum::new(algorithm, sum)).or_else(|| md5_of(headers))
}

/// Of the body behind these headers, also of a part of an object where the source gives one. One of a wrong length is no excuse: nothing agrees with it.
pub(super) fn of_body(headers: &Headers) -> Option<Checksum> {
    sums(headers).next().map(|(algorithm, _, sum)| Checksum::new(algorithm, sum))
}

fn sums(headers: &Headers) -> impl Iterator<Item = (Algorithm, usize, Vec<u8>)> {
    let is_composite = headers.get("x-amz-checksum-type") == Some("COMPOSITE");
    HEADERS.into_iter().filter(move |_| !is_composite).filter_map(|(algorithm, name, bytes)| {
        let sum = base64::decode(headers.get(name).filter(|text| !text.contains('-'))?).ok()?;
        Some((algorithm, bytes, sum))
    })
}

/// An ETag is the MD5 of the bytes only where the server says how it encrypts, as AWS always does: `AES256` and one part. Elsewhere 32
/// hex digits may be anything.
fn md5_of(headers: &Headers) -> Option<Checksum> {
    if headers.get("x-amz-server-side-encryption") != Some("AES256") {
        return None;
    }
    let etag = headers.get("etag")?.trim_matches('"');
    let digits = (etag.len() == 32 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(etag)?;
    let sum = (0..32).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect::<Option<Vec<_>>>()?;
    Some(Checksum::new(Algorithm::Md5, sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRC32: (&str, &str) = ("x-amz-checksum-crc32", "y/Q5Jg==");
    const MD5: (&str, &str) = ("etag", "\"25f9e794323b453885f5181f1b624d0b\"");
    const ENCRYPTED: (&str, &str) = ("x-amz-server-side-encryption", "AES256");

    fn headers(given: &[(&'static str, &'static str)]) -> Headers {
        given.iter().fold(Headers::new(), |mut headers, (name, value)| {
            headers.insert(*name, *value);
            headers
        })
    }

    #[test]
    fn only_a_sum_over_all_bytes_counts() {
        let check = |given: &[(&'static str, &'static str)], expected: Option<Algorithm>| {
            assert_eq!(of_object(&headers(given)).map(|sum| sum.algorithm()), expected, "{given:?}");
        };
        check(&[], None);
        check(&[CRC32], Some(Algorithm::Crc32));
        check(&[CRC32, ("x-amz-checksum-type", "FULL_OBJECT")], Some(Algorithm::Crc32));
        check(&[("x-amz-checksum-crc32", "y/Q5Jg==-3")], None);
        check(&[CRC32, ("x-amz-checksum-type", "COMPOSITE")], None);
        check(&[("x-amz-checksum-crc32", "y/Q5")], None);
        check(&[("x-amz-checksum-crc32", "not base64")], None);
        check(&[CRC32, ("x-amz-checksum-crc64nvme", "rosUhgp5mIg=")], Some(Algorithm::Crc64Nvme));
        check(&[MD5], None);
        check(&[MD5, ENCRYPTED], Some(Algorithm::Md5));
        check(&[MD5, ("x-amz-server-side-encryption", "aws:kms")], None);
        check(&[("etag", "\"25f9e794323b453885f5181f1b624d0b-4\""), ENCRYPTED], None);
    }

    #[test]
    fn a_body_is_held_to_the_cheapest_sum_that_is_one() {
        let check = |given: &[(&'static str, &'static str)], expected: Option<Algorithm>| {
            assert_eq!(of_body(&headers(given)).map(|sum| sum.algorithm()), expected, "{given:?}");
        };
        check(&[], None);
        check(&[MD5, ENCRYPTED], None);
        check(&[CRC32], Some(Algorithm::Crc32));
        check(&[CRC32, ("x-amz-checksum-crc32c", "4waSgw==")], Some(Algorithm::Crc32c));
        check(&[CRC32, ("x-amz-checksum-crc32c", "4waSgw==-2")], Some(Algorithm::Crc32));
        check(&[CRC32, ("x-amz-checksum-type", "COMPOSITE")], None);
        // Too short to be any sum of this kind: no body passes.
        check(&[("x-amz-checksum-crc32", "y/Q5")], Some(Algorithm::Crc32));
        assert!(!of_body(&headers(&[("x-amz-checksum-crc32", "y/Q5")])).expect("a sum").hasher().is_met());
    }
}
