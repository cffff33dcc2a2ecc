//! The network between nodes: what is sent, lost, doubled, late or out of order, and the links' own word on who lives.

use super::*;

impl World {
    pub(super) fn send(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        if !self.machines.contains_key(&to) || from == to {
            return;
        }
        let lost = !self.quiet && self.rng.chance(self.weather.lost, 1000);
        if self.cut.contains(&(from, to)) || lost {
            self.report.lost += 1;
            if self.rng.chance(1, 10)
                && let Some(node) = self.machine(from).node.as_mut()
            {
                node.tell(Input::Unreachable(to));
                // Whoever lost a packet may also lose the link, whether the other node still lives or not.
                if self.rng.chance(1, 3)
                    && let Some(node) = self.machine(from).node.as_mut()
                {
                    node.tell(Input::LinkLost(to));
                }
            }
            return;
        }
        let delay = self.draw(self.weather.delay);
        let mut at = self.now + delay + self.slow_links.get(&(from, to)).copied().unwrap_or(0);
        let orderly = !self.weather.reorders;
        if orderly {
            let last = self.arrives.entry((from, to)).or_default();
            at = at.max(*last);
            *last = at;
        } else if at < self.arrives.get(&(from, to)).copied().unwrap_or(0) {
            self.report.reordered += 1;
        } else {
            self.arrives.insert((from, to), at);
        }
        if self.rng.chance(self.weather.doubled, 1000) && matches!(packet, Packet::Message(_)) {
            self.report.doubled += 1;
            let again = at + self.draw((0, 50 * MILLI));
            self.at(again, Event::Packet { from, to, packet: packet.clone() });
        }
        self.at(at, Event::Packet { from, to, packet });
    }

    pub(super) fn receive(&mut self, from: NodeId, to: NodeId, packet: Packet) -> Result<(), String> {
        if self.cut.contains(&(from, to)) {
            self.report.lost += 1;
            return Ok(());
        }
        let now = self.now;
        let machine = self.machine(to);
        let node = machine.node.as_mut().expect("checked");
        machine.heard.insert(from, now);
        match packet {
            Packet::Ping(life) => {
                // The link with a node that has started anew was lost before.
                if machine.known.insert(from, life).is_some_and(|known| known != life) {
                    node.tell(Input::LinkLost(from));
                }
            }
            Packet::Message(envelope) => node.tell(Input::Message(envelope.group(), envelope)),
            Packet::Stream(stream) => node.arrive(*stream),
            Packet::Slots(question) => return self.ask_slots(to, *question),
            Packet::Unit(errand) => return self.take_unit(to, from, *errand),
            Packet::Members(number, which) => return self.members_asked(to, number, which),
            Packet::Told(request, told) => return self.unit_told(request, told),
            Packet::Arrived(group, ok) => {
                if machine.streams.remove(&(group, from)) {
                    node.tell(Input::SnapshotSent { group, to: from, ok });
                }
            }
        }
        self.after(to)
    }

    /// What the host's links are: nodes say now and then that they live, and a node of which nothing was heard for long is told to be
    /// lost, again and again.
    pub(super) fn ping_all(&mut self) -> Result<(), String> {
        let now = self.now;
        self.at(now + PING, Event::Links);
        for id in self.ids() {
            let machine = &self.machines[&id];
            if machine.node.is_none() || machine.paused {
                continue;
            }
            let mut is_news = false;
            for other in self.ids().into_iter().filter(|other| *other != id) {
                let life = self.machines[&id].life;
                self.send(id, other, Packet::Ping(life));
                let machine = self.machine(id);
                let last = *machine.heard.entry(other).or_insert(now);
                if let Some(node) = machine.node.as_mut().filter(|_| now - last >= SILENCE) {
                    node.tell(Input::LinkLost(other));
                    is_news = true;
                }
            }
            let node = self.machines[&id].node.as_ref();
            self.report.silent +=
                node.map_or(0, |node| node.driver.status().iter().filter(|(_, status, _)| status.quiet).count() as u64);
            if is_news {
                self.after(id)?;
            }
        }
        Ok(())
    }
}
