//! Who this node is, kept in its data directory.
//!
//! `IDENTITY` is written once, when the node founds a cluster or has joined one: whole or absent (another name, fsync, rename, fsync of
//! the directory), readable by the owner only. A data directory that has it starts as that node without being asked to join. It is there
//! twice (`IDENTITY.copy`), and whichever is sound mends the other: a bit that rots in it must not cost a whole replica.
//! Once the node has started it says so in it: who finds it without a log has lost what it had vouched for, and is that node no more.
//! `JOINING` holds the key of a node that is about to join, so that one that was interrupted asks again as the same and is given the
//! same id. Neither is ever sent, copied into a snapshot or shown.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base::{ClusterId, NodeId};
use rustls_pki_types::CertificateDer;

use super::KeyPin;
use super::keys::{Authority, Key, public_key, random, sha256};
use super::tls;
use super::token::{from_base64url, to_base64url};

const FILE: &str = "IDENTITY";
const COPY: &str = "IDENTITY.copy";
/// A line of its own: the node has been up.
const STARTED: &str = "started";
const JOINING: &str = "JOINING";
const FIRST_LINE: &str = "quorate identity 1";
/// Larger than any identity.
const BYTES_MAX: u64 = 64 << 10;

/// Who this node is: cluster, id, and what proves it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// The cluster's authority.
    pub authority: Authority,
    /// What it signed for this node.
    pub certificate: CertificateDer<'static>,
    /// This node's own key.
    pub key: Key,
    /// Whether it was ever up with this data directory.
    pub started: bool,
}

impl Identity {
    /// The first node of a new cluster.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn found() -> Result<Identity, String> {
        let cluster = ClusterId(random()?);
        let (authority, key, node) = (Authority::found(cluster)?, Key::create()?, NodeId(1));
        let certificate = authority.sign_node(node, &key.public())?;
        Ok(Identity { cluster, node, authority, certificate, key, started: false })
    }

    /// What the cluster's directory has to know this node by.
    pub fn pin(&self) -> KeyPin {
        self.key.public().pin()
    }

    /// The identity in this data directory; `None` where there is none yet.
    ///
    /// # Errors
    /// A sentence for people: the file cannot be read, or is no whole identity.
    pub fn load(directory: &Path) -> Result<Option<Identity>, String> {
        let path = directory.join(FILE);
        let wrong = |why: &str| {
            format!(
                "{}: {why}, nor can {COPY} beside it be used; without it this node cannot prove who it is. Restore it from a backup, or join as a new \
                 node: on a member `quorate cluster token` prints the command, to be run here with --data set to a new directory; then \
                 `quorate cluster remove N` there, N being the number that this node had",
                path.display()
            )
        };
        let read = |name| match read_file(&directory.join(name)) {
            Ok(None) => Ok(None),
            Ok(Some(text)) => Identity::parse(&text).map(Some),
            Err(why) => Err(why),
        };
        match (read(FILE), read(COPY)) {
            (Ok(None), Ok(None)) => Ok(None),
            (Ok(Some(own)), Ok(Some(copy))) if own.to_text() == copy.to_text() => Ok(Some(own)),
            // A disk that takes nothing now is told of when it matters.
            (Ok(Some(own)), _) => {
                let _ = own.store(directory);
                Ok(Some(own))
            }
            (own, Ok(Some(copy))) => {
                let why = own.err().unwrap_or_else(|| "it is gone".to_owned());
                eprintln!("quorate: {}: {why}; it is made anew from {COPY}", path.display());
                let _ = copy.store(directory);
                Ok(Some(copy))
            }
            (own, _) => Err(wrong(&own.err().unwrap_or_else(|| "it is gone".to_owned()))),
        }
    }

    /// Remembers that the node has been up.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn note_start(&self, directory: &Path) -> Result<(), String> {
        if self.started { Ok(()) } else { Identity { started: true, ..self.clone() }.store(directory) }
    }

    /// Writes it, durably. One that is there already is replaced.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn store(&self, directory: &Path) -> Result<(), String> {
        for name in [COPY, FILE] {
            write_file(directory, name, &self.to_text())?;
        }
        match std::fs::remove_file(directory.join(JOINING)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(format!("{}: {error}", directory.join(JOINING).display()))
            }
            _ => Ok(()),
        }
    }

    fn to_text(&self) -> String {
        let mut text = format!(
            "{FIRST_LINE}\ncluster {}\nnode {}\nauthority {}\nauthority-key {}\ncertificate {}\nkey {}\n",
            self.cluster,
            self.node.0,
            to_base64url(self.authority.certificate()),
            to_base64url(self.authority.key().pkcs8()),
            to_base64url(&self.certificate),
            to_base64url(self.key.pkcs8()),
        );
        if self.started {
            text.push_str(&format!("{STARTED}\n"));
        }
        let check = to_base64url(&sha256(text.as_bytes())[..16]);
        text.push_str(&format!("check {check}\n"));
        text
    }

    fn parse(text: &str) -> Result<Identity, String> {
        if text.lines().next() != Some(FIRST_LINE) {
            return Err("not an identity, or one that a newer program wrote".to_owned());
        }
        let (checked, check) = text.rsplit_once("check ").ok_or("its end is missing")?;
        if check.trim_end() != to_base64url(&sha256(checked.as_bytes())[..16]) {
            return Err("it fails its checksum".to_owned());
        }
        let line = |name: &str| {
            let mut values = checked.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            values.next().ok_or_else(|| format!("it has no line `{name}`"))
        };
        let bytes = |name: &str| from_base64url(line(name)?).ok_or_else(|| format!("its line `{name}` cannot be read"));
        let cluster = ClusterId::parse(line("cluster")?).ok_or("its line `cluster` cannot be read")?;
        let node = line("node")?.parse().ok().filter(|node| *node != 0).ok_or("its line `node` cannot be read")?;
        let identity = Identity {
            cluster,
            node: NodeId(node),
            authority: Authority::read(cluster, &bytes("authority")?, &bytes("authority-key")?)?,
            certificate: CertificateDer::from(bytes("certificate")?),
            key: Key::read(&bytes("key")?)?,
            started: checked.lines().any(|line| line == STARTED),
        };
        identity.check()?;
        Ok(identity)
    }

    /// Whether its parts belong together.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        if public_key(&self.certificate)? != self.key.public() {
            return Err("the key is not that of the certificate".to_owned());
        }
        match tls::node_of(&self.certificate) {
            Some((cluster, node)) if (cluster, node) == (self.cluster, self.node) => Ok(()),
            _ => Err("the certificate is for somebody else".to_owned()),
        }
    }
}

