//! The admin door: what a person, a probe and Prometheus are told about a node.
//!
//! [`status`] is everything in one value, which goes out as JSON and as [`metrics`]; [`rates`] keeps the last minute; [`registry`] looks at
//! the services;
//! [`config`] is configuration in the registry; [`tape`] says what a commit holds; [`CONSOLE`] is the page that shows it all; [`guard`] says which requests are let in.
//! Sockets, HTTP and clocks are the host's.
//!
//! **Invariant:** nothing here shows a password, and only [`config`] shows values, of keys that are configuration; only it and the tape show keys, and `/metrics` shows none.

pub mod auth;
pub mod config;
pub mod explain;
pub mod front;
pub mod guard;
pub mod metrics;
pub mod rates;
pub mod registry;
pub mod status;
pub mod tape;

/// The console: one page that asks for nothing but `/events` and `/gateway/look`. [`NONCE`] stands where the answer's own nonce belongs.
pub const CONSOLE: &str = include_str!("console.html");

/// See [`CONSOLE`].
pub const NONCE: &str = "NONCE-OF-THIS-ANSWER";

#[cfg(test)]
mod tests {
    use super::{CONSOLE, NONCE};

    #[test]
    fn the_console_needs_nothing_from_elsewhere_and_makes_no_html_of_data() {
        assert_eq!(CONSOLE.matches(NONCE).count(), 2, "one style, one script");
        for never in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "https://",
            "@import",
            " onclick=",
        ] {
            assert!(!CONSOLE.contains(never), "{never}");
        }
        let outside =
            CONSOLE.match_indices("http://").filter(|(at, _)| !CONSOLE[*at..].starts_with("http://www.w3.org/"));
        assert_eq!(outside.count(), 0, "only the name of SVG's namespace");
    }
}
