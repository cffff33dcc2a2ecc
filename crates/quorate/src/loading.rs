//! What the doors say while the node still reads its log: listening at once, so that clients wait instead of giving up.
//!
//! The Redis door answers every command with Redis's own `-LOADING`; the admin door says that the process lives and why it is
//! not ready. When the node is there it takes over the connections: nobody is closed for having come early.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base::{Limit, Limits};
use doors::resp::decode::{DecodeLimits, DecodeState, Decoded, Words, decode};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};

const LOADING: &[u8] = b"-LOADING Redis is loading the dataset in memory\r\n";
/// Connections of either door while loading.
pub const CONNECTIONS_MAX: usize = 256;
/// A larger command is answered and its connection closed: nothing of it is wanted.
const COMMAND_BYTES_MAX: usize = 1 << 20;
/// How long a client may be silent, or leave its answers unread.
const PATIENCE: Duration = Duration::from_secs(60);

/// How far the start is, in words.
pub type Stage = Arc<Mutex<String>>;

/// A client that came before the node was there, with the start of a command that it has sent.
pub type Early = (TcpStream, Vec<u8>);

/// Answers `-LOADING` until told to stop. Then `early` gets whoever is connected, to go on with the node.
pub async fn redis(listener: TcpListener, limits: Limits, stop: watch::Receiver<bool>, early: mpsc::Sender<Early>) {
    let told = stop.clone();
    accept(listener, &limits, stop, move |stream| refuse(stream, told.clone(), early.clone())).await;
}

/// Answers `/healthz` with 200 and everything else with 503 and the stage, until told to stop. Then `early` gets whoever is
/// connected and has not asked for anything yet.
pub async fn admin(
    listener: TcpListener,
    limits: Limits,
    stage: Stage,
    stop: watch::Receiver<bool>,
    early: mpsc::Sender<TcpStream>,
) {
    let told = stop.clone();
    accept(listener, &limits, stop, move |stream| tell(stream, stage.clone(), told.clone(), early.clone())).await;
}

async fn accept<F, T>(listener: TcpListener, limits: &Limits, mut stop: watch::Receiver<bool>, serve: F)
where
    F: Fn(TcpStream) -> T,
    T: Future<Output = io::Result<()>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        if room.available_permits() == 0 {
            limits.hit(Limit::loading_connections_max);
        }
        let place = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            place = room.clone().acquire_owned() => place,
        };
        let Ok(place) = place else { return };
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let conversation = serve(stream);
        tokio::spawn(async move {
            let _ = conversation.await;
            drop(place);
        });
    }
}

/// Reads more; `None` when told to stop.
async fn read(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    stop: &mut watch::Receiver<bool>,
) -> io::Result<Option<usize>> {
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => Ok(None),
        read = tokio::time::timeout(PATIENCE, stream.read_buf(buffer)) => read?.map(Some),
    }
}

async fn refuse(mut stream: TcpStream, mut stop: watch::Receiver<bool>, early: mpsc::Sender<Early>) -> io::Result<()> {
    let limits = DecodeLimits {
        command_bytes_max: COMMAND_BYTES_MAX,
        bulk_bytes_max: COMMAND_BYTES_MAX,
        ..DecodeLimits::authenticated(&Limits::DEFAULT)
    };
    let (mut buffer, mut state, mut words) = (Vec::new(), DecodeState::new(), Words::new());
    let mut out = Vec::new();
    loop {
        match read(&mut stream, &mut buffer, &mut stop).await? {
            None => {
                let _ = early.send((stream, buffer)).await;
                return Ok(());
            }
            Some(0) => return Ok(()),
            Some(_) => {}
        }
        let mut done = 0;
        let is_sound = loop {
            match decode(&buffer[done..], &mut state, &limits, &mut words) {
                Ok(Decoded::Incomplete) => break true,
                Ok(Decoded::Empty { consumed }) => done += consumed,
                Ok(Decoded::Command { consumed, .. }) => {
                    done += consumed;
                    out.extend_from_slice(LOADING);
                }
                Err(_) => {
                    out.extend_from_slice(LOADING);
                    break false;
                }
            }
        };
        buffer.drain(..done);
        // Written to its end whatever happens: half an answer would spoil all that the node says later.
        tokio::time::timeout(PATIENCE, stream.write_all(&out)).await??;
        out.clear();
        if !is_sound {
            return Ok(());
        }
    }
}

