//! Makes this node's health checks: HTTP and TCP, and proposes what has changed. When each runs and what its result means
//! is [`discovery::check`]'s word.
//!
//! A check never follows a redirect to another host or port: a registration must not thereby reach what only this node can
//! (Consul's CVE-2022-29153). At most a few kilobytes of an answer are read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use discovery::change::Change;
use discovery::check::{Action, Runner};
use discovery::model::{CheckForm, NodeForm, Probe, Status};
use doors::registry::Registry;
use http_body_util::{BodyExt, Full};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::clock;

/// Redirects of one check, all to the same host and port.
const REDIRECTS_MAX: usize = 10;
/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long it waits before it registers this node again where somebody took it away.
const REGISTER_AGAIN: Duration = Duration::from_secs(5);

/// What makes the checks of one node.
pub struct Checks {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The checks. Locked after the catalog.
    pub runner: Arc<Mutex<Runner>>,
    /// This node, as it registers itself.
    pub node: NodeForm,
    /// Rings when a run has ended.
    pub ended: Arc<Notify>,
}

impl Checks {
    /// Registers this node, then makes its checks until told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut registered = None::<tokio::time::Instant>;
        loop {
            let now = clock::now();
            let (index, is_registered, actions) = {
                let catalog = self.registry.read();
                let mut runner = self.runner.lock();
                runner.sync(&catalog, now);
                let own = catalog.node(&self.node.name).is_some_and(|node| node.form == self.node);
                let alive = catalog.check_on(&self.node.name, ALIVE).is_some();
                (catalog.index(), own && alive, runner.next(now))
            };
            for action in actions {
                self.obey(action);
            }
            let mut again = None;
            if !is_registered {
                let is_due = registered.is_none_or(|at| at.elapsed() >= REGISTER_AGAIN);
                if is_due {
                    registered = Some(tokio::time::Instant::now());
                    self.propose(register(&self.node));
                }
                again = registered.map(|at| at + REGISTER_AGAIN);
            }
            let deadline = self.runner.lock().deadline().map(|at| at.since(clock::now()));
            let deadline = deadline.map(|span| tokio::time::Instant::now() + span);
            let wake = [deadline, again].into_iter().flatten().min();
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = self.registry.changed(index) => {}
                () = self.ended.notified() => {}
                () = sleep => {}
            }
        }
    }

    fn obey(&self, action: Action) {
        match action {
            Action::Propose(change) => self.propose(change),
            Action::Run { check, run, probe, timeout, output_bytes_max } => {
                let (runner, ended) = (self.runner.clone(), self.ended.clone());
                tokio::spawn(async move {
                    let made = tokio::time::timeout(timeout, make(&probe, output_bytes_max)).await;
                    let (status, output) = made.unwrap_or_else(|_| {
                        (Status::Critical, format!("{}: no answer within {timeout:?}", subject(&probe)))
                    });
                    runner.lock().finished(&check, run, status, output, clock::now());
                    ended.notify_one();
                });
            }
        }
    }

    /// What comes of it shows in the catalog; what is refused is proposed again.
    fn propose(&self, change: Change) {
        let changing = self.registry.change(&change);
        tokio::spawn(async move {
            let _ = changing.await;
        });
    }
}

/// The check that every node has: it is there.
const ALIVE: &str = "serfHealth";

/// The registration of a node by itself.
pub fn register(node: &NodeForm) -> Change {
    let alive = CheckForm {
        id: ALIVE.into(),
        name: "Serf Health Status".into(),
        status: Status::Passing,
        output: "Agent alive and reachable".into(),
        ..CheckForm::default()
    };
    Change::Register { node: node.clone(), keep_node: false, service: None, checks: vec![alive], replace_checks: false }
}

fn subject(probe: &Probe) -> String {
    match probe {
        Probe::Http { url, method, .. } => format!("HTTP {method} {url}"),
        Probe::Tcp { address } => format!("TCP connect {address}"),
        Probe::Ttl | Probe::External => "no probe".into(),
    }
}

/// Makes one check.
async fn make(probe: &Probe, output_bytes_max: usize) -> (Status, String) {
    match probe {
        Probe::Tcp { address } => match TcpStream::connect(address.as_str()).await {
            Ok(_) => (Status::Passing, format!("TCP connect {address}: Success")),
            Err(error) => (Status::Critical, format!("TCP connect {address}: {error}")),
        },
        Probe::Http { .. } => match http(probe, output_bytes_max).await {
            Ok((code, output)) => {
                let status = match code {
                    200..300 => Status::Passing,
                    429 => Status::Warning,
                    _ => Status::Critical,
                };
                (status, output)
            }
            Err(why) => (Status::Critical, format!("{}: {why}", subject(probe))),
        },
        Probe::Ttl | Probe::External => (Status::Critical, "this check is not made by the node".into()),
    }
}

