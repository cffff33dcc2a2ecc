//! Who may not speak, and what is said to him: each refused with a sentence, once, and without harm.

use super::super::frame::{Decoder, Kind, SMALL_FRAME_BYTES_MAX, put};
use super::super::words::{Hello, Purpose, sentence};
use super::super::{dial, tls};
use super::*;
use base::Limit;
use bytes::BytesMut;
use rcgen::date_time_ymd;
use rustls_pki_types::CertificateDer;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Stream = TlsStream<TcpStream>;

/// A hello as a node like this sends it.
fn hello(identity: &Identity, to: &Node) -> Hello {
    let advertise = vec!["127.0.0.1:1".to_owned()];
    Hello { cluster: identity.cluster, node: identity.node, to: to.id, purpose: Purpose::Link, advertise }
}

/// A connection as a node like this makes it, until TLS stands.
async fn shake(identity: &Identity, to: &Node) -> std::io::Result<Stream> {
    let connector = TlsConnector::from(tls::client(identity).expect("a good identity"));
    let stream = TcpStream::connect(to.address).await?;
    connector.connect(tls::name_of(to.identity.cluster, to.id), stream).await
}

/// Says these bytes and returns the first frame that comes back, or why none.
async fn say(stream: &mut Stream, bytes: &[u8]) -> Result<super::super::frame::Frame, String> {
    stream.write_all(bytes).await.map_err(|error| tls::explain(&error))?;
    stream.flush().await.map_err(|error| tls::explain(&error))?;
    let mut decoder = Decoder::new(SMALL_FRAME_BYTES_MAX);
    let read = dial::read_frame(stream, &mut decoder);
    tokio::time::timeout(PATIENCE, read).await.expect("an answer, or an end")
}

fn frame(kind: Kind, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    put(&mut out, kind, body);
    out
}

/// What is said to this hello.
async fn refusal(identity: &Identity, to: &Node, hello: &Hello) -> String {
    let mut stream = match shake(identity, to).await {
        Ok(stream) => stream,
        Err(error) => return tls::explain(&error),
    };
    match say(&mut stream, &frame(Kind::Hello, &hello.encode())).await {
        Ok(frame) if frame.kind == Kind::Refused => sentence(&frame.body),
        Ok(frame) => panic!("it is let in: {frame:?}"),
        Err(why) => why,
    }
}

