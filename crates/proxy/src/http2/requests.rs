//! Frames that requests are made of: HEADERS, CONTINUATION and DATA, and the streams that they open.

use super::frame::{self, Code, Head, word};
use super::head::{NoHead, Taking, TakingTrailers};
use super::session::{Block, CONTINUATIONS_MAX, Data, Drained, Fatal, Place, Session, Step};
use super::stream::Stream;
use super::wake::Mark;
use crate::buffer::Inbox;
use crate::exchange::Scratch;
use crate::head::BodyLength;
use crate::plan::Decide;
use crate::serve::{give_scratch, take_scratch};
use crate::timer::{Timer, after};
use std::task::Waker;

impl<D: Decide> Session<D> {
    pub(super) fn headers(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        const SHORT: Fatal = Fatal(Code::FrameSize, "a HEADERS that is too short");
        if head.id.is_multiple_of(2) {
            return Err(Fatal(Code::Protocol, "HEADERS on a stream that clients do not open"));
        }
        let mut fragment = payload;
        if head.has(frame::PADDED) {
            let (padding, rest) = fragment.split_first().ok_or(SHORT)?;
            let len = rest.len().checked_sub(usize::from(*padding));
            fragment = &rest[..len.ok_or(Fatal(Code::Protocol, "more padding than there is frame"))?];
        }
        if head.has(frame::WITH_PRIORITY) {
            if fragment.len() < 5 {
                return Err(SHORT);
            }
            if word(fragment) & 0x7fff_ffff == head.id {
                return Err(Fatal(Code::Protocol, "a stream that depends on itself"));
            }
            fragment = &fragment[5..];
        }
        let end_stream = head.has(frame::END_STREAM);
        if head.has(frame::END_HEADERS) {
            return self.whole_block(head.id, end_stream, fragment);
        }
        let until = after(self.limits().head_timeout);
        self.block = Some(Block { id: head.id, end_stream, bytes: fragment.to_vec(), frames: 0, until });
        Ok(())
    }

    pub(super) fn continuation(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        let bytes_max = self.limits().head_bytes_max;
        let Some(block) = &mut self.block else {
            return Err(Fatal(Code::Protocol, "CONTINUATION without a block"));
        };
        block.frames += 1;
        if block.frames > CONTINUATIONS_MAX || block.bytes.len() + payload.len() > bytes_max {
            return Err(Fatal(Code::EnhanceYourCalm, "a block that is too large"));
        }
        block.bytes.extend_from_slice(payload);
        if head.has(frame::END_HEADERS)
            && let Some(block) = self.block.take()
        {
            return self.whole_block(block.id, block.end_stream, &block.bytes);
        }
        Ok(())
    }

    pub(super) fn whole_block(&mut self, id: u32, ended: bool, block: &[u8]) -> Step<()> {
        const COMPRESSION: Fatal = Fatal(Code::Compression, "a block that is no HPACK");
        if id > self.last && self.drained != Drained::Heard {
            self.last = id;
            let mut scratch = take_scratch();
            let mut taking = Taking::new(&mut scratch.request, self.proxy.limits());
            self.hpack.read(block, |name, value| taking.see(name, value)).map_err(|_| COMPRESSION)?;
            let taken = taking.done(ended);
            return self.open(id, ended, scratch, taken);
        }
        let mut taking = TakingTrailers::new(self.proxy.limits());
        self.hpack.read(block, |name, value| taking.see(name, value)).map_err(|_| COMPRESSION)?;
        let trailers = taking.done();
        let Some(at) = self.find(id) else {
            // A new stream behind the last GOAWAY is ignored (§6.8).
            return if id > self.last { Ok(()) } else { self.late(id, "HEADERS on a stream that is over") };
        };
        let mut line = self.line.lock();
        let stream = &mut line.streams[at];
        if stream.reset {
            return Ok(());
        }
        if stream.ended {
            return Err(Fatal(Code::StreamClosed, "HEADERS behind the end of a stream"));
        }
        let short = stream.length_left.is_some_and(|left| left > 0);
        match trailers.filter(|_| ended && !short) {
            Some(trailers) => {
                stream.ended = true;
                stream.trailers = Some(trailers);
                drop(line);
                self.mark(at);
                Ok(())
            }
            None => {
                drop(line);
                self.malformed(at)
            }
        }
    }

    /// A stream whose request is malformed ends (RFC 9113 §8.1.1).
    pub(super) fn malformed(&mut self, at: usize) -> Step<()> {
        self.break_off(at, Code::Protocol)
    }

    pub(super) fn break_off(&mut self, at: usize, code: Code) -> Step<()> {
        self.line.lock().reset(at, code);
        self.mark(at);
        self.one_reset()
    }

    pub(super) fn mark(&self, at: usize) {
        self.places[at].waker.wake_by_ref();
    }

