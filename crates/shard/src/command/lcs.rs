//! LCS: the longest common subsequence of two strings, by the textbook's table of lengths.
//!
//! The table has one cell for every pair of bytes; it is bounded as every string is, so the command's time is too.

use base::Limits;

use super::string::two;
use super::{Args, Outcome, Reading, integer, is};
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

/// Places that match: first and last in the one string, first and last in the other.
type Match = [usize; 4];

#[derive(Default)]
struct Options {
    len: bool,
    idx: bool,
    with_match_len: bool,
    shortest: usize,
}

pub(super) fn lcs(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (a, b) = two(reading, args)?;
    let options = options(&args[3..])?;
    let cells = (a.len() as u128 + 1) * (b.len() as u128 + 1);
    if cells * size_of::<u32>() as u128 > Limits::DEFAULT.bulk_bytes_max as u128 {
        let text = "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len";
        return Err(CommandError::new(text));
    }
    let table = Table::of(a, b);
    if options.idx {
        let mut matches = table.matches(a, b);
        matches.retain(|found| found[1] - found[0] + 1 >= options.shortest);
        reply.map(2);
        reply.bulk(b"matches");
        reply.array(matches.len());
        for [a_first, a_last, b_first, b_last] in matches {
            reply.array(if options.with_match_len { 3 } else { 2 });
            for (first, last) in [(a_first, a_last), (b_first, b_last)] {
                reply.array(2);
                reply.int(first as i64);
                reply.int(last as i64);
            }
            if options.with_match_len {
                reply.int((a_last - a_first + 1) as i64);
            }
        }
        reply.bulk(b"len");
        reply.int(i64::from(table.at(a.len(), b.len())));
    } else if options.len {
        reply.int(i64::from(table.at(a.len(), b.len())));
    } else {
        let mut common: Vec<u8> = Vec::new();
        for [first, last, ..] in table.matches(a, b).into_iter().rev() {
            common.extend_from_slice(&a[first..=last]);
        }
        reply.bulk(&common);
    }
    Ok(())
}

fn options(words: Args<'_>) -> Result<Options, CommandError> {
    let mut options = Options::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if is(word, "IDX") {
            options.idx = true;
        } else if is(word, "LEN") {
            options.len = true;
        } else if is(word, "WITHMATCHLEN") {
            options.with_match_len = true;
        } else if is(word, "MINMATCHLEN") {
            options.shortest = integer(words.next().ok_or(SYNTAX)?)?.max(0) as usize;
        } else {
            return Err(SYNTAX);
        }
    }
    if options.len && options.idx {
        return Err(CommandError::new("ERR If you want both the length and indexes, please just use IDX."));
    }
    Ok(options)
}

/// The length of the longest common subsequence of every two prefixes.
struct Table {
    cells: Vec<u32>,
    width: usize,
}

impl Table {
    fn of(a: &[u8], b: &[u8]) -> Table {
        let width = b.len() + 1;
        let mut cells = vec![0; (a.len() + 1) * width];
        for (row, in_a) in a.iter().enumerate() {
            let (above, below) = cells[row * width..(row + 2) * width].split_at_mut(width);
            for (column, in_b) in b.iter().enumerate() {
                below[column + 1] = if in_a == in_b { above[column] + 1 } else { above[column + 1].max(below[column]) };
            }
        }
        Table { cells, width }
    }

    fn at(&self, in_a: usize, in_b: usize) -> u32 {
        self.cells[in_a * self.width + in_b]
    }

    /// The runs of bytes that make up the subsequence, the last one first.
    fn matches(&self, a: &[u8], b: &[u8]) -> Vec<Match> {
        let mut matches = Vec::new();
        let mut run: Option<Match> = None;
        let (mut i, mut j) = (a.len(), b.len());
        while i > 0 && j > 0 {
            if a[i - 1] == b[j - 1] {
                run = match run {
                    Some([a_first, a_last, b_first, b_last]) if a_first == i && b_first == j => {
                        Some([i - 1, a_last, j - 1, b_last])
                    }
                    other => {
                        matches.extend(other);
                        Some([i - 1, i - 1, j - 1, j - 1])
                    }
                };
                i -= 1;
                j -= 1;
            } else {
                matches.extend(run.take());
                if self.at(i - 1, j) > self.at(i, j - 1) { i -= 1 } else { j -= 1 }
            }
        }
        matches.extend(run);
        matches
    }
}