/// The key with which this data directory joins: made now, or when it tried before.
///
/// # Errors
/// A sentence for people.
pub fn joining_key(directory: &Path) -> Result<Key, String> {
    let path = directory.join(JOINING);
    let wrong = |why: String| format!("{}: {why}", path.display());
    if let Some(text) = read_file(&path).map_err(wrong)? {
        let bytes = from_base64url(text.trim()).ok_or_else(|| wrong("it cannot be read; remove it".to_owned()))?;
        return Key::read(&bytes).map_err(wrong);
    }
    let key = Key::create()?;
    write_file(directory, JOINING, &format!("{}\n", to_base64url(key.pkcs8())))?;
    Ok(key)
}

fn read_file(path: &Path) -> Result<Option<String>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(Some(text))
}

/// Whole or absent, and for the owner only.
fn write_file(directory: &Path, name: &str, text: &str) -> Result<(), String> {
    let (unfinished, path) = (directory.join(format!("{name}.tmp")), directory.join(name));
    let write = || {
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{Identity, joining_key};
    use crate::peers::tests::Scratch;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_identity_is_kept_and_only_its_owner_reads_it() {
        let scratch = Scratch::new();
        assert!(Identity::load(scratch.path()).expect("a directory").is_none());
        let key = joining_key(scratch.path()).expect("it can be written");
        assert_eq!(joining_key(scratch.path()).expect("it is there").public(), key.public());
        let identity = Identity::found().expect("random bytes");
        identity.store(scratch.path()).expect("it can be written");
        let again = Identity::load(scratch.path()).expect("it is whole").expect("it is there");
        assert_eq!((again.cluster, again.node, again.pin()), (identity.cluster, identity.node, identity.pin()));
        assert_eq!(again.authority.fingerprint(), identity.authority.fingerprint());
        assert!(!scratch.path().join("JOINING").exists() && !scratch.path().join("IDENTITY.tmp").exists());
        let mode = std::fs::metadata(scratch.path().join("IDENTITY")).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{again:?}").contains("pkcs8"));
    }

    #[test]
    fn an_identity_with_any_byte_changed_is_refused_and_never_taken_for_another() {
        let scratch = Scratch::new();
        Identity::found().expect("random bytes").store(scratch.path()).expect("it can be written");
        let file = scratch.path().join("IDENTITY");
        let text = std::fs::read(&file).expect("it is there");
        for at in 0..text.len() {
            let mut wrong = text.clone();
            wrong[at] ^= 1;
            let wrong = String::from_utf8(wrong).expect("ASCII with a bit changed");
            // The line's end at the very end is not looked at.
            assert!(Identity::parse(&wrong).is_err() || at + 1 == text.len(), "byte {at}");
        }
        let copy = scratch.path().join("IDENTITY.copy");
        for cut in [0, 1, 20, text.len() / 2, text.len() - 20] {
            for other in [&file, &copy] {
                std::fs::write(other, &text[..cut]).expect("it can be written");
                let healed = Identity::load(scratch.path()).expect("the other one is whole").expect("it is there");
                assert_eq!(healed.to_text().as_bytes(), text);
                assert_eq!(std::fs::read(other).expect("it is there"), text, "cut at {cut}");
            }
            std::fs::write(&file, &text[..cut]).expect("it can be written");
            std::fs::write(&copy, &text[..cut]).expect("it can be written");
            let why = Identity::load(scratch.path()).expect_err("both are cut");
            assert!(
                ["IDENTITY", "backup", "quorate cluster token", "quorate cluster remove"]
                    .iter()
                    .all(|word| why.contains(word)),
                "{why}"
            );
            std::fs::write(&copy, &text).expect("it can be written");
            std::fs::remove_file(&file).expect("it is there");
            assert!(Identity::load(scratch.path()).expect("the copy is whole").is_some());
        }
    }

    #[test]
    fn an_identity_remembers_that_it_was_up() {
        let scratch = Scratch::new();
        let identity = Identity::found().expect("random bytes");
        identity.store(scratch.path()).expect("it can be written");
        let load = || Identity::load(scratch.path()).expect("it is whole").expect("it is there");
        assert!(!load().started);
        load().note_start(scratch.path()).expect("it can be written");
        assert!(load().started);
    }
}
