//! The balancers: configurations into a folder of the run, processes started here and ended by their ids.

use super::{Plan, measure};
use crate::server::{Server, free_port};
use crate::shell::{family, output};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One balancer.
pub struct Balancer {
    /// How it is called.
    pub name: String,
    /// `host:port` for HTTP/1.1.
    pub http: String,
    /// `host:port` for bytes; empty: none.
    pub tcp: String,
    /// `host:port` for HTTP/2 with prior knowledge; empty: none.
    pub h2: String,
    process: Option<Process>,
    server: Option<Server>,
}

impl Balancer {
    fn pids(&self) -> Vec<u32> {
        let pid = self.server.as_ref().map(Server::pid).or(self.process.as_ref().map(|process| process.0.id()));
        pid.map(family).unwrap_or_default()
    }

    /// CPU of its process, children and threads included.
    pub fn cpu_seconds(&self) -> Result<f64, String> {
        self.pids().into_iter().map(measure::cpu_seconds).sum()
    }

    /// Resident memory of its processes. Pages that several share count for each, before and after alike.
    pub fn resident_bytes(&self) -> Result<u64, String> {
        self.pids().into_iter().map(measure::resident_bytes).sum()
    }
}

/// A process that ends when it is dropped, with SIGTERM first: nginx's master ends its workers.
pub struct Process(pub Child);

impl Process {
    /// Starts it with its output in `log`.
    pub fn start(program: &str, args: &[&str], log: &Path) -> Result<Process, String> {
        let at = |error: std::io::Error| format!("{}: {error}", log.display());
        let out = File::create(log).map_err(at)?;
        let err = out.try_clone().map_err(at)?;
        let mut command = Command::new(self::program(program)?);
        let child = command.args(args).stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        child.map(Process).map_err(|error| format!("{program}: {error}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a program is; daemons stand where not everybody's PATH leads.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = dirs.map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        format!("{name} is not there: apt-get install {}", if name == "h2load" { "nghttp2-client" } else { name })
    })
}

/// The upstreams and the three balancers before them.
pub struct Peers {
    /// Ours.
    pub quorate: Balancer,
    /// Debian's.
    pub nginx: Balancer,
    /// Debian's.
    pub haproxy: Balancer,
    upstreams: [u16; 3],
    _backends: Process,
}

impl Peers {
    /// All of them, answering; quorate with so many routes.
    pub fn start(plan: &Plan, threads: usize, routes: usize) -> Result<Peers, String> {
        fs::create_dir_all(&plan.dir).map_err(|error| format!("{}: {error}", plan.dir.display()))?;
        let upstreams = [free_port()?, free_port()?, free_port()?];
        let backends = nginx(&plan.dir, "upstreams", 1, &upstream_config(upstreams))?;
        for port in upstreams {
            wait(&format!("127.0.0.1:{port}"))?;
        }
        let [plain, h2] = [free_port()?, free_port()?];
        let process = nginx(&plan.dir, "nginx", threads, &nginx_config(upstreams, plain, h2))?;
        let nginx = Balancer {
            name: "nginx".into(),
            http: format!("127.0.0.1:{plain}"),
            tcp: String::new(),
            h2: format!("127.0.0.1:{h2}"),
            process: Some(process),
            server: None,
        };
        let [plain, h2, bytes] = [free_port()?, free_port()?, free_port()?];
        let file = plan.dir.join("haproxy.cfg");
        fs::write(&file, haproxy_config(upstreams, threads, [plain, h2, bytes])).map_err(|error| error.to_string())?;
        let process =
            Process::start("haproxy", &["-db", "-f", &file.to_string_lossy()], &plan.dir.join("haproxy.log"))?;
        let haproxy = Balancer {
            name: "HAProxy".into(),
            http: format!("127.0.0.1:{plain}"),
            tcp: format!("127.0.0.1:{bytes}"),
            h2: format!("127.0.0.1:{h2}"),
            process: Some(process),
            server: None,
        };
        let quorate = quorate(plan, "quorate", threads, routes, upstreams)?;
        for balancer in [&nginx, &haproxy, &quorate] {
            for addr in [&balancer.http, &balancer.tcp, &balancer.h2].into_iter().filter(|addr| !addr.is_empty()) {
                wait(addr)?;
            }
        }
        Ok(Peers { quorate, nginx, haproxy, upstreams, _backends: backends })
    }

    /// Ours first.
    pub fn all(&self) -> [&Balancer; 3] {
        [&self.quorate, &self.nginx, &self.haproxy]
    }

    /// One of the upstreams, without a balancer.
    pub fn direct(&self) -> Balancer {
        Balancer {
            name: "no balancer".into(),
            http: format!("127.0.0.1:{}", self.upstreams[0]),
            tcp: String::new(),
            h2: String::new(),
            process: None,
            server: None,
        }
    }

