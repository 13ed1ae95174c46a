//! Whether a policy lets a Dataset read what it names.
//! Pure. Does not resolve names: what a name leads to is checked where the connection is made.
//! Invariant: link-local and loopback addresses and the API server are refused unless exactly this endpoint is listed; `file:` unless listed.

use std::net::IpAddr;

use forebay_wire::dataset_spec::file::{DatasetSpecFile, S3File};
use forebay_wire::glob;
use forebay_wire::reach;

/// A source that may not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAllowed {
    /// As in `spec.sources[1].uri`.
    pub field: String,
    pub message: String,
}

/// Checks every source of `spec`. `api_server` are the names and addresses of the API server. The first that isn't allowed is told.
pub fn check(spec: &DatasetSpecFile, allowed: &[String], api_server: &[String]) -> Result<(), NotAllowed> {
    if let Some(uri) = &spec.source {
        one("spec.source", "spec", uri, spec.s3.as_ref(), allowed, api_server)?;
    }
    for (index, source) in spec.sources.iter().flatten().enumerate() {
        let base = format!("spec.sources[{index}]");
        one(&format!("{base}.uri"), &base, &source.uri, source.s3.as_ref(), allowed, api_server)?;
    }
    Ok(())
}

/// The endpoints of `spec` that `allowed` lists one by one: a node follows their names wherever they lead.
pub fn trusted(spec: &DatasetSpecFile, allowed: &[String]) -> Vec<String> {
    let sources = spec.sources.iter().flatten().map(|source| source.s3.as_ref());
    let endpoints = [spec.s3.as_ref()].into_iter().chain(sources).flatten().filter_map(|s3| s3.endpoint.clone());
    endpoints.filter(|endpoint| is_listed(endpoint, allowed)).collect()
}

/// Letter by letter, but for a last `/`: a pattern lists nothing.
fn is_listed(endpoint: &str, allowed: &[String]) -> bool {
    allowed.iter().any(|listed| listed.trim_end_matches('/') == endpoint.trim_end_matches('/'))
}

fn one(field: &str, base: &str, uri: &str, s3: Option<&S3File>, allowed: &[String], api_server: &[String]) -> Result<(), NotAllowed> {
    if !allowed.iter().any(|pattern| covers(pattern, uri)) {
        let message = format!(
            "the CachePolicy allows {}, which `{uri}` isn't: add it to the policy's allowedSources, or name another policy",
            if allowed.is_empty() { "no source".to_owned() } else { allowed.join(", ") }
        );
        return Err(NotAllowed { field: field.to_owned(), message });
    }
    match s3.and_then(|s3| s3.endpoint.as_deref()) {
        Some(address) => endpoint(&format!("{base}.s3.endpoint"), address, allowed, api_server),
        None => Ok(()),
    }
}

/// `*` never reaches from one scheme into another: `*` alone doesn't allow `file:`.
fn covers(pattern: &str, uri: &str) -> bool {
    let scheme = |text: &str| text.split_once("://").map(|(scheme, _)| scheme.to_owned());
    // A folder may be written without its last `/`; what is below it is meant.
    let whole = glob::matches(pattern, uri) || glob::matches(pattern, &format!("{uri}/"));
    scheme(pattern).is_some() && scheme(pattern) == scheme(uri) && whole && !uri.split('/').any(|part| part == "..")
}

fn endpoint(field: &str, address: &str, allowed: &[String], api_server: &[String]) -> Result<(), NotAllowed> {
    let address = address.strip_suffix('/').unwrap_or(address);
    let endpoints: Vec<&String> =
        allowed.iter().filter(|pattern| pattern.starts_with("http://") || pattern.starts_with("https://")).collect();
    if is_listed(address, allowed) {
        return Ok(());
    }
    let refuse = |why: String| {
        let message = format!("{why}: use another endpoint, or list exactly `{address}` in the policy's allowedSources");
        Err(NotAllowed { field: field.to_owned(), message })
    };
    if let Some(kind) = forbidden(host(address), api_server) {
        return refuse(format!("`{address}` is {kind}, which no Dataset may read"));
    }
    if !endpoints.is_empty() && !endpoints.iter().any(|pattern| glob::matches(pattern, address)) {
        return refuse(format!("the CachePolicy lists endpoints, and `{address}` is none of them"));
    }
    Ok(())
}

/// `minio` of `https://minio:9000`, `::1` of `http://[::1]:80`.
fn host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    match rest.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or(inner),
        None => rest.split(':').next().unwrap_or(rest),
    }
}

