//! Makes one check: a connection, with TLS where asked, and what is said over it.
//!
//! A check never follows a redirect to another host or port: a registration must not thereby reach what only this node can
//! (Consul's CVE-2022-29153). At most a few kilobytes of an answer are read.

use bytes::Bytes;
use discovery::model::{HttpRequest, Probe, Status, Tls};
use http_body_util::{BodyExt, Full};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{grpc, tls};

/// Redirects of one check, all to the same host and port.
const REDIRECTS_MAX: usize = 10;
/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A connection, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What is checked, for people.
pub(super) fn subject(probe: &Probe) -> String {
    match probe {
        Probe::Http(request) | Probe::Https(request, _) => format!("HTTP {} {}", request.method, request.url),
        Probe::Tcp { address } | Probe::TcpTls { address, .. } => format!("TCP connect {address}"),
        Probe::Grpc { target, .. } => format!("gRPC check {target}"),
        Probe::H2Ping { address, .. } => format!("HTTP2 ping {address}"),
        Probe::Ttl | Probe::External | Probe::Alias { .. } => "no probe".into(),
    }
}

/// Makes one check.
pub(super) async fn make(probe: &Probe, output_bytes_max: usize) -> (Status, String) {
    let made = match probe {
        Probe::Tcp { address } | Probe::TcpTls { address, .. } => {
            connect(address, probe.tls(), None).await.map(|_| (Status::Passing, "Success".into()))
        }
        Probe::Http(request) | Probe::Https(request, _) => match http(request, probe.tls(), output_bytes_max).await {
            Ok((code, output)) => {
                let status = match code {
                    200..300 => Status::Passing,
                    429 => Status::Warning,
                    _ => Status::Critical,
                };
                Ok((status, output))
            }
            Err(why) => Err(why),
        },
        Probe::Grpc { target, tls } => grpc::check(target, tls.as_ref()).await,
        Probe::H2Ping { address, tls } => grpc::ping(address, tls.as_ref()).await,
        Probe::Ttl | Probe::External | Probe::Alias { .. } => Err("this check is not made by sending anything".into()),
    };
    let (status, output) = made.unwrap_or_else(|why| (Status::Critical, why));
    (status, format!("{}: {output}", subject(probe)))
}

/// The host of `host:port`, without brackets.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Connects to `host:port`, and shakes hands where TLS is wanted.
pub(super) async fn connect(
    address: &str,
    wanted: Option<&Tls>,
    protocol: Option<&'static [u8]>,
) -> Result<Box<dyn Stream>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    match wanted {
        None => Ok(Box::new(stream)),
        Some(wanted) => tls::connect(stream, host_of(address), wanted, protocol).await,
    }
}

/// Drives a connection as long as the exchange over it lasts; it goes with it.
pub(super) async fn beside<T, E: std::fmt::Display>(
    exchange: impl Future<Output = Result<T, String>>,
    connection: impl Future<Output = Result<(), E>>,
) -> Result<T, String> {
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    tokio::select! {
        answer = exchange.as_mut() => answer,
        ended = connection.as_mut() => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

async fn http(request: &HttpRequest, tls: Option<&Tls>, output_bytes_max: usize) -> Result<(u16, String), String> {
    let first: Uri = request.url.parse().map_err(|_| "not a URL".to_owned())?;
    let site = Site::of(&first).ok_or("a URL without a host")?;
    let mut target = first.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    for _ in 0..=REDIRECTS_MAX {
        let (code, reason, location, body) = ask(request, tls, &site, &target, output_bytes_max).await?;
        let next = location.filter(|_| matches!(code, 301 | 302 | 303 | 307 | 308) && !request.no_redirects);
        let Some(next) = next else {
            return Ok((code, format!("{code} {reason} Output: {body}")));
        };
        target = follow(&site, &next)?;
    }
    Err(format!("more than {REDIRECTS_MAX} redirects"))
}

/// Where a URL leads: what a redirect may not leave.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Site {
    scheme: String,
    /// As it stands in the URL, without name and password.
    shown: String,
    /// `host:port`, in small letters.
    address: String,
}

impl Site {
    fn of(uri: &Uri) -> Option<Site> {
        let scheme = uri.scheme_str()?;
        let port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let authority = uri.authority()?;
        let shown = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(port)).to_ascii_lowercase();
        Some(Site { scheme: scheme.to_owned(), shown: shown.to_owned(), address })
    }
}

/// The path of a redirect that stays at this host and port.
fn follow(site: &Site, location: &str) -> Result<String, String> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Ok(location.to_owned());
    }
    let uri = location.parse::<Uri>().ok();
    let other = uri.as_ref().and_then(Site::of);
    match (uri, other) {
        (Some(uri), Some(other)) if other.scheme == site.scheme && other.address == site.address => {
            Ok(uri.path_and_query().map_or("/", |path| path.as_str()).to_owned())
        }
        _ => Err(format!("a redirect to {location:?} is not followed: a check stays at its host and port")),
    }
}

type Answer = (u16, String, Option<String>, String);

async fn ask(
    probe: &HttpRequest,
    tls: Option<&Tls>,
    site: &Site,
    target: &str,
    output_bytes_max: usize,
) -> Result<Answer, String> {
    let stream = connect(&site.address, tls, Some(b"http/1.1")).await?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(probe.body.as_bytes())));
    *request.method_mut() = probe.method.parse::<Method>().map_err(|_| "not a method".to_owned())?;
    *request.uri_mut() = target.parse::<Uri>().map_err(|_| "not a path".to_owned())?;
    let own = request.headers_mut();
    own.insert(header::HOST, HeaderValue::from_str(&site.shown).map_err(|_| "not a host".to_owned())?);
    own.insert(header::USER_AGENT, HeaderValue::from_static("Consul Health Check"));
    own.insert(header::ACCEPT, HeaderValue::from_static("text/plain, text/*, */*"));
    for (name, values) in &probe.headers {
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
    beside(exchange, connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_stays_at_the_host_and_port() {
        let site = |url: &str| Site::of(&url.parse().expect("a URL")).expect("with a host");
        let host = site("http://127.0.0.1:8080/health");
        assert_eq!(follow(&host, "/up?x"), Ok("/up?x".into()));
        assert_eq!(follow(&host, "http://127.0.0.1:8080/up"), Ok("/up".into()));
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
            assert!(follow(&host, elsewhere).is_err(), "{elsewhere}");
        }
        let secure = site("https://name:word@Shop.example/");
        assert_eq!((secure.shown.as_str(), secure.address.as_str()), ("Shop.example", "shop.example:443"));
        assert_eq!(follow(&secure, "https://SHOP.example:443/up"), Ok("/up".into()));
        assert!(follow(&secure, "http://shop.example/").is_err(), "not without TLS");
    }

    #[test]
    fn hosts_lose_their_brackets() {
        for (address, host) in [("[::1]:443", "::1"), ("10.0.0.1:1", "10.0.0.1"), ("shop.example:443", "shop.example")]
        {
            assert_eq!(host_of(address), host);
        }
    }
}
