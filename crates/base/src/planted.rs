//! Promises that a test build breaks on demand, so that a proof can show that it notices: a proof that never fails proves nothing.
//!
//! Each bug stands in the product's own code, at the place that keeps the promise, behind [`is_planted`]. Without the feature `planted` that is
//! `false` to the compiler and nothing of the bugs is in the program. With it, a process breaks the one promise that it was told
//! by [`plant`], once, at its start. `cargo xtask gateway-proof --planted` builds such a program beside the other and plays every
//! bug against the case that must catch it.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $bug:ident = $name:literal;)+) => {
        /// A bug. Each is one that a gateway or a registry somewhere had.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Bug {
            $($(#[doc = $doc])+ $bug,)+
        }

        impl Bug {
            /// All of them, with the names that [`plant`] knows.
            pub const ALL: &[(Bug, &str)] = &[$((Bug::$bug, $name)),+];
        }
    };
}

bugs! {
    /// A line that ends in LF alone is taken (RFC 9112 §2.2).
    BareLfTaken = "bare-lf-taken";
    /// Content-Length beside Transfer-Encoding is taken, and Content-Length counts (RFC 9112 §6.1: request smuggling).
    BothLengthsTaken = "both-lengths-taken";
    /// Fields that Connection names go on to the upstream (RFC 9110 §7.6.1).
    HopFieldsForwarded = "hop-fields-forwarded";
    /// An answer that breaks off counts as whole.
    CutAnswerWhole = "cut-answer-whole";
    /// Trailers are dropped: gRPC's status among them.
    TrailersLost = "trailers-lost";
    /// HTTP/2 clients are not told that what they sent was taken, so that large bodies stand still (RFC 9113 §5.2).
    WindowKept = "window-kept";
    /// Bytes that the upstream sends right behind a 101 are lost.
    TunnelStartLost = "tunnel-start-lost";
    /// An upstream may take as long as it likes for an answer.
    AnswerNeverLate = "answer-never-late";
    /// A client may take as long as it likes for a request's head.
    HeadNeverLate = "head-never-late";
    /// A client may send a request's body as slowly as it likes, as long as it sends.
    BodyNeverSlow = "body-never-slow";
    /// A POST that was sent is sent again.
    PostSentAgain = "post-sent-again";
    /// A request whose connection was refused is not tried elsewhere.
    RefusedNotRetried = "refused-not-retried";
    /// However long requests wait for their turn, none is refused for it.
    DelayNotShed = "delay-not-shed";
    /// Where a retry goes is decided before its pause and not looked at again (I7).
    RetryNotAskedAgain = "retry-not-asked-again";
    /// The retry budget pays always.
    BudgetNotKept = "budget-not-kept";
    /// All endpoints may be ejected, and who is ejected is no last resort either.
    AllEjected = "all-ejected";
    /// Changes of the registry are followed a while after they applied (I7).
    ChangesFollowedLate = "changes-followed-late";
    /// Critical instances get requests.
    CriticalServed = "critical-served";
    /// Connections of a listener that goes are cut instead of drained.
    DrainNotWaited = "drain-not-waited";
    /// Accepting ends for good where no file descriptor is left.
    FilesOutForGood = "files-out-for-good";
    /// Certificates are read once.
    CertificatesReadOnce = "certificates-read-once";
    /// Names of endpoints are looked up once.
    NamesLookedUpOnce = "names-looked-up-once";
    /// DNS tells instances that are critical.
    DnsTellsCritical = "dns-tells-critical";
    /// DNS does not say that an answer was cut.
    DnsCutUnsaid = "dns-cut-unsaid";
}

#[cfg(feature = "planted")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(u8::MAX);

/// Breaks the promise of this name from now on; false where there is no such bug.
#[cfg(feature = "planted")]
pub fn plant(name: &str) -> bool {
    let bug = Bug::ALL.iter().find(|(_, other)| *other == name);
    bug.is_some_and(|(bug, _)| {
        PLANTED.store(*bug as u8, std::sync::atomic::Ordering::Relaxed);
        true
    })
}

/// Whether this promise is to be broken.
#[inline(always)]
#[cfg(feature = "planted")]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Whether this promise is to be broken: never, in this build.
#[inline(always)]
#[cfg(not(feature = "planted"))]
pub const fn is_planted(_: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::Bug;

    #[test]
    fn names_are_told_apart() {
        for (at, (_, name)) in Bug::ALL.iter().enumerate() {
            assert!(!name.is_empty() && Bug::ALL[..at].iter().all(|(_, other)| other != name), "{name}");
        }
    }
}