/// What `host` is, if it is never read.
fn forbidden(host: &str, api_server: &[String]) -> Option<&'static str> {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    if name == "kubernetes" || name == "kubernetes.default" || name.starts_with("kubernetes.default.") {
        return Some("the API server");
    }
    if api_server.iter().any(|server| server.eq_ignore_ascii_case(&name)) {
        return Some("the API server");
    }
    if name == "localhost" || name.ends_with(".localhost") || name == "localhost.localdomain" {
        return Some("this machine itself");
    }
    match name.parse::<IpAddr>() {
        Ok(address) => reach::forbidden(address),
        // `127.1`, `2130706433`, `0x7f000001`: resolvers take them for addresses, so nobody needs them as a name.
        Err(_) if name.split('.').next_back().is_some_and(is_number) => Some("an address in another spelling"),
        Err(_) => None,
    }
}

/// As a resolver takes it: a top-level domain is never a number.
fn is_number(part: &str) -> bool {
    let hex = part.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex || (!part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_endpoint(address: &str, allowed: &[&str], expected: Result<(), &str>) {
        let spec = DatasetSpecFile {
            source: Some("s3://bucket/a/".to_owned()),
            s3: Some(S3File { endpoint: Some(address.to_owned()), ..S3File::default() }),
            ..DatasetSpecFile::default()
        };
        let allowed: Vec<String> = allowed.iter().map(|text| (*text).to_owned()).collect();
        let got = check(&spec, &allowed, &["10.96.0.1".to_owned(), "api.corp".to_owned()]);
        match (&got, expected) {
            (Ok(()), Ok(())) => {}
            (Err(NotAllowed { field, message }), Err(part)) => {
                assert_eq!(field, "spec.s3.endpoint");
                assert!(message.contains(part), "{address}: {message}");
            }
            (got, expected) => panic!("{address} with {allowed:?}: {got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn endpoints_of_the_machine_and_of_the_api_server_are_refused() {
        let s3 = &["s3://*"];
        check_endpoint("https://minio.corp:9000", s3, Ok(()));
        check_endpoint("http://10.1.2.3:9000", s3, Ok(()));
        for own in [
            "http://127.0.0.1:9000",
            "http://localhost",
            "http://[::1]:9000",
            "http://0.0.0.0",
            "http://[::ffff:127.0.0.1]",
            "http://a.LOCALHOST.",
        ] {
            check_endpoint(own, s3, Err("this machine itself"));
        }
        for near in ["http://169.254.169.254", "http://[fe80::1]", "http://[fd00:ec2::254]"] {
            check_endpoint(near, s3, Err("a link-local address"));
        }
        for spelled in ["http://2130706433", "http://127.1", "http://0x7f000001", "http://0x7f.0.0.1"] {
            check_endpoint(spelled, s3, Err("another spelling"));
        }
        for server in ["https://10.96.0.1:443", "https://API.corp", "https://kubernetes.default.svc", "https://kubernetes"] {
            check_endpoint(server, s3, Err("the API server"));
        }
    }

    #[test]
    fn only_an_exact_entry_allows_such_an_endpoint() {
        check_endpoint("http://127.0.0.1:9000", &["s3://*", "http://127.0.0.1:9000"], Ok(()));
        check_endpoint("http://127.0.0.1:9000", &["s3://*", "http://127.0.0.1:9000/"], Ok(()));
        check_endpoint("http://127.0.0.1:9000", &["s3://*", "http://*"], Err("this machine itself"));
        check_endpoint("http://127.0.0.1:9001", &["s3://*", "http://127.0.0.1:9000"], Err("this machine itself"));
        check_endpoint("https://other.corp", &["s3://*", "https://minio.corp:9000"], Err("none of them"));
        check_endpoint("https://minio-2.corp", &["s3://*", "https://*.corp"], Ok(()));
    }

    #[test]
    fn a_source_is_allowed_by_an_entry_of_its_scheme() {
        let check_uri = |uri: &str, allowed: &[&str], expected: bool| {
            let spec = DatasetSpecFile { source: Some(uri.to_owned()), ..DatasetSpecFile::default() };
            let allowed: Vec<String> = allowed.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(check(&spec, &allowed, &[]).is_ok(), expected, "{uri} with {allowed:?}");
        };
        check_uri("s3://a/b/", &["s3://*"], true);
        check_uri("s3://a/b/", &["s3://a/*"], true);
        check_uri("s3://a", &["s3://a/*"], true);
        check_uri("s3://ab/", &["s3://a/*"], false);
        check_uri("s3://a/b/", &[], false);
        check_uri("file:///mnt/nfs", &["s3://*"], false);
        check_uri("file:///mnt/nfs", &["*"], false);
        check_uri("file:///mnt/nfs", &["file:///mnt/*"], true);
        check_uri("file:///mnt/../etc", &["file:///mnt/*"], false);
        check_uri("file:///mnt/nfs", &["file:///mnt/nfs/*"], true);
    }
}
