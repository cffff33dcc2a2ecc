//! Snapshots: one file per group and index, written piece by piece, whole or absent.

use base::GroupId;

/// Which snapshot a file name speaks of.
pub fn parse_name(name: &str) -> Option<(GroupId, u64)> {
    let (group, index) = name.strip_prefix("snap-")?.strip_suffix(".snap")?.split_once('-')?;
    if group.len() != 8 || index.len() != 16 {
        return None;
    }
    Some((GroupId(u32::from_str_radix(group, 16).ok()?), u64::from_str_radix(index, 16).ok()?))
}