    pub(super) fn open(&mut self, id: u32, ended: bool, scratch: Box<Scratch>, taken: Result<(), NoHead>) -> Step<()> {
        let bad = match taken {
            Ok(()) => None,
            Err(NoHead::Refused(bad)) => Some(bad),
            Err(NoHead::Malformed(why)) => {
                give_scratch(scratch);
                self.proxy.decider().on_refused(&self.company.peer, 0, why);
                self.line.lock().reset_id(id, Code::Protocol);
                return self.one_reset();
            }
        };
        let running = self.places.len() - self.free.len();
        if running >= self.limits().h2_streams_max as usize {
            give_scratch(scratch);
            self.line.lock().reset_id(id, Code::RefusedStream);
            return self.nuisance();
        }
        let length = match scratch.request.body() {
            BodyLength::Known(length) => Some(length),
            _ => None,
        };
        let at = self.free.pop().unwrap_or_else(|| {
            let mark = Mark::new(&self.marks, self.places.len() as u32);
            let waker = Waker::from(mark.clone());
            self.places.push(Place { id: 0, future: None, timer: None, mark, waker });
            self.places.len() - 1
        });
        self.line.lock().open(at, id, ended, length);
        let place = &mut self.places[at];
        let timer = place.timer.take().unwrap_or_else(Timer::new);
        let stream = Stream::new(self.line.clone(), at, ended);
        let (proxy, company) = (self.proxy.clone(), self.company.clone());
        place.id = id;
        place.future = Some(Box::pin(async move { proxy.serve_stream(&company, scratch, stream, timer, bad).await }));
        self.idle_from = None;
        self.mark(at);
        Ok(())
    }

    pub(super) fn begin_data(&mut self, head: &Head, padded: usize, padding: usize) -> Step<()> {
        if head.id == 0 {
            return Err(Fatal(Code::Protocol, "DATA without a stream"));
        }
        let Some(left) = (head.len - padded).checked_sub(padding) else {
            return Err(Fatal(Code::Protocol, "more padding than there is frame"));
        };
        let at = self.find(head.id);
        if at.is_none() {
            self.late(head.id, "DATA on a stream that is over")?;
        }
        let end = head.has(frame::END_STREAM);
        if left == 0 && !end {
            self.nuisance()?;
        }
        let mut line = self.line.lock();
        line.recv_window -= head.len as i64;
        if line.recv_window < 0 {
            return Err(Fatal(Code::FlowControl, "more data than the connection's window"));
        }
        let mut at = at.filter(|at| !line.streams[*at].reset);
        let mut wrong = None;
        if let Some(at) = at {
            let stream = &mut line.streams[at];
            if stream.ended {
                return Err(Fatal(Code::StreamClosed, "DATA behind the end of a stream"));
            }
            stream.recv_window -= head.len as i64;
            if stream.recv_window < 0 {
                wrong = Some((at, Code::FlowControl));
            }
            let too_long = stream.length_left.as_mut().is_some_and(|length| {
                let more = *length < left as u64;
                *length = length.saturating_sub(left as u64);
                more || end && *length > 0
            });
            if too_long {
                wrong = wrong.or(Some((at, Code::Protocol)));
            }
            line.padding(at, padded);
        } else {
            line.used(padded);
        }
        drop(line);
        if let Some((broken, code)) = wrong {
            self.break_off(broken, code)?;
            at = None;
        }
        self.data = Some(Data { at, id: head.id, left, padding, end });
        Ok(())
    }

    /// Takes what came of a frame of data.
    pub(super) fn data(&mut self, inbox: &mut Inbox) -> Step<bool> {
        let Some(data) = &mut self.data else { return Ok(true) };
        let mut line = self.line.lock();
        let bytes = inbox.bytes();
        // Its exchange may have ended since the frame began.
        let at = data.at.filter(|at| line.streams[*at].id == data.id && !line.streams[*at].reset);
        let count = data.left.min(bytes.len());
        if count > 0 {
            match at {
                Some(at) => line.streams[at].body.extend_from_slice(&bytes[..count]),
                None => line.used(count),
            }
            line.nuisance = line.nuisance.saturating_sub(1);
        }
        let padding = if count == data.left { data.padding.min(bytes.len() - count) } else { 0 };
        match at {
            Some(at) => line.padding(at, padding),
            None => line.used(padding),
        }
        data.left -= count;
        data.padding -= padding;
        let done = data.left == 0 && data.padding == 0;
        if let Some(at) = at {
            line.streams[at].ended |= done && data.end;
        }
        drop(line);
        inbox.consume(count + padding);
        if let Some(at) = at
            && (count > 0 || done)
        {
            self.mark(at);
        }
        if done {
            self.data = None;
        }
        Ok(done)
    }
}
