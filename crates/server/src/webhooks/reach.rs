//! Where webhooks may go. Whoever may add a webhook makes this process send requests: into networks, and to services, that only it may see.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Name, Resolve, Resolving};

/// Which addresses webhooks may be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Public, private and loopback addresses, as receivers in one's own network have them. Not the link-local ones and those
    /// others under which clouds tell machines their credentials.
    Private,
    /// Public addresses alone.
    Public,
}

/// Addresses of metadata services that lie within private ranges.
const METADATA: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192))];

impl Reach {
    /// True when an address may be connected to.
    pub fn allows(self, address: IpAddr) -> bool {
        let address = embedded(address);
        !is_never(address) && (self == Reach::Private || !is_private(address))
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped, compatible, translated (NAT64), 6to4.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        _ => address,
    }
}

/// Addresses that no receiver has, and link-local ones.
fn is_never(address: IpAddr) -> bool {
    if METADATA.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V4(v4) => {
            v4.octets()[0] == 0 || v4.is_link_local() || v4.is_multicast() || v4.octets()[0] >= 240
        }
        IpAddr::V6(v6) => {
            let is_amazons_metadata = v6.segments()[..2] == [0xfd00, 0x0ec2];
            v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast() || is_amazons_metadata
        }
    }
}

/// Addresses that are not to be had over the internet (RFC 6890).
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [10 | 127, ..] | [192, 168, ..] | [198, 18 | 19, ..] | [192, 0, 0, _] => true,
            [100, second, ..] => second & 0b1100_0000 == 64,
            [172, second, ..] => second & 0b1111_0000 == 16,
            _ => v4.is_documentation(),
        },
        IpAddr::V6(v6) => {
            let is_documentation = v6.segments()[..2] == [0x2001, 0x0db8];
            v6 == Ipv6Addr::LOCALHOST || v6.is_unique_local() || is_documentation
        }
    }
}

/// The address that a webhook is given, checked as far as its text tells. What a name stands for is checked by [`Resolver`]
/// whenever it is looked up, because it may change.
pub(super) fn target(text: &str, reach: Reach) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("url {error}"))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(format!("url must begin with http:// or https://, it has {}", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("url must have neither user, password nor fragment".to_owned());
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(address) if !reach.allows(address) => {
            Err(format!("url leads to {address}, where webhooks may not go: see the setting webhooks-reach"))
        }
        _ => Ok(url),
    }
}

/// Looks names up, and drops the addresses where webhooks may not go.
pub(super) struct Resolver(pub(super) Reach);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|address| reach.allows(address.ip())).collect();
            if allowed.is_empty() {
                let why = format!("{} has no address where webhooks may go", name.as_str());
                return Err(why.into());
            }
            Ok(Box::new(allowed.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_allowed_by_what_they_lead_to() {
        let rows = [
            ("203.0.114.7", true, true),
            ("2606:4700::1", true, true),
            ("127.0.0.1", true, false),
            ("10.1.2.3", true, false),
            ("172.31.0.1", true, false),
            ("172.32.0.1", true, true),
            ("192.168.1.1", true, false),
            ("100.64.0.1", true, false),
            ("100.128.0.1", true, true),
            ("::1", true, false),
            ("fd12::1", true, false),
            ("::ffff:10.0.0.1", true, false),
            ("64:ff9b::10.0.0.1", true, false),
            ("169.254.169.254", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("64:ff9b::169.254.169.254", false, false),
            ("2002:a9fe:a9fe::", false, false),
            ("::169.254.169.254", false, false),
            ("fd00:ec2::254", false, false),
            ("fe80::1", false, false),
            ("100.100.100.200", false, false),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("255.255.255.255", false, false),
            ("224.0.0.1", false, false),
            ("ff02::1", false, false),
        ];
        for (text, private, public) in rows {
            let address: IpAddr = text.parse().expect("an address");
            let allowed = (Reach::Private.allows(address), Reach::Public.allows(address));
            assert_eq!(allowed, (private, public), "{text}");
        }
    }

    #[test]
    fn urls_are_judged_however_their_host_is_written() {
        for url in
            ["http://2852039166/", "http://0xa9.0xfe.0xa9.0xfe/", "http://[::ffff:a9fe:a9fe]/", "http://0/"]
        {
            assert!(target(url, Reach::Private).is_err(), "{url}");
        }
        for url in ["http://127.1/", "http://0x7f000001/", "http://[::1]:8080/hook"] {
            assert!(target(url, Reach::Public).is_err(), "{url}");
            assert!(target(url, Reach::Private).is_ok(), "{url}");
        }
        for url in ["ftp://a/", "file:///etc/passwd", "hooks", "http://u:p@a/", "http://a/#b", "http://"] {
            assert!(target(url, Reach::Private).is_err(), "{url}");
        }
        assert!(target("https://hooks.example.com/wallet?tenant=1", Reach::Public).is_ok());
    }
}
