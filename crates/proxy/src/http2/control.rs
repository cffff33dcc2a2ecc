//! Frames about the connection and its streams' fate: SETTINGS, windows, resets, PING, and what is none of ours; and the counting of what moves
//! nothing.

use super::frame::{self, Code, Head, WINDOW_MAX, setting, word};
use super::session::{COUNTED_OVER, Drained, Fatal, LAST_PING, Session, Step};
use crate::plan::Decide;
use tokio::time::Instant;

impl<D: Decide> Session<D> {
    pub(super) fn frame(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        match head.kind {
            frame::HEADERS => self.headers(head, payload),
            frame::CONTINUATION => self.continuation(head, payload),
            frame::SETTINGS => self.settings(head, payload),
            frame::WINDOW_UPDATE => self.window(head, payload),
            frame::RST_STREAM => self.reset(head, payload),
            frame::PING => self.ping(head, payload),
            frame::PRIORITY => {
                if head.id == 0 {
                    return Err(Fatal(Code::Protocol, "PRIORITY without a stream"));
                }
                if payload.len() != 5 {
                    return Err(Fatal(Code::FrameSize, "a PRIORITY that is not five bytes"));
                }
                self.nuisance()
            }
            frame::PUSH_PROMISE => Err(Fatal(Code::Protocol, "PUSH_PROMISE from a client")),
            frame::GOAWAY if head.id != 0 => Err(Fatal(Code::Protocol, "GOAWAY on a stream")),
            frame::GOAWAY if payload.len() < 8 => Err(Fatal(Code::FrameSize, "a GOAWAY that is too short")),
            // The client wants nothing more of us than what is under way; it ends the connection by itself. Others are unknown (§4.1).
            _ => self.nuisance(),
        }
    }

    /// Counts what moves nothing.
    pub(super) fn nuisance(&mut self) -> Step<()> {
        self.count();
        let mut line = self.line.lock();
        line.nuisance += 1;
        if line.nuisance > self.proxy.limits().h2_nuisance_max {
            return Err(Fatal(Code::EnhanceYourCalm, "too many frames that move nothing"));
        }
        Ok(())
    }

    /// A stream was reset before its answer was whole, by the client or for its fault.
    pub(super) fn one_reset(&mut self) -> Step<()> {
        self.count();
        self.resets += 1;
        if self.resets as usize > self.limits().h2_resets_max {
            return Err(Fatal(Code::EnhanceYourCalm, "too many resets"));
        }
        Ok(())
    }

    pub(super) fn count(&mut self) {
        if self.counted_from.elapsed() > COUNTED_OVER {
            self.counted_from = Instant::now();
            self.resets = 0;
            self.line.lock().nuisance = 0;
        }
    }

    pub(super) fn find(&self, id: u32) -> Option<usize> {
        self.places.iter().position(|it| it.id == id).filter(|_| id != 0)
    }

    /// A frame for a stream that is over: no error where we ended it and the client may not have known (RFC 9113 §5.1).
    pub(super) fn late(&self, id: u32, kind: &'static str) -> Step<()> {
        if self.drained == Drained::Heard || self.line.lock().was_reset(id) {
            return Ok(());
        }
        if id > self.last || id.is_multiple_of(2) {
            return Err(Fatal(Code::Protocol, kind));
        }
        Err(Fatal(Code::StreamClosed, kind))
    }

    pub(super) fn settings(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        if head.id != 0 {
            return Err(Fatal(Code::Protocol, "SETTINGS on a stream"));
        }
        if head.has(frame::ACK) {
            return match payload {
                [] => self.nuisance(),
                _ => Err(Fatal(Code::FrameSize, "SETTINGS that say yes and more")),
            };
        }
        if !payload.len().is_multiple_of(6) {
            return Err(Fatal(Code::FrameSize, "SETTINGS that are cut"));
        }
        let first = !std::mem::replace(&mut self.set, true);
        for one in payload.chunks_exact(6) {
            let (name, value) = (u16::from_be_bytes([one[0], one[1]]), word(&one[2..]));
            let mut line = self.line.lock();
            match name {
                setting::ENABLE_PUSH if value > 1 => {
                    return Err(Fatal(Code::Protocol, "an ENABLE_PUSH of neither 0 nor 1"));
                }
                setting::INITIAL_WINDOW_SIZE
                    if i64::from(value) > WINDOW_MAX || !line.set_first_window(value.into()) =>
                {
                    return Err(Fatal(Code::FlowControl, "a window that is too large"));
                }
                // Every client takes what we send at most.
                setting::MAX_FRAME_SIZE if !(0x4000..=0xff_ffff).contains(&value) => {
                    return Err(Fatal(Code::Protocol, "a MAX_FRAME_SIZE that may not be"));
                }
                // We keep no table, push nothing, and open no streams; of the size of a list it is only advice.
                _ => {}
            }
        }
        frame::push(frame::SETTINGS, frame::ACK, 0, &[], self.line.lock().out.buffer());
        self.unblock();
        if first { Ok(()) } else { self.nuisance() }
    }

