//! Who the client is, by what proxies that we trust say.
//!
//! A chain of addresses grows to the right: `client, proxy1, proxy2`. Anybody can write anything to the left of what our own
//! trusted proxies wrote; so the client is the first address from the right that is not a trusted proxy's. What a peer
//! that is not trusted says counts for nothing.

use std::net::IpAddr;

use crate::model::Network;
use crate::request::Head;

/// Most elements of a chain that are looked at.
const CHAIN_MAX: usize = 64;

/// An address as chains have it: bare, with a port, in brackets, in quotes.
fn parse_node(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']')?.0.parse().ok();
    }
    text.parse().ok().or_else(|| text.split_once(':')?.0.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4))
}

/// The elements of a list, divided at commas outside of quotes, from the right.
fn elements(head: &impl Head, name: &str) -> Vec<String> {
    let mut all = Vec::new();
    for value in head.values(name).filter_map(|value| std::str::from_utf8(value).ok()) {
        all.extend(divide(value, ',').map(|element| element.trim().to_owned()));
    }
    all.reverse();
    all.truncate(CHAIN_MAX);
    all
}

fn divide(text: &str, at: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c| {
        let divides = c == at && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        divides
    })
}

/// The `for` of an element of Forwarded (RFC 7239 §5.2).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    divide(element, ';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| parse_node(value))?
    })
}

/// The client's address: the peer's, or what trusted proxies say. An element that is no address (`unknown`, `_hidden`) ends the chain.
pub fn client_address(head: &impl Head, peer: IpAddr, trusted: &[Network]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if trusted.is_empty() || !is_trusted(peer) {
        return peer;
    }
    let chain: Vec<Option<IpAddr>> = if head.values("x-forwarded-for").next().is_some() {
        elements(head, "x-forwarded-for").iter().map(|element| parse_node(element)).collect()
    } else {
        elements(head, "forwarded").iter().map(|element| forwarded_for(element)).collect()
    };
    let mut client = peer;
    for address in chain {
        let Some(address) = address else { break };
        client = address.to_canonical();
        if !is_trusted(client) {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::PlainHead;

    #[test]
    fn the_client_is_the_first_from_the_right_that_is_no_trusted_proxy() {
        let trusted = ["10.0.0.0/8", "::1"].map(|text| text.parse().expect("a network"));
        for (lines, peer, wanted) in [
            (&[("x-forwarded-for", "1.1.1.1")][..], "9.9.9.9", "9.9.9.9"),
            (&[("x-forwarded-for", "1.1.1.1")], "10.0.0.1", "1.1.1.1"),
            (&[("x-forwarded-for", "6.6.6.6, 1.1.1.1, 10.0.0.2")], "10.0.0.1", "1.1.1.1"),
            (&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.1.1.1,10.0.0.2")], "10.0.0.1", "1.1.1.1"),
            (&[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], "10.0.0.1", "10.0.0.3"),
            (&[("x-forwarded-for", "1.1.1.1, unknown, 10.0.0.2")], "10.0.0.1", "10.0.0.2"),
            (&[("x-forwarded-for", "1.1.1.1:8080")], "::1", "1.1.1.1"),
            (&[("x-forwarded-for", "[2001:db8::1]:80")], "::1", "2001:db8::1"),
            (&[("x-forwarded-for", "::ffff:1.1.1.1")], "::ffff:10.0.0.1", "1.1.1.1"),
            (&[("forwarded", "for=1.1.1.1;proto=https, for=10.0.0.2")], "10.0.0.1", "1.1.1.1"),
            (&[("forwarded", "For=\"[2001:db8::1]:4711\"")], "10.0.0.1", "2001:db8::1"),
            (&[("forwarded", "for=\"a,b\";by=x, for=2.2.2.2")], "10.0.0.1", "2.2.2.2"),
            (&[("forwarded", "for=_hidden")], "10.0.0.1", "10.0.0.1"),
            (&[], "10.0.0.1", "10.0.0.1"),
            (&[("x-forwarded-for", "")], "10.0.0.1", "10.0.0.1"),
        ] {
            let head = PlainHead { method: "GET", authority: "a", target: "/", fields: lines };
            let got = client_address(&head, peer.parse().expect("an address"), &trusted);
            assert_eq!(got.to_string(), wanted, "{lines:?} from {peer}");
        }
    }
}
