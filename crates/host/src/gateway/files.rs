//! Files that are read again when they change: certificates, authorities, the file of locations.

use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

/// What files looked like: another stamp means that somebody wrote or exchanged one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Vec<Option<(SystemTime, u64, u64)>>);

impl Stamp {
    /// What these look like now; behind symbolic links.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a str>) -> Stamp {
        let look = |path: &str| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len(), meta.ino()))
        };
        Stamp(paths.into_iter().map(look).collect())
    }
}

/// A file's bytes, or an error that names it.
pub fn read(path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{path}: {error}"))
}