async fn http(probe: &Probe, output_bytes_max: usize) -> Result<(u16, String), String> {
    let Probe::Http { url, method, no_redirects, .. } = probe else {
        return Err("not an HTTP check".into());
    };
    let first: Uri = url.parse().map_err(|_| "not a URL".to_owned())?;
    let authority = first.authority().ok_or("a URL without a host")?.clone();
    let mut target = first.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    for _ in 0..=REDIRECTS_MAX {
        let (code, reason, location, body) = ask(probe, authority.as_str(), &target, output_bytes_max).await?;
        let next = location.filter(|_| matches!(code, 301 | 302 | 303 | 307 | 308) && !no_redirects);
        let Some(next) = next else {
            return Ok((code, format!("HTTP {method} {url}: {code} {reason} Output: {body}")));
        };
        target = follow(authority.as_str(), &next)?;
    }
    Err(format!("more than {REDIRECTS_MAX} redirects"))
}

/// The path of a redirect that stays at this host and port.
fn follow(authority: &str, location: &str) -> Result<String, String> {
    let elsewhere = || Err(format!("a redirect to {location:?} is not followed: a check stays at its host and port"));
    if location.starts_with('/') && !location.starts_with("//") {
        return Ok(location.to_owned());
    }
    match location.parse::<Uri>() {
        Ok(uri)
            if uri.scheme_str() == Some("http")
                && uri.authority().is_some_and(|other| other.as_str().eq_ignore_ascii_case(authority)) =>
        {
            Ok(uri.path_and_query().map_or("/", |path| path.as_str()).to_owned())
        }
        _ => elsewhere(),
    }
}

type Answer = (u16, String, Option<String>, String);

async fn ask(probe: &Probe, authority: &str, target: &str, output_bytes_max: usize) -> Result<Answer, String> {
    let Probe::Http { method, headers, body, .. } = probe else {
        return Err("not an HTTP check".into());
    };
    // Names and passwords before `@` are no part of the host.
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { host.to_owned() } else { format!("{host}:80") };
    let stream = TcpStream::connect(address.as_str()).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *request.method_mut() = method.parse::<Method>().map_err(|_| "not a method".to_owned())?;
    *request.uri_mut() = target.parse::<Uri>().map_err(|_| "not a path".to_owned())?;
    let own = request.headers_mut();
    own.insert(header::HOST, HeaderValue::from_str(host).map_err(|_| "not a host".to_owned())?);
    own.insert(header::USER_AGENT, HeaderValue::from_static("Consul Health Check"));
    own.insert(header::ACCEPT, HeaderValue::from_static("text/plain, text/*, */*"));
    for (name, values) in headers {
        let name: HeaderName = name.parse().map_err(|_| format!("not a header: {name:?}"))?;
        own.remove(&name);
        for value in values {
            let value = HeaderValue::from_str(value).map_err(|_| format!("not a value of {name}"))?;
            own.append(name.clone(), value);
        }
    }
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let location =
            response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut body = response.into_body();
        let mut read = Vec::new();
        while read.len() < output_bytes_max
            && let Some(Ok(frame)) = body.frame().await
        {
            if let Some(data) = frame.data_ref() {
                read.extend_from_slice(&data[..data.len().min(output_bytes_max - read.len())]);
            }
        }
        let reason = status.canonical_reason().unwrap_or("").to_owned();
        Ok((status.as_u16(), reason, location, String::from_utf8_lossy(&read).into_owned()))
    };
    // The connection lives as long as the exchange, and goes with it.
    tokio::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = connection.as_mut() => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::follow;

    #[test]
    fn a_redirect_stays_at_the_host_and_port() {
        let host = "127.0.0.1:8080";
        assert_eq!(follow(host, "/up?x"), Ok("/up?x".into()));
        assert_eq!(follow(host, "http://127.0.0.1:8080/up"), Ok("/up".into()));
        for elsewhere in [
            "http://169.254.169.254/latest/meta-data",
            "http://127.0.0.1:8081/",
            "http://127.0.0.1/",
            "https://127.0.0.1:8080/",
            "//evil.example/",
            "file:///etc/passwd",
            "http://127.0.0.1:8080@evil.example/",
            "",
            "up",
        ] {
            assert!(follow(host, elsewhere).is_err(), "{elsewhere}");
        }
    }
}