    /// A second node before the same upstreams.
    pub fn another_quorate(&self, plan: &Plan, name: &str, threads: usize, routes: usize) -> Result<Balancer, String> {
        let balancer = quorate(plan, name, threads, routes, self.upstreams)?;
        wait(&balancer.http)?;
        Ok(balancer)
    }
}

fn wait(addr: &str) -> Result<(), String> {
    let start = Instant::now();
    while TcpStream::connect(addr).is_err() {
        if start.elapsed() > Duration::from_secs(20) {
            return Err(format!("{addr}: nobody listens there after 20 s"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn nginx(dir: &Path, name: &str, threads: usize, body: &str) -> Result<Process, String> {
    let home = dir.join(name);
    fs::create_dir_all(home.join("tmp")).map_err(|error| format!("{}: {error}", home.display()))?;
    let root = output("id", &["-u"]).is_ok_and(|id| id.trim() == "0");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!(" {kind}_temp_path {}/tmp/{kind};\n", home.display()))
        .concat();
    let text = format!(
        "daemon off;\n{}worker_processes {threads};\nworker_rlimit_nofile 20000;\npid {home}/pid;\nerror_log {home}/error.log warn;\n\
         events {{ worker_connections 12000; }}\nhttp {{\n access_log off;\n tcp_nodelay on;\n keepalive_timeout 600s;\n \
         keepalive_requests 1000000000;\n{temporary}{body}}}\n",
        if root { "user root;\n" } else { "" },
        home = home.display(),
    );
    let file = home.join("nginx.conf");
    fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    let (file, prefix) = (file.to_string_lossy().into_owned(), home.to_string_lossy().into_owned());
    Process::start("nginx", &["-e", "error.log", "-p", &prefix, "-c", &file], &home.join("said.log"))
}

fn upstream_config(ports: [u16; 3]) -> String {
    let body = "x".repeat(1024);
    let mut out = String::from(" server {\n");
    for port in ports {
        let _ = writeln!(out, "  listen 127.0.0.1:{port} backlog=4096;");
    }
    let _ = writeln!(out, "  location / {{ default_type text/plain; return 200 \"{body}\"; }}\n }}");
    out
}

/// `keepalive`, HTTP/1.1 and an empty Connection header are what nginx documents for keeping connections to upstreams.
fn nginx_config(upstreams: [u16; 3], plain: u16, h2: u16) -> String {
    let [a, b, c] = upstreams;
    format!(
        " upstream u {{\n  server 127.0.0.1:{a};\n  server 127.0.0.1:{b};\n  server 127.0.0.1:{c};\n  keepalive 128;\n  \
         keepalive_requests 1000000000;\n }}\n server {{\n  listen 127.0.0.1:{plain} backlog=4096;\n  listen 127.0.0.1:{h2} http2 backlog=4096;\n  \
         http2_max_concurrent_streams 256;\n  location / {{\n   proxy_pass http://u;\n   proxy_http_version 1.1;\n   \
         proxy_set_header Connection \"\";\n   proxy_set_header Host $host;\n   \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n  }}\n }}\n"
    )
}

fn haproxy_config(upstreams: [u16; 3], threads: usize, [plain, h2, bytes]: [u16; 3]) -> String {
    let [a, b, c] = upstreams;
    let servers = format!(" server a 127.0.0.1:{a}\n server b 127.0.0.1:{b}\n server c 127.0.0.1:{c}\n");
    format!(
        "global\n nbthread {threads}\n maxconn 9500\ndefaults\n mode http\n balance roundrobin\n timeout connect 5s\n timeout client 600s\n \
         timeout server 60s\n timeout http-keep-alive 600s\n option http-keep-alive\nfrontend f\n option forwardfor\n bind 127.0.0.1:{plain} backlog 4096\n \
         bind 127.0.0.1:{h2} proto h2 backlog 4096\n default_backend b\nbackend b\n http-reuse always\n{servers}\
         listen t\n mode tcp\n bind 127.0.0.1:{bytes} backlog 4096\n{servers}"
    )
}

/// Ours: memory durability has no part in it, all protections stay on.
fn quorate(plan: &Plan, name: &str, threads: usize, routes: usize, upstreams: [u16; 3]) -> Result<Balancer, String> {
    let bytes = free_port()?;
    let [a, b, c] = upstreams;
    let mut text = format!(
        "[listener.bytes]\nbind = \"127.0.0.1:{bytes}\"\nprotocol = \"tcp\"\n\n[upstream.u]\n\
         endpoints = [\"127.0.0.1:{a}\", \"127.0.0.1:{b}\", \"127.0.0.1:{c}\"]\nbalance = \"round_robin\"\n\n\
         [route.all]\nto = \"u\"\nlisteners = \"main\"\n\n[route.bytes]\nto = \"u\"\nlisteners = \"bytes\"\n"
    );
    for at in 2..routes {
        let _ = write!(
            text,
            "\n[route.r{at}]\nhosts = \"h{at}.example.com\"\npath = \"/api/v{at}/*\"\nto = \"u\"\nlisteners = \"main\"\n"
        );
    }
    let file = plan.dir.join(format!("{}.toml", name.replace([' ', ','], "-")));
    fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    let (file, threads) = (file.to_string_lossy().into_owned(), threads.to_string());
    let data = plan.dir.join(format!("{}-data", name.replace([' ', ','], "-")));
    let _ = fs::remove_dir_all(&data);
    let server = Server::quorate(&plan.bin, &data, &["--config", &file, "--workers", &threads], &[])?;
    Ok(Balancer {
        name: name.to_owned(),
        http: server.gateway.clone(),
        tcp: format!("127.0.0.1:{bytes}"),
        h2: server.gateway.clone(),
        process: None,
        server: Some(server),
    })
}
