//! Passwords: compared in a time that says nothing, and never shown.

/// A password. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text itself, for whoever has to show it to somebody else: never for a log or a person.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether this is what was given. Takes the same time whatever the first difference.
    pub fn matches(&self, given: &[u8]) -> bool {
        let wanted = self.0.as_bytes();
        let mut difference = wanted.len() ^ given.len();
        for (at, byte) in given.iter().enumerate() {
            difference |= usize::from(byte ^ wanted.get(at % wanted.len().max(1)).copied().unwrap_or(0));
        }
        difference == 0
    }
}

impl core::fmt::Debug for Secret {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.write_str("(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn only_the_same_bytes_match_and_nothing_is_shown() {
        let secret = Secret::new("hunter2".into());
        assert!(secret.matches(b"hunter2"));
        for other in ["", "hunter", "hunter22", "Hunter2", "hunter2hunter2"] {
            assert!(!secret.matches(other.as_bytes()), "{other}");
        }
        assert!(!Secret::new(String::new()).matches(b"x"));
        assert_eq!(format!("{secret:?}"), "(not shown)");
    }
}
