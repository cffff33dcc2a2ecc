//! A network of our own on one machine: namespaces joined by a switch that delays, loses and cuts, each direction for itself.
//!
//! ```text
//!   Space (namespace: tap, mounts, processes) ─ frames ─► Switch (a thread: delay, loss, reorder, duplicate, bandwidth, cut, flap) ─► Space
//! ```
//!
//! Nothing here has a name that outlives us or that a second run could meet: a namespace is held by a thread, a tap by a descriptor, a mount by
//! its namespace, and a process is killed by the kernel when the thread that started it is gone. So there is nothing to clean up, not
//! after a panic and not after kill -9.

pub mod space;
pub mod switch;
pub mod sync;

use space::Space;
use std::net::Ipv4Addr;
use switch::{Line, Switch};

/// Namespaces at one switch. Port `i` has the address 10.77.0.(i + 1).
pub struct Net {
    /// The namespaces, by port.
    pub spaces: Vec<Space>,
    switch: Switch,
}

/// Why there can be no network of our own here, if there cannot.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces want root".into());
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Some("no /dev/net/tun".into());
    }
    if !["/sbin/ip", "/usr/sbin/ip", "/bin/ip", "/usr/bin/ip"].iter().any(|path| std::path::Path::new(path).exists()) {
        return Some("no ip (package iproute2)".into());
    }
    Space::new("probe").and_then(|space| space.tap(0).map(drop)).err()
}

impl Net {
    /// So many namespaces, each with a tap, all lines perfect. The seed decides which frames lossy lines lose.
    pub fn new(ports: usize, seed: u64) -> Result<Net, String> {
        let (mut spaces, mut taps) = (Vec::new(), Vec::new());
        for port in 0..ports {
            let space = Space::new(&format!("space {port}"))?;
            taps.push(space.tap(port)?);
            spaces.push(space);
        }
        Ok(Net { spaces, switch: Switch::start(taps, seed)? })
    }