/// The identity with another certificate.
fn certified(identity: &Identity, certificate: CertificateDer<'static>) -> Identity {
    Identity { certificate, ..identity.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_refused_and_both_say_so_once() {
    let (ours, theirs) = (identities(1), identities(2));
    let (one, two) = (Node::start(&ours[0]).await, Node::start(&theirs[1]).await);
    let directory = directory(&[&one, &two]);
    one.peers.set_directory(&directory);
    two.peers.set_directory(&directory);
    for node in [&one, &two] {
        node.told.says("it belongs to another cluster").await;
        let tried = async {
            while node.peers.links()[0].error.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, tried).await.expect("it has dialled");
    }
    // Many attempts later it has still been said only once for each direction.
    tokio::time::sleep(Duration::from_millis(600)).await;
    for node in [&one, &two] {
        let told = node.told.told.lock();
        let said = told.sentences.iter().filter(|said| said.contains("another cluster")).count();
        assert!((1..=2).contains(&said), "{:?}", told.sentences);
        assert!(told.links.is_empty() && told.messages.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_the_same_authority_that_is_not_a_nodes_opens_nothing() {
    let (cluster, authority) = founded();
    let one = Node::start(&identity(cluster, &authority, 1)).await;
    let two = identity(cluster, &authority, 2);
    let key = two.key.public();
    let sign = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        certified(&two, authority.sign("client", &names, &key, |_| {}).expect("random bytes"))
    };
    let (own, third) = (format!("node-2.{cluster}.quorate"), format!("node-3.{cluster}.quorate"));
    let foreign = format!("node-2.{}.quorate", ClusterId([9; 16]));
    for (client, why) in [
        (sign(&["alice.example.com"]), "its certificate is not that of a node"),
        (sign(&[]), "its certificate is not that of a node"),
        // Two names are not one node.
        (sign(&[&own, &third]), "its certificate is not that of a node"),
        (sign(&[&third]), "it calls itself n2, its certificate n3"),
        (sign(&[&foreign]), "it calls itself n2, its certificate n2"),
    ] {
        assert_eq!(refusal(&client, &one, &hello(&two, &one)).await, why);
        one.told.says(why).await;
    }
    let usage = authority.sign("client", std::slice::from_ref(&own), &key, |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    refusal(&certified(&two, usage.expect("random bytes")), &one, &hello(&two, &one)).await;
    one.told.says("its certificate is not for links between nodes").await;
    assert!(one.told.told.lock().links.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_and_one_of_a_foreign_authority_are_refused() {
    let (cluster, authority) = founded();
    let one = Node::start(&identity(cluster, &authority, 1)).await;
    let two = identity(cluster, &authority, 2);
    let names = [format!("node-2.{cluster}.quorate")];
    let expired =
        authority.sign("node", &names, &two.key.public(), |params| params.not_after = date_time_ymd(2001, 1, 1));
    let why = refusal(&certified(&two, expired.expect("random bytes")), &one, &hello(&two, &one)).await;
    assert_eq!(why, "it says that this node's certificate has expired");
    one.told.says("its certificate has expired").await;
    // The names are right, the authority only calls itself so.
    let false_authority = Authority::found(cluster).expect("random bytes");
    let false_two = identity(cluster, &false_authority, 2);
    let mixed = Identity { authority: authority.clone(), ..false_two };
    let why = refusal(&mixed, &one, &hello(&two, &one)).await;
    assert_eq!(why, "it does not accept this node's certificate: it belongs to another cluster");
    one.told.says("it belongs to another cluster").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_or_without_tls_nobody_is_a_node() {
    let (cluster, authority) = founded();
    let one = Node::start(&identity(cluster, &authority, 1)).await;
    let two = identity(cluster, &authority, 2);
    // The joiner's TLS with the nodes' protocol.
    let (config, name) = tls::joining(cluster, authority.fingerprint()).expect("a configuration");
    let mut config = (*config).clone();
    config.alpn_protocols = vec![tls::PEER.to_vec()];
    let stream = TcpStream::connect(one.address).await.expect("it listens");
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS alone is open");
    let answer = say(&mut stream, &frame(Kind::Hello, &hello(&two, &one).encode())).await.expect("an answer");
    assert_eq!((answer.kind, &answer.body[..]), (Kind::Refused, &b"it showed no certificate"[..]));
    let mut plain = TcpStream::connect(one.address).await.expect("it listens");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it reads");
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut rest)).await.expect("it closes");
    one.told.says("it does not speak TLS").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_does_not_fit_is_answered_by_what_is_wrong_with_it() {
    let (cluster, authority) = founded();
    let one = Node::start(&identity(cluster, &authority, 1)).await;
    let two = identity(cluster, &authority, 2);
    let good = hello(&two, &one);
    let meant = Hello { to: NodeId(5), ..good.clone() };
    assert_eq!(refusal(&two, &one, &meant).await, "it looks for n5, this is n1");
    let first = identity(cluster, &authority, 1);
    assert!(refusal(&first, &one, &hello(&first, &one)).await.starts_with("both call themselves n1"));
    let mut versioned = good.encode();
    versioned[6] = 2;
    for (bytes, why) in [
        (frame(Kind::Hello, &versioned), "it speaks version 2 between nodes, this node 1; upgrade this node"),
        (frame(Kind::Hello, b"QRPEER"), "it sent something that cannot be read"),
        (frame(Kind::Raft, b""), "it did not begin with a hello"),
        (BytesMut::from(&[0, 0, 0, 0][..]), "it sent an empty frame"),
        (BytesMut::from(&[1, 0, 0, 0, 200][..]), "it sent a frame of unknown kind 200"),
        (BytesMut::from(&[0, 0, 16, 0, 1][..]), "it sent a frame of 1048576 bytes, more than is taken"),
    ] {
        let mut stream = shake(&two, &one).await.expect("TLS stands");
        let answer = say(&mut stream, &bytes).await.expect("an answer");
        assert_eq!((answer.kind, sentence(&answer.body)), (Kind::Refused, why.to_owned()));
        one.told.says(why).await;
    }
    assert!(one.told.told.lock().links.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_comes_on_a_link_that_is_not_right_ends_it_with_a_sentence_and_no_panic() {
    let who = identities(3);
    let one = Node::start(&who[0]).await;
    let two = Node::start(&who[1]).await;
    // The second is not to be found yet: found, it would dial the first, and its link take the place of the one here.
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nowhere = nobody.local_addr().expect("it listens");
    one.peers.set_directory(&directory_by(&[&one, &two], &two, nowhere));
    let raft = |from, to| frame(Kind::Raft, &raft(from, to, 1).encode());
    let mut garbage = vec![0x55; 3000];
    garbage[3] = 1;
    for (bytes, why) in [
        (raft(3, 1), "it sent a message in the name of n3"),
        (raft(2, 3), "it sent a message that is for n3"),
        (frame(Kind::Raft, b"\x01"), "shorter than its header"),
        (frame(Kind::Raft, b"\x09\0\0\0\0"), "of version 9"),
        (frame(Kind::Raft, b"\x01\0\0\0\0\xff\xff\xff"), "not of the schema"),
        (frame(Kind::Ping, b"short"), "cannot be read"),
        (frame(Kind::Ask, b"1"), "cannot be read"),
        (frame(Kind::Welcome, b""), "cannot be read"),
        (frame(Kind::SnapshotChunk, b"x"), "cannot be read"),
        (BytesMut::from(&[255, 255, 255, 255, 6][..]), "it sent a frame of 4294967295 bytes"),
        (BytesMut::from(&[0, 0, 0, 0][..]), "it sent an empty frame"),
        (BytesMut::from(&garbage[..]), "it sent a frame of unknown kind 85"),
    ] {
        let mut stream = shake(&who[1], &one).await.expect("TLS stands");
        let welcome = say(&mut stream, &frame(Kind::Hello, &hello(&who[1], &one).encode())).await.expect("an answer");
        assert_eq!(welcome.kind, Kind::Welcome);
        stream.write_all(&bytes).await.expect("it reads");
        stream.flush().await.expect("it reads");
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it closes");
        one.told.says(why).await;
        one.told.note(|told| told.sentences.clear());
        one.peers.0.shared.untell("n2");
    }
    assert!(one.told.told.lock().messages.is_empty());
    assert_eq!(one.limits.hits.of(Limit::peer_frame_bytes_max), 1);
    // And whoever does it right is heard after all that.
    one.peers.set_directory(&directory(&[&one, &two]));
    two.peers.set_directory(&directory(&[&one, &two]));
    two.told.is_up(1).await;
    assert!(two.send(&one, 4));
    one.told.until("it comes", |told| told.messages.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_left_is_cut_off_and_refused_however_good_its_certificate_is() {
    let who = identities(3);
    let (one, two) = (Node::start(&who[0]).await, Node::start(&who[1]).await);
    let both = directory(&[&one, &two]);
    one.peers.set_directory(&both);
    two.peers.set_directory(&both);
    one.told.is_up(2).await;
    two.told.is_up(1).await;
    one.peers.set_directory(&Directory { newest: 2, ..directory(&[&one]) });
    one.told.is_down(2).await;
    two.told.is_down(1).await;
    two.told.says("n2 has left the cluster").await;
    one.told.says("n2 has left the cluster").await;
    assert!(!one.send(&two, 1) && one.peers.links().is_empty());
    assert_eq!(refusal(&who[1], &one, &hello(&who[1], &one)).await, "n2 has left the cluster");
    assert_eq!(one.told.told.lock().links, [(2, true), (2, false)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_a_node_signed_for_itself_does_not_make_it_another_node() {
    let (cluster, authority) = founded();
    let who: Vec<Identity> = (1..=3).map(|node| identity(cluster, &authority, node)).collect();
    let (one, two) = (Node::start(&who[0]).await, Node::start(&who[1]).await);
    // The third holds the authority, as every node does, and signs itself the second's name.
    let forged = identity(cluster, &authority, 2);
    one.peers.set_directory(&directory(&[&one, &two]));
    assert_eq!(refusal(&forged, &one, &hello(&forged, &one)).await, "its key is not the one that n2 joined with");
    // And where it listens at the second's address nothing is sent to it.
    let false_two = Node::start(&forged).await;
    one.peers.set_directory(&directory_by(&[&one, &two], &two, false_two.address));
    one.told.says("its key is not the one that n2 joined with").await;
    assert!(false_two.told.told.lock().links.is_empty() && false_two.peers.links().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_was_given_to_another_node_is_noticed_before_anything_is_sent() {
    let who = identities(3);
    let (one, two, three) = (Node::start(&who[0]).await, Node::start(&who[1]).await, Node::start(&who[2]).await);
    one.peers.set_directory(&directory_by(&[&one, &two, &three], &two, three.address));
    one.told.says("its certificate is for another node").await;
    assert!(!one.send(&two, 1));
}
