//! What the doors say while the node still reads its log: listening at once, so that clients wait instead of giving up.
//!
//! The Redis door answers every command with Redis's own `-LOADING`; the admin door says that the process lives and why it is
//! not ready. Both stop when told, and close what they accepted: clients connect again and find the node.

use std::sync::Arc;
use std::time::Duration;

use base::Limits;
use doors::resp::decode::{DecodeLimits, DecodeState, Decoded, Words, decode};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

const LOADING: &[u8] = b"-LOADING Redis is loading the dataset in memory\r\n";
/// Connections of either door while loading.
const CONNECTIONS_MAX: usize = 256;
/// A larger command is answered and its connection closed: nothing of it is wanted.
const COMMAND_BYTES_MAX: usize = 1 << 20;
/// How long a client may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// How far the start is, in words.
pub type Stage = Arc<Mutex<String>>;

/// Answers `-LOADING` until told to stop.
pub async fn redis(listener: TcpListener, stop: watch::Receiver<bool>) {
    accept(listener, stop, |stream| async move { refuse(stream).await.unwrap_or(()) }).await;
}

/// Answers `/healthz` with 200 and everything else with 503 and the stage, until told to stop.
pub async fn admin(listener: TcpListener, stage: Stage, stop: watch::Receiver<bool>) {
    accept(listener, stop, move |stream| {
        let stage = stage.clone();
        async move { tell(stream, &stage).await.unwrap_or(()) }
    })
    .await;
}

async fn accept<F, T>(listener: TcpListener, mut stop: watch::Receiver<bool>, serve: F)
where
    F: Fn(TcpStream) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
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
        let mut stop = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = conversation => {}
                _ = stop.wait_for(|stop| *stop) => {}
                () = tokio::time::sleep(PATIENCE) => {}
            }
            drop(place);
        });
    }
}

async fn refuse(mut stream: TcpStream) -> std::io::Result<()> {
    let limits = DecodeLimits {
        command_bytes_max: COMMAND_BYTES_MAX,
        bulk_bytes_max: COMMAND_BYTES_MAX,
        ..DecodeLimits::authenticated(&Limits::DEFAULT)
    };
    let (mut buffer, mut state, mut words) = (Vec::new(), DecodeState::new(), Words::new());
    let mut out = Vec::new();
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
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
        stream.write_all(&out).await?;
        out.clear();
        if !is_sound {
            return Ok(());
        }
    }
}

async fn tell(mut stream: TcpStream, stage: &Stage) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > 16 << 10 || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
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

    async fn ask(question: &[u8], stop: Option<&watch::Sender<bool>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, stopping) = watch::channel(false);
        let is_http = question.starts_with(b"GET");
        let stage = Arc::new(Mutex::new("reading the log".to_owned()));
        let task = match is_http {
            true => tokio::spawn(admin(listener, stage, stopping)),
            false => tokio::spawn(redis(listener, stopping)),
        };
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(question).await.expect("it reads");
        let mut answer = String::new();
        if is_http || stop.is_some() {
            stream.read_to_string(&mut answer).await.expect("it answers");
        } else {
            let mut bytes = vec![0; 3 * LOADING.len()];
            stream.read_exact(&mut bytes).await.expect("it answers");
            answer = String::from_utf8(bytes).expect("text");
            sender.send_replace(true);
            assert_eq!(stream.read(&mut [0; 8]).await.expect("it closes"), 0);
        }
        sender.send_replace(true);
        task.await.expect("it ends");
        answer
    }

    #[tokio::test]
    async fn every_command_is_answered_and_the_end_closes() {
        let answer = ask(b"PING\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n\r\nPING\r\n", None).await;
        assert_eq!(answer.as_bytes(), LOADING.repeat(3));
    }

    #[tokio::test]
    async fn what_is_no_command_is_answered_once_and_closed() {
        let (sender, _) = watch::channel(false);
        assert_eq!(ask(b"*1\r\n$999999999\r\n", Some(&sender)).await.as_bytes(), LOADING);
    }

    #[tokio::test]
    async fn the_admin_door_tells_alive_from_ready() {
        assert!(ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", None).await.starts_with("HTTP/1.1 200"));
        let answer = ask(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", None).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("starting: reading the log"), "{answer}");
    }
}
