//! Where a source may be: addresses that no data set of somebody else may lead a node to.
//! Pure. Does not resolve names: who makes the connection asks about each address that a name leads to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far the requests of one source may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Wherever the endpoint's name leads: who wrote it owns the machine, or listed exactly this endpoint.
    Anywhere,
    /// Not to this machine, not to link-local addresses, and not to these, the API server's.
    Guarded { api_server: Vec<IpAddr> },
}

impl Reach {
    /// What `address` is, if no request may go there.
    pub fn refuses(&self, address: IpAddr) -> Option<&'static str> {
        match self {
            Self::Anywhere => None,
            Self::Guarded { api_server } if api_server.contains(&address.to_canonical()) => Some("the API server"),
            Self::Guarded { .. } => forbidden(address),
        }
    }
}

/// What `address` is, if it is this machine's own or link-local, in whatever family it is written.
pub fn forbidden(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(address) => forbidden_v4(address),
        IpAddr::V6(address) => forbidden_v6(address),
    }
}

fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    if address.is_loopback() || address.octets()[0] == 0 {
        Some("this machine itself")
    } else if address.is_link_local() {
        Some("a link-local address")
    } else {
        None
    }
}

fn forbidden_v6(address: Ipv6Addr) -> Option<&'static str> {
    // AWS' metadata service has an address of its own in IPv6 that isn't link-local.
    const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254);
    if address.is_loopback() || address.is_unspecified() {
        Some("this machine itself")
    } else if address.is_unicast_link_local() || address == METADATA {
        Some("a link-local address")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_guarded_source_reaches_neither_the_machine_nor_the_api_server() {
        let api_server = vec!["10.96.0.1".parse().unwrap()];
        let check = |address: &str, expected: Option<&str>| {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(Reach::Guarded { api_server: api_server.clone() }.refuses(address), expected, "{address}");
            assert_eq!(Reach::Anywhere.refuses(address), None);
        };
        for own in ["127.0.0.1", "127.8.9.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"] {
            check(own, Some("this machine itself"));
        }
        for near in ["169.254.169.254", "fe80::1", "fd00:ec2::254", "::ffff:169.254.169.254"] {
            check(near, Some("a link-local address"));
        }
        for server in ["10.96.0.1", "::ffff:10.96.0.1"] {
            check(server, Some("the API server"));
        }
        for far in ["10.96.0.2", "192.168.1.1", "52.216.0.1", "2600::1", "fd00::1"] {
            check(far, None);
        }
    }
}
