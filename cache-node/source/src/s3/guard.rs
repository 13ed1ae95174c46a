//! Looks names up, and refuses the addresses that a source may not reach.
//! Knows addresses. Does not know what is asked of whom.
//! Invariant: an answer with one refused address is refused whole, so that a name can't lead elsewhere at the next try.

use std::net::IpAddr;

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use forebay_wire::reach::Reach;

/// A name, or an address, that no request of this source may go to.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name} is {what} ({address}), which no Dataset may read: use another endpoint, or have the CachePolicy list exactly this one in allowedSources"
)]
pub(super) struct Refused {
    name: String,
    what: &'static str,
    address: IpAddr,
}

/// The machine's own resolver, behind `Reach`.
#[derive(Clone, Debug)]
pub(super) struct Guard(Reach);

impl Guard {
    pub(super) fn new(reach: Reach) -> Self {
        Self(reach)
    }

    /// Whether an endpoint whose host is an address may be asked: nobody looks that up.
    pub(super) fn check_endpoint(&self, endpoint: &str) -> Result<(), Refused> {
        let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or(rest);
        let host = match authority.strip_prefix('[') {
            Some(inner) => inner.split(']').next().unwrap_or(inner),
            None => authority.split(':').next().unwrap_or(authority),
        };
        match host.parse() {
            Ok(address) => self.check(host, address),
            Err(_) => Ok(()),
        }
    }

    fn check(&self, name: &str, address: IpAddr) -> Result<(), Refused> {
        match self.0.refuses(address) {
            Some(what) => Err(Refused { name: name.to_owned(), what, address }),
            None => Ok(()),
        }
    }

    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveDnsError> {
        let found: Vec<IpAddr> = tokio::net::lookup_host((name, 0)).await.map_err(ResolveDnsError::new)?.map(|at| at.ip()).collect();
        found.iter().try_for_each(|address| self.check(name, *address)).map_err(ResolveDnsError::new)?;
        Ok(found)
    }
}

impl ResolveDns for Guard {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(self.resolve(name))
    }
}
