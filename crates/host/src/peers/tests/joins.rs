//! A new node: the token opens the door, and only that, and only in the cluster it is for.

use super::super::identity::joining_key;
use super::super::join::{JoinError, join};
use super::super::token::Token;
use super::*;

fn token(node: &Node) -> Token {
    let token = Token::create(node.identity.cluster, node.identity.authority.fingerprint()).expect("random bytes");
    *node.told.token.lock() = Some(token.hash());
    token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_the_token_becomes_a_node_and_speaks_as_one() {
    let one = Node::start(&identities(1)[0]).await;
    let token = Token::decode(&token(&one).encode()).expect("it is one");
    let scratch = Scratch::new();
    let key = joining_key(scratch.path()).expect("it can be written");
    let seeds = ["127.0.0.1:1".to_owned(), one.address.to_string()];
    let (identity, details) = join(&token, &seeds, &key, "zone a".into()).await.expect("it is let in");
    assert_eq!(
        (identity.node, identity.cluster, &details[..]),
        (NodeId(10), one.identity.cluster, &b"welcome, zone a"[..])
    );
    // It was interrupted, and asks again: the same.
    let key = joining_key(scratch.path()).expect("it is there");
    let (again, _) = join(&token, &seeds[1..], &key, "zone a".into()).await.expect("it is let in");
    assert_eq!((again.node, again.pin()), (identity.node, identity.pin()));
    again.store(scratch.path()).expect("it can be written");
    let stored = Identity::load(scratch.path()).expect("it is whole").expect("it is there");
    let ten = Node::start(&stored).await;
    let directory = directory(&[&one, &ten]);
    one.peers.set_directory(&directory);
    ten.peers.set_directory(&directory);
    one.told.is_up(10).await;
    ten.told.is_up(1).await;
    one.told.says("has joined the cluster as n10").await;
    // Every node can let others in: it has what that takes.
    *ten.told.token.lock() = Some(token.hash());
    let other = Key::create().expect("random bytes");
    let seeds = [ten.address.to_string()];
    let (third, _) = join(&token, &seeds, &other, Bytes::new()).await.expect("it is let in");
    assert_eq!(third.authority.fingerprint(), one.identity.authority.fingerprint());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_token_nobody_is_let_in_and_a_false_cluster_learns_no_secret() {
    let (one, other) = (Node::start(&identities(1)[0]).await, Node::start(&identities(1)[0]).await);
    let (good, key) = (token(&one), Key::create().expect("random bytes"));
    let at = |node: &Node| [node.address.to_string()];
    let used = Token { secret: [1; 32], ..good.clone() };
    let refused = join(&used, &at(&one), &key, Bytes::new()).await.expect_err("it is the wrong secret");
    let why = JoinError::Refused(format!("{}: this token has been used or withdrawn", one.address));
    assert_eq!(refused, why);
    one.told.says("may not join: this token has been used or withdrawn").await;
    // The address is another cluster's: the connection ends in TLS, before the secret is sent.
    let lost = join(&good, &at(&other), &key, Bytes::new()).await.expect_err("it is another cluster");
    assert!(matches!(&lost, JoinError::Unreachable(why) if why.contains("it belongs to another cluster")), "{lost}");
    assert!(other.told.joined.lock().is_empty());
    // Its own authority is shown, but for another cluster's name.
    let crossed = Token { cluster: other.identity.cluster, ..good.clone() };
    let lost = join(&crossed, &at(&one), &key, Bytes::new()).await.expect_err("the names differ");
    assert!(matches!(&lost, JoinError::Unreachable(_)), "{lost}");
    let nobody = join(&good, &[], &key, Bytes::new()).await.expect_err("nobody is asked");
    assert_eq!(nobody.to_string(), "the cluster cannot be reached: no address was given");
    let long = join(&good, &at(&one), &key, vec![0; 70_000].into()).await.expect_err("too long");
    assert!(matches!(long, JoinError::Refused(_)));
}