    /// The address of a port.
    pub fn ip(port: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, port as u8 + 1)
    }

    /// The line that frames take from one port to another, from now on.
    pub fn set(&self, from: usize, to: usize, line: Line) {
        self.switch.set(from, to, line);
    }

    /// Both directions alike.
    pub fn set_both(&self, one: usize, other: usize, line: Line) {
        self.set(one, other, line.clone());
        self.set(other, one, line);
    }

    /// All lines perfect again.
    pub fn heal(&self) {
        for from in 0..self.spaces.len() {
            for to in 0..self.spaces.len() {
                self.set(from, to, Line::default());
            }
        }
    }

    /// Frames and bytes that passed from one port to another so far.
    pub fn traffic(&self, from: usize, to: usize) -> (u64, u64) {
        self.switch.traffic(from, to)
    }

    /// What the lines did to frames so far.
    pub fn counts(&self) -> switch::Counts {
        self.switch.counts()
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, Net, unavailable};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::{Duration, Instant};

    /// Two ports, or a line that says why not.
    fn net() -> Option<Net> {
        if let Some(why) = unavailable() {
            println!("skipped: {why}");
            return None;
        }
        Some(Net::new(2, 7).expect("a network"))
    }

    /// A server at port 1 that sends back what it gets, on every connection.
    fn echo(net: &Net) {
        let listener = net.spaces[1].run(|| TcpListener::bind((Net::ip(1), 7000))).expect("runs").expect("binds");
        std::thread::spawn(move || {
            for peer in listener.incoming() {
                let Ok(mut peer) = peer else { return };
                std::thread::spawn(move || {
                    let mut buf = [0; 4096];
                    while let Ok(count) = peer.read(&mut buf) {
                        if count == 0 || peer.write_all(&buf[..count]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }

    fn dial(net: &Net) -> TcpStream {
        let stream = net.spaces[0]
            .run(|| TcpStream::connect_timeout(&(Net::ip(1), 7000).into(), Duration::from_secs(5)))
            .expect("runs")
            .expect("connects");
        stream.set_nodelay(true).expect("a socket option");
        stream
    }

    /// Sends a byte and waits so long for its return.
    fn ping(stream: &mut TcpStream, patience: Duration) -> Option<Duration> {
        let start = Instant::now();
        stream.set_read_timeout(Some(patience)).expect("a socket option");
        stream.write_all(b"x").ok()?;
        stream.read_exact(&mut [0]).ok()?;
        Some(start.elapsed())
    }

    /// Sockets of the two ports that know each other.
    fn datagrams(net: &Net) -> [UdpSocket; 2] {
        [0, 1].map(|port| {
            let socket = net.spaces[port].run(move || UdpSocket::bind((Net::ip(port), 7001))).expect("runs");
            let socket = socket.expect("binds");
            socket.connect((Net::ip(1 - port), 7001)).expect("an address");
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket option");
            // The first asks for the hardware address, on a line that is still perfect.
            let _ = socket.send(b"hello");
            socket
        })
    }

    /// Numbers that arrive until nothing comes any more.
    fn arrived(socket: &UdpSocket) -> Vec<u32> {
        let (mut found, mut buf) = (Vec::new(), [0; 64]);
        while let Ok(count) = socket.recv(&mut buf) {
            found.extend(buf[..count].try_into().map(u32::from_be_bytes));
        }
        found
    }

    #[test]
    fn a_delay_is_what_was_asked_for_and_each_direction_has_its_own() {
        let Some(net) = net() else { return };
        echo(&net);
        let mut stream = dial(&net);
        let quick = (0..5).filter_map(|_| ping(&mut stream, Duration::from_secs(2))).min().expect("an echo");
        assert!(quick < Duration::from_millis(20), "{quick:?}");
        net.set(0, 1, Line { delay: Duration::from_millis(60), ..Line::default() });
        net.set(1, 0, Line { delay: Duration::from_millis(20), ..Line::default() });
        let slow = (0..5).filter_map(|_| ping(&mut stream, Duration::from_secs(2))).min().expect("an echo");
        assert!((Duration::from_millis(80)..Duration::from_millis(130)).contains(&slow), "{slow:?}");
    }

    #[test]
    fn a_cut_stops_everything_and_heals() {
        let Some(net) = net() else { return };
        echo(&net);
        let mut stream = dial(&net);
        assert!(ping(&mut stream, Duration::from_secs(2)).is_some());
        net.set_both(0, 1, Line::cut());
        assert_eq!(ping(&mut stream, Duration::from_millis(300)), None);
        net.heal();
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket option");
        stream.read_exact(&mut [0]).expect("TCP sends again what the cut lost");
        assert!(net.counts().cut > 0);
    }

    #[test]
    fn a_one_way_cut_lets_the_other_way_pass() {
        let Some(net) = net() else { return };
        let [a, b] = datagrams(&net);
        let _ = [&a, &b].map(arrived);
        net.set(0, 1, Line::cut());
        for number in 0_u32..10 {
            a.send(&number.to_be_bytes()).expect("sent");
            b.send(&number.to_be_bytes()).expect("sent");
        }
        assert_eq!(arrived(&b), Vec::<u32>::new(), "0 to 1 is cut");
        assert_eq!(arrived(&a), (0..10).collect::<Vec<_>>(), "1 to 0 is whole");
    }

    #[test]
    fn frames_are_lost_doubled_and_overtaken_about_as_often_as_asked() {
        let Some(net) = net() else { return };
        let [a, b] = datagrams(&net);
        let _ = [&a, &b].map(arrived);
        let send = |line: Line| {
            net.set(0, 1, line);
            // Read while sending: a thousand frames are more than a socket keeps.
            std::thread::scope(|scope| {
                let found = scope.spawn(|| arrived(&b));
                for number in 0_u32..1000 {
                    a.send(&number.to_be_bytes()).expect("sent");
                    std::thread::sleep(Duration::from_micros(50));
                }
                found.join().expect("the reader ends")
            })
        };
        let some = send(Line { loss: 0.3, ..Line::default() });
        assert!((600..800).contains(&some.len()), "{} of 1000 at a loss of 30 %", some.len());
        let doubled = send(Line { duplicate: 0.1, ..Line::default() });
        assert!((1040..1170).contains(&doubled.len()), "{} at 10 % doubled", doubled.len());
        let mixed = send(Line { reorder: 0.1, delay: Duration::from_millis(2), ..Line::default() });
        let overtaken = mixed.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!(mixed.len() == 1000 && (20..200).contains(&overtaken), "{overtaken} of {} overtaken", mixed.len());
        let steady =
            send(Line { delay: Duration::from_millis(2), jitter: Duration::from_millis(3), ..Line::default() });
        assert!(steady.windows(2).all(|pair| pair[0] < pair[1]), "jitter alone keeps the order");
    }

    #[test]
    fn bandwidth_is_bounded_and_flapping_is_off_about_half_the_time() {
        let Some(net) = net() else { return };
        echo(&net);
        let mut stream = dial(&net);
        net.set(0, 1, Line { bytes_per_second: Some(100_000), ..Line::default() });
        let start = Instant::now();
        let mut reader = stream.try_clone().expect("a handle");
        let read = std::thread::spawn(move || reader.read_exact(&mut vec![0; 60_000]));
        stream.write_all(&vec![1; 60_000]).expect("sent");
        read.join().expect("the reader ends").expect("everything comes back");
        let took = start.elapsed();
        assert!((Duration::from_millis(450)..Duration::from_secs(4)).contains(&took), "{took:?}");

        let [a, b] = datagrams(&net);
        let _ = [&a, &b].map(arrived);
        net.set(0, 1, Line { flap: Some(Duration::from_millis(40)), ..Line::default() });
        for number in 0_u32..400 {
            a.send(&number.to_be_bytes()).expect("sent");
            std::thread::sleep(Duration::from_millis(1));
        }
        let some = arrived(&b).len();
        assert!((100..300).contains(&some), "{some} of 400 through a line that flaps");
    }
}
