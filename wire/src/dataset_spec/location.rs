//! A source's URI and what belongs to its scheme.
//! Knows the schemes that are offered. Does not know whether a bucket exists.
//! Invariant: a URI with credentials in it is refused without being repeated.

use std::path::PathBuf;

use super::file::{KeyRefFile, S3File};
use super::{CaBundleRef, Location, S3Location};
use crate::check::Check;

pub(super) fn parse(check: &mut Check, uri_field: &str, base: &str, uri: &str, s3: Option<&S3File>, has_secret: bool) -> Option<Location> {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return check.refuse(uri_field, "this is no URI: write s3://bucket/prefix/ or file:///folder");
    };
    match scheme {
        "s3" => s3_location(check, uri_field, base, rest, s3.cloned().unwrap_or_default(), has_secret).map(Location::S3),
        "file" => {
            if s3.is_some() {
                check.refuse::<()>(&format!("{base}.s3"), "`s3` goes with a source s3://... only: remove it");
            }
            if has_secret {
                check.refuse::<()>(&format!("{base}.secretRef"), "a folder needs no credentials: remove secretRef");
            }
            folder(check, uri_field, rest).map(Location::File)
        }
        "gs" | "az" | "abfs" | "abfss" | "hdfs" | "hf" | "http" | "https" | "ceph" | "oss" | "cos" => check
            .refuse(uri_field, format!("`{scheme}:` is not offered yet: use s3: (any server that speaks S3, with s3.endpoint) or file:")),
        _ => check.refuse(uri_field, "this scheme is not known: write s3://bucket/prefix/ or file:///folder"),
    }
}

fn folder(check: &mut Check, field: &str, rest: &str) -> Option<PathBuf> {
    if !rest.starts_with('/') {
        return check.refuse(field, "a folder of this machine has three slashes: write file:///folder");
    }
    check.absolute(field, rest)
}

fn s3_location(check: &mut Check, field: &str, base: &str, rest: &str, s3: S3File, has_secret: bool) -> Option<S3Location> {
    let S3File { endpoint, region, addressing, ca_bundle_ref, requester_pays, role_arn, anonymous } = s3;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let bucket = if bucket.contains('@') {
        check.refuse(field, "credentials don't belong into a URI: remove what stands before the @ and name a secretRef")
    } else if !is_bucket(bucket) {
        check.refuse(
            field,
            format!("`{bucket}` is no name of a bucket: 3 to 63 letters, digits, `.`, `-` or `_`, as in s3://bucket/prefix/"),
        )
    } else {
        Some(bucket.to_owned())
    };
    let endpoint = endpoint.and_then(|text| self::endpoint(check, &format!("{base}.s3.endpoint"), text));
    let region = region.and_then(|text| {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !text.is_empty() && text.len() <= 64 && text.bytes().all(word) {
            return Some(text);
        }
        check.refuse(&format!("{base}.s3.region"), "this is no region: write one such as us-east-1, or leave it out to have it found")
    });
    let ca_bundle = ca_bundle_ref.and_then(|KeyRefFile { name, key }| {
        let key = key.unwrap_or_else(|| "ca.crt".to_owned());
        let name = check.object_name(&format!("{base}.s3.caBundleRef.name"), &name);
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if key.is_empty() || key.starts_with("..") || key == "." || !key.bytes().all(word) {
            return check.refuse(
                &format!("{base}.s3.caBundleRef.key"),
                "this is no key of a ConfigMap or Secret: use letters, digits, `-`, `_` and `.`",
            );
        }
        Some(CaBundleRef { name: name?, key })
    });
    if ca_bundle.is_some() && endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
        check.refuse::<()>(
            &format!("{base}.s3.caBundleRef"),
            "an endpoint http://... shows no certificate: write https://, or remove caBundleRef",
        );
    }
    // An empty role is how the vocabulary writes "none".
    let role_arn = role_arn.filter(|arn| !arn.is_empty()).and_then(|arn| {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        match parts[..] {
            ["arn", partition, "iam", "", account, role]
                if partition.starts_with("aws")
                    && account.bytes().all(|byte| byte.is_ascii_digit())
                    && role.len() > 5
                    && role.starts_with("role/") =>
            {
                Some(arn)
            }
            _ => check.refuse(&format!("{base}.s3.roleARN"), "this is no role: write it as arn:aws:iam::123456789012:role/reader"),
        }
    });
    let anonymous = anonymous.unwrap_or(false);
    if anonymous && has_secret {
        check.refuse::<()>(&format!("{base}.s3.anonymous"), "requests with a secretRef are signed: remove `anonymous` or `secretRef`");
    }
    if anonymous && role_arn.is_some() {
        check.refuse::<()>(&format!("{base}.s3.anonymous"), "a role can't be assumed without credentials: remove `anonymous` or `roleARN`");
    }
    // The prefix is a folder: without its last `/` also `train2/` would be part of `train`.
    let prefix = if prefix.is_empty() || prefix.ends_with('/') { prefix.to_owned() } else { format!("{prefix}/") };
    if prefix.len() > 1024 {
        check.refuse::<()>(field, "the prefix has more than the 1024 bytes of an S3 key: shorten it");
    }
    Some(S3Location {
        bucket: bucket?,
        prefix,
        endpoint,
        region,
        addressing: addressing.unwrap_or_default(),
        ca_bundle,
        requester_pays: requester_pays.unwrap_or(false),
        role_arn,
        anonymous,
    })
}

fn is_bucket(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (3..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('.') && !text.contains("..")
}

fn endpoint(check: &mut Check, field: &str, text: String) -> Option<String> {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return check.refuse(field, "an endpoint begins with https:// or http://: write it as in https://minio.corp:9000");
    };
    if rest.contains('@') {
        return check.refuse(field, "credentials don't belong into an endpoint: remove what stands before the @ and name a secretRef");
    }
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let bracketed =
        name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    let named = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if !(bracketed || named) || port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
        return check.refuse(field, "an endpoint is a host and maybe a port, without a path: write it as in https://minio.corp:9000");
    }
    Some(text.strip_suffix('/').map(str::to_owned).unwrap_or(text))
}
