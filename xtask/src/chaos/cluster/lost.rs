//! What is lost for good: a node that never comes back, and the whole log of one group on one node.

use super::faults::{CHANGE, Course, LOST};
use crate::nodes::NEAR;
use serde_json::Value as Json;
use std::path::Path;
use std::time::Instant;

/// A node that has been silent for so long is replaced: longer than most faults hold.
pub const REPLACE_AFTER: &str = "cluster.replace_after=7s";

/// From the log's stored form (crate `store`, `log::format`): where batches begin, the lengths of headers, and an entry's kind.
const BATCHES_AT: usize = 4096;
const BATCH_HEADER: usize = 64;
const RECORD_HEADER: usize = 32;
const ENTRY: u8 = 2;

impl Course {
    /// kill -9, and nobody starts it again: a spare one must get all that it held. Then its number is taken out, as an operator does in the end.
    pub(super) fn lose_node(&mut self, at: usize) -> Result<String, String> {
        while self.running().len() < 4 {
            let place = self.nodes.free_place()?.ok_or("no place for a spare node")?;
            self.nodes.start(place)?;
        }
        self.nodes.await_replicas(CHANGE)?;
        let id = self.nodes.nodes[at].id;
        self.nodes.kill(at);
        let start = Instant::now();
        let told = format!("node {id} at ");
        let is_told = |view: &Json| {
            let mut problems = view["problems"].as_array().into_iter().flatten().filter_map(Json::as_str);
            let is_told = problems.any(|problem| problem.starts_with(&told) && problem.contains("does not answer"));
            if is_told { Ok(()) } else { Err(format!("nobody says that node {id} does not answer")) }
        };
        self.nodes.await_view(CHANGE, is_told)?;
        let noticed = start.elapsed();
        self.nodes.await_view(CHANGE, |view| replaced(view, id))?;
        let replaced = start.elapsed();
        let (noticed, replaced) = (noticed.as_secs_f64(), replaced.as_secs_f64());
        let done = format!("node {id} died: told after {noticed:.2} s, all it held is on others after {replaced:.2} s");
        if self.seen.contains_key(LOST) {
            self.nodes.leave(at, CHANGE)?;
            return Ok(format!("{done}, and it was taken out"));
        }
        // It comes back after all: to groups that have others by now, so it must take itself for what it is, a spare one.
        let took = self.nodes.start(at)?.as_secs_f64();
        self.nodes.await_replicas(CHANGE)?;
        Ok(format!("{done}; it came back as a spare one in {took:.2} s"))
    }

    /// On a node that is down, everything that its disk has of one group is gone; it starts, says so, and gets it back.
    pub(super) fn lose_log(&mut self, at: usize) -> Result<String, String> {
        self.nodes.await_replicas(CHANGE)?;
        self.nodes.kill(at);
        let group = 1 + self.rng.below(self.nodes.shards()) as u32;
        let gone = self.nodes.at_files(at, move |data| forget_group(data, group))??;
        let start = Instant::now();
        self.nodes.start(at)?;
        let (id, process) = (self.nodes.nodes[at].id, self.nodes.nodes[at].process.as_ref());
        let said = process.map(crate::ground::Process::said).unwrap_or_default();
        let word = format!("g{group}");
        let fences = |line: &&str| line.contains("neither votes nor vouches in ");
        let is_fenced = said.lines().find(fences).is_some_and(|line| line.split([' ', ',']).any(|other| other == word));
        if !is_fenced {
            let said = crate::shell::tail(&said, 12);
            return Err(format!(
                "node {id} has lost all of shard {group} ({gone}) and vouches for it; it said:\n{said}"
            ));
        }
        let back = |view: &Json| {
            let mut nodes = view["nodes"].as_array().into_iter().flatten();
            let fenced = nodes.find(|node| node["fenced"].as_array().is_some_and(|groups| !groups.is_empty()));
            fenced.map_or(Ok(()), |node| Err(format!("node {} still lacks {}", node["node"], node["fenced"])))
        };
        self.nodes.await_view(CHANGE, back)?;
        self.nodes.await_replicas(CHANGE)?;
        let took = start.elapsed().as_secs_f64();
        Ok(format!("node {id} lost all of shard {group} ({gone}), said so, and had it back after {took:.2} s"))
    }
}

/// Whether all groups have three voters and none of them, but for the meta group, anything on that node.
fn replaced(view: &Json, id: u64) -> Result<(), String> {
    let list = |value: &Json| value.as_array().cloned().unwrap_or_default();
    for group in list(&view["groups"]).iter().filter(|group| group["group"].as_u64() != Some(0)) {
        let number = &group["group"];
        let voters: Vec<u64> = list(&group["voters"]).iter().filter_map(Json::as_u64).collect();
        if voters.len() < 3 || voters.contains(&id) {
            return Err(format!("shard {number} has voters {voters:?}, and node {id} is lost"));
        }
        let mut lags = group["lag"].as_object().into_iter().flatten();
        if let Some((node, lag)) = lags.find(|(_, lag)| lag.as_u64().is_none_or(|lag| lag > NEAR)) {
            return Err(format!("shard {number} lags by {lag} at node {node}"));
        }
    }
    Ok(())
}

fn number(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]) as usize)
}

/// Zeros every entry of a group in a data directory's log, and deletes its snapshots. What that was, in words.
fn forget_group(data: &Path, group: u32) -> Result<String, String> {
    let at = |error: std::io::Error| format!("{}: {error}", data.display());
    let (mut entries, mut snapshots) = (0, 0);
    for entry in std::fs::read_dir(data).map_err(at)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("snap-{group:08x}-")) {
            std::fs::remove_file(entry.path()).map_err(at)?;
            snapshots += 1;
        } else if let Some(segment) = name.strip_suffix(".log").and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            let mut bytes = std::fs::read(entry.path()).map_err(at)?;
            let zeroed = zero(&mut bytes, segment, group);
            if zeroed > 0 {
                std::fs::write(entry.path(), bytes).map_err(at)?;
            }
            entries += zeroed;
        }
    }
    if entries + snapshots == 0 {
        return Err(format!("{}: nothing of shard {group} is there", data.display()));
    }
    Ok(format!("{entries} entries, {snapshots} snapshots"))
}

/// Zeros a group's entries in a segment; how many. Batches' headers stay, so it is known whose records were there.
fn zero(bytes: &mut [u8], segment: u64, group: u32) -> usize {
    let (mut at, mut zeroed) = (BATCHES_AT, 0);
    // What follows the last batch is of a file's earlier life, or nothing.
    while bytes.get(at..at + 4) == Some(b"QLBT") && bytes.get(at + 24..at + 32) == Some(&segment.to_le_bytes()[..]) {
        let end = at + BATCH_HEADER + number(bytes, at + 8);
        let mut record = at + BATCH_HEADER;
        while record + RECORD_HEADER <= end && end <= bytes.len() {
            let after = record + RECORD_HEADER + number(bytes, record + 4);
            if bytes[record + 8] == ENTRY && number(bytes, record + 12) == group as usize && after <= end {
                bytes[record..after].fill(0);
                zeroed += 1;
            }
            record = after;
        }
        at = end.next_multiple_of(8);
    }
    zeroed
}