async fn tell(
    mut stream: TcpStream,
    stage: Stage,
    mut stop: watch::Receiver<bool>,
    early: mpsc::Sender<TcpStream>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > 16 << 10 {
            return Ok(());
        }
        match read(&mut stream, &mut head, &mut stop).await? {
            None if head.is_empty() => {
                let _ = early.send(stream).await;
                return Ok(());
            }
            // It has begun to ask while the node was not there, and that is what it is told.
            None => {
                if tokio::time::timeout(PATIENCE, stream.read_buf(&mut head)).await?? == 0 {
                    return Ok(());
                }
            }
            Some(0) => return Ok(()),
            Some(_) => {}
        }
    }
    let (status, text) = match head.starts_with(b"GET /healthz ") {
        true => ("200 OK", "ok\n".to_owned()),
        false => ("503 Service Unavailable", format!("starting: {}\n", stage.lock())),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nretry-after: 1\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Doors {
        listener: TcpListener,
        address: std::net::SocketAddr,
        start_over: watch::Sender<bool>,
    }

    async fn open() -> Doors {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        Doors { listener, address, start_over: watch::Sender::new(false) }
    }

    async fn say(stream: &mut TcpStream, question: &[u8], answer: &[u8]) {
        stream.write_all(question).await.expect("it reads");
        let mut bytes = vec![0; answer.len()];
        stream.read_exact(&mut bytes).await.expect("it answers");
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(answer));
    }

    async fn ask_admin(question: &[u8]) -> String {
        let doors = open().await;
        let stage = Arc::new(Mutex::new("reading the log".to_owned()));
        let (early, _) = mpsc::channel(1);
        let stop = doors.start_over.subscribe();
        let task = tokio::spawn(admin(doors.listener, Limits::DEFAULT, stage, stop, early));
        let mut stream = TcpStream::connect(doors.address).await.expect("it listens");
        stream.write_all(question).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        doors.start_over.send_replace(true);
        task.await.expect("it ends");
        answer
    }

    #[tokio::test]
    async fn every_command_is_answered_and_the_node_gets_the_connection_with_what_was_begun() {
        let doors = open().await;
        let (early, mut handed) = mpsc::channel(1);
        let task = tokio::spawn(redis(doors.listener, Limits::DEFAULT, doors.start_over.subscribe(), early));
        let mut stream = TcpStream::connect(doors.address).await.expect("it listens");
        let question = b"PING\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n\r\nPING\r\n*1\r\n$4\r\nPI";
        say(&mut stream, question, &LOADING.repeat(3)).await;
        doors.start_over.send_replace(true);
        task.await.expect("it ends");
        let (mut node, begun) = handed.recv().await.expect("the connection goes on");
        assert_eq!(begun, b"*1\r\n$4\r\nPI");
        node.write_all(b"+PONG\r\n").await.expect("it is open");
        say(&mut stream, b"NG\r\n", b"+PONG\r\n").await;
    }

    #[tokio::test]
    async fn what_is_no_command_is_answered_once_and_closed() {
        let doors = open().await;
        let (early, _handed) = mpsc::channel(1);
        tokio::spawn(redis(doors.listener, Limits::DEFAULT, doors.start_over.subscribe(), early));
        let mut stream = TcpStream::connect(doors.address).await.expect("it listens");
        say(&mut stream, b"*1\r\n$999999999\r\n", LOADING).await;
        assert_eq!(stream.read(&mut [0; 8]).await.expect("it closes"), 0);
    }

    #[tokio::test]
    async fn too_many_wait_and_are_counted() {
        let doors = open().await;
        let (early, mut handed) = mpsc::channel(CONNECTIONS_MAX);
        let limits = Limits::DEFAULT.counting();
        let task = tokio::spawn(redis(doors.listener, limits.clone(), doors.start_over.subscribe(), early));
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(doors.address).await.expect("it listens");
            say(&mut stream, b"PING\r\n", LOADING).await;
            streams.push(stream);
        }
        assert_eq!(limits.hits.of(Limit::loading_connections_max), 1);
        doors.start_over.send_replace(true);
        task.await.expect("it ends");
        for _ in 0..CONNECTIONS_MAX {
            assert!(handed.recv().await.is_some(), "all of them go on");
        }
    }

    #[tokio::test]
    async fn the_admin_door_tells_alive_from_ready() {
        assert!(ask_admin(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        let answer = ask_admin(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("starting: reading the log"), "{answer}");
    }
}
