//! Which HTTP requests the admin door lets in.
//!
//! Without a password what protects the door is that only this machine reaches it; with one, a browser may have been given
//! it. Either way a browser that reaches the door is the hole: any page it shows may send requests to loopback. Two checks close it. A name that somebody else's DNS points here
//! (rebinding) is not in the list of hosts; and a page of another origin is told by its `Origin` or `Sec-Fetch-Site`.

use core::net::{Ipv4Addr, Ipv6Addr};

/// The parts of a request that are judged. Absent headers are `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// `Host`, or the authority of an absolute target.
    pub host: Option<&'a str>,
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// `Sec-Fetch-Site`.
    pub fetch_site: Option<&'a str>,
    /// Whether the request changes something.
    pub changes: bool,
}

/// Why a request is refused, for the one who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No usable `Host`: 400.
    NoHost,
    /// A host that is not in the list: 421.
    WrongHost(String),
    /// A page from elsewhere: 403.
    OtherOrigin,
}

/// Judges a request. `hosts` are names beyond those of loopback.
pub fn check(asked: Asked<'_>, hosts: &[String]) -> Result<(), Refused> {
    let authority = asked.host.ok_or(Refused::NoHost)?;
    let name = host_name(authority).ok_or(Refused::NoHost)?;
    if !is_known(name, hosts) {
        return Err(Refused::WrongHost(name.chars().take(100).collect()));
    }
    if let Some(origin) = asked.origin
        && !origin.strip_prefix("http://").is_some_and(|from| from.eq_ignore_ascii_case(authority))
    {
        return Err(Refused::OtherOrigin);
    }
    match asked.fetch_site {
        // A link or a bookmark may open a page, but nothing that changes the node comes from elsewhere.
        Some("cross-site" | "same-site") if asked.changes => Err(Refused::OtherOrigin),
        _ => Ok(()),
    }
}

/// The name of a `host[:port]`, brackets of IPv6 removed; `None` where it is neither.
fn host_name(authority: &str) -> Option<&str> {
    let (name, rest) = match authority.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port_fits = rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    (port_fits && !name.is_empty()).then_some(name)
}

/// Addresses cannot be rebound (no DNS is asked), so any is taken; of names only loopback's own and the configured ones.
fn is_known(name: &str, hosts: &[String]) -> bool {
    name.parse::<Ipv4Addr>().is_ok()
        || name.parse::<Ipv6Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::{Asked, Refused, check};

    fn of(host: &str) -> Asked<'_> {
        Asked { host: Some(host), ..Asked::default() }
    }

    #[test]
    fn loopback_addresses_and_configured_names_are_let_in() {
        let hosts = ["Admin.Example".to_owned()];
        for host in
            ["localhost", "LOCALHOST:7070", "127.0.0.1:7070", "[::1]:7070", "[::1]", "10.1.2.3", "admin.example:1"]
        {
            assert_eq!(check(of(host), &hosts), Ok(()), "{host}");
        }
    }

    #[test]
    fn names_that_dns_could_point_here_are_not() {
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:7070", "localhost."] {
            assert!(matches!(check(of(host), &[]), Err(Refused::WrongHost(_))), "{host}");
        }
        for host in ["", ":7070", "localhost:", "localhost:x", "localhost:7070:1", "[::1", "[::1]x", "[]"] {
            assert_eq!(check(of(host), &[]), Err(Refused::NoHost), "{host}");
        }
        assert_eq!(check(Asked::default(), &[]), Err(Refused::NoHost));
    }

    #[test]
    fn pages_of_another_origin_are_refused() {
        let own = Asked { origin: Some("http://localhost:7070"), changes: true, ..of("localhost:7070") };
        assert_eq!(check(own, &[]), Ok(()));
        for origin in ["http://evil.example", "http://localhost:3000", "https://localhost:7070", "null", ""] {
            let other = Asked { origin: Some(origin), ..own };
            assert_eq!(check(other, &[]), Err(Refused::OtherOrigin), "{origin}");
        }
    }

    #[test]
    fn a_browser_that_tells_only_the_site_is_believed_where_something_changes() {
        let linked = Asked { fetch_site: Some("cross-site"), ..of("localhost") };
        assert_eq!(check(linked, &[]), Ok(()));
        assert_eq!(check(Asked { changes: true, ..linked }, &[]), Err(Refused::OtherOrigin));
        let own = Asked { fetch_site: Some("same-origin"), changes: true, ..linked };
        assert_eq!(check(own, &[]), Ok(()));
    }
}