    pub(super) fn window(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        if payload.len() != 4 {
            return Err(Fatal(Code::FrameSize, "a WINDOW_UPDATE that is not four bytes"));
        }
        let more = i64::from(word(payload) & 0x7fff_ffff);
        if head.id == 0 {
            let mut line = self.line.lock();
            line.window += more;
            if more == 0 {
                return Err(Fatal(Code::Protocol, "a WINDOW_UPDATE of nothing"));
            }
            if line.window > WINDOW_MAX {
                return Err(Fatal(Code::FlowControl, "a window that is too large"));
            }
            drop(line);
            self.unblock();
            return Ok(());
        }
        let Some(at) = self.find(head.id) else {
            // It may come long behind the end of an answer (§5.1).
            return if head.id > self.last && self.drained != Drained::Heard {
                Err(Fatal(Code::Protocol, "WINDOW_UPDATE on a stream that was not opened"))
            } else {
                self.nuisance()
            };
        };
        let mut line = self.line.lock();
        let stream = &mut line.streams[at];
        if stream.reset {
            return Ok(());
        }
        stream.window += more;
        let wrong = match more {
            0 => Some(Code::Protocol),
            _ if stream.window > WINDOW_MAX => Some(Code::FlowControl),
            _ => None,
        };
        let blocked = std::mem::take(&mut stream.blocked);
        drop(line);
        match wrong {
            Some(code) => return self.break_off(at, code),
            None if blocked => self.mark(at),
            None => {}
        }
        Ok(())
    }

    /// Streams that waited for a window, or for the client to read, go on.
    pub(super) fn unblock(&mut self) {
        let mut line = self.line.lock();
        if !std::mem::take(&mut line.any_blocked) {
            return;
        }
        // Another one is the first each time, or it would take the whole window each time.
        let count = self.places.len();
        self.turn = (self.turn + 1) % count.max(1);
        for at in (self.turn..count).chain(0..self.turn) {
            if line.streams.get_mut(at).is_some_and(|it| std::mem::take(&mut it.blocked)) {
                self.places[at].waker.wake_by_ref();
            }
        }
    }

    pub(super) fn reset(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        if payload.len() != 4 {
            return Err(Fatal(Code::FrameSize, "a RST_STREAM that is not four bytes"));
        }
        let Some(at) = self.find(head.id) else {
            if head.id == 0 || head.id > self.last && self.drained != Drained::Heard {
                return Err(Fatal(Code::Protocol, "RST_STREAM on a stream that was not opened"));
            }
            // Our answer and its reset crossed.
            return self.nuisance();
        };
        let mut line = self.line.lock();
        let stream = &mut line.streams[at];
        if stream.reset {
            return Ok(());
        }
        stream.reset = true;
        let whole = stream.sent_end;
        let unread = std::mem::take(&mut stream.body).len();
        line.used(unread);
        drop(line);
        self.mark(at);
        if whole { Ok(()) } else { self.one_reset() }
    }

    pub(super) fn ping(&mut self, head: &Head, payload: &[u8]) -> Step<()> {
        if head.id != 0 {
            return Err(Fatal(Code::Protocol, "PING on a stream"));
        }
        if payload.len() != 8 {
            return Err(Fatal(Code::FrameSize, "a PING that is not eight bytes"));
        }
        if !head.has(frame::ACK) {
            frame::push(frame::PING, frame::ACK, 0, payload, self.line.lock().out.buffer());
        } else if payload == LAST_PING && self.drained == Drained::Told {
            self.heard();
        }
        self.nuisance()
    }
}
