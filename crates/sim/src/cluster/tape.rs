//! What clients asked and were told, as Jepsen writes it: a line for each question, a line for each answer.
//!
//! Each request is a process of its own: what one client does in turn is ordered by time anyway, and nobody has to be declared dead
//! whose answer never came.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The tape of a run.
#[derive(Default)]
pub(super) struct Tape {
    text: String,
    /// What was asked and has no answer yet.
    open: BTreeMap<u64, Vec<Step>>,
    last: u64,
}

/// A step of a transaction.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A value is appended to a list.
    Append(u64, u64),
    /// A list is read.
    Read(u64, Option<Vec<u64>>),
}

impl Tape {
    fn line(&mut self, kind: &str, request: u64, steps: &[Step]) {
        let _ = write!(self.text, "{{\"type\":\"{kind}\",\"f\":\"txn\",\"process\":{request},\"value\":[");
        for (at, step) in steps.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = match step {
                Step::Append(list, value) => write!(self.text, "{comma}[\"append\",{list},{value}]"),
                Step::Read(list, None) => write!(self.text, "{comma}[\"r\",{list},null]"),
                Step::Read(list, Some(values)) => write!(self.text, "{comma}[\"r\",{list},{values:?}]"),
            };
        }
        self.text.push_str("]}\n");
    }

    pub(super) fn ask(&mut self, request: u64, steps: Vec<Step>) {
        self.last = self.last.max(request);
        self.line("invoke", request, &steps);
        self.open.insert(request, steps);
    }

    /// It happened; with what was read, if it was a read.
    pub(super) fn done(&mut self, request: u64, read: Option<&[u64]>) {
        let Some(mut steps) = self.open.remove(&request) else { return };
        if let (Some(Step::Read(_, values)), Some(read)) = (steps.first_mut(), read) {
            *values = Some(read.to_vec());
        }
        self.line("ok", request, &steps);
    }

    /// It happened, and this is what was answered.
    pub(super) fn answered(&mut self, request: u64, steps: Vec<Step>) {
        if self.open.remove(&request).is_some() {
            self.line("ok", request, &steps);
        }
    }

    pub(super) fn refused(&mut self, request: u64) {
        if let Some(steps) = self.open.remove(&request) {
            self.line("fail", request, &steps);
        }
    }

    pub(super) fn unknown(&mut self, request: u64) {
        if let Some(steps) = self.open.remove(&request) {
            self.line("info", request, &steps);
        }
    }

    /// A read of the end, when nothing else goes on.
    pub(super) fn read_at_once(&mut self, list: u64, values: &[u64]) {
        self.last += 1;
        self.ask(self.last, vec![Step::Read(list, None)]);
        self.done(self.last, Some(values));
    }

    pub(super) fn end(mut self) -> String {
        let open: Vec<u64> = self.open.keys().copied().collect();
        open.into_iter().for_each(|request| self.unknown(request));
        self.text
    }
}
