//! The bounds that take other nodes to be hit; `quorate`'s and `doors`' lists leave them to this one.

use base::Limit;

use super::super::Message;
use super::super::pair::ASKS_MAX;
use super::*;

async fn wait_for(node: &Node, limit: Limit) {
    let wait = async {
        while node.limits.hits.of(limit) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{} is never counted", limit.name()));
}

async fn hit(limit: Limit) {
    match limit {
        Limit::peer_handshakes_max => {
            let one = Node::start(&identities(1)[0]).await;
            let mut held = Vec::new();
            for _ in 0..65 {
                held.push(TcpStream::connect(one.address).await.expect("it listens"));
            }
            wait_for(&one, limit).await;
            // Nobody is kept out by that: the oldest gave way.
            let mut closed = [0; 1];
            assert_eq!(held[0].read(&mut closed).await.expect("it closes"), 0);
        }
        Limit::peer_queue_bytes_max => {
            let who = identities(2);
            let (one, two) = (Node::start(&who[0]).await, Node::start(&who[1]).await);
            let way = Way::to(two.address).await;
            one.peers.set_directory(&directory_by(&[&one, &two], &two, way.address));
            two.peers.set_directory(&directory(&[&one, &two]));
            one.told.is_up(2).await;
            way.swallow(true);
            let message = Message::Forward(vec![0; 1 << 20].into());
            let taken = (0..200).take_while(|_| one.peers.send(two.id, message.clone())).count();
            // 64 of a MiB, and what the way and the kernel had taken before.
            assert!((64..190).contains(&taken), "{taken}");
            one.told.until("it is told", |told| told.unreachable.contains(&2)).await;
            wait_for(&one, limit).await;
        }
        Limit::peer_asks_max => {
            let (one, two) = two().await;
            two.told.mute.store(true, Ordering::Relaxed);
            let ask = || {
                let peers = one.peers.clone();
                tokio::spawn(async move { peers.ask(NodeId(2), "x".into(), PATIENCE).await })
            };
            let waiting: Vec<_> = (0..=ASKS_MAX).map(|_| ask()).collect();
            wait_for(&one, limit).await;
            waiting.iter().for_each(|waits| waits.abort());
        }
        Limit::peer_strangers_max => {
            let (cluster, authority) = founded();
            let one = Node::start(&identity(cluster, &authority, 1)).await;
            let hello = |node: u64| super::super::words::Hello {
                cluster,
                node: NodeId(node),
                to: NodeId(1),
                purpose: super::super::words::Purpose::Link,
                advertise: Vec::new(),
            };
            let shared = &one.peers.0.shared;
            assert!((2..66).all(|node| shared.admit(&hello(node), [0; 32]).is_ok()));
            assert!(shared.admit(&hello(66), [0; 32]).is_err());
            wait_for(&one, limit).await;
        }
        Limit::peer_joins_max => {
            let one = Node::start(&identities(1)[0]).await;
            let token = super::super::Token::create(one.identity.cluster, one.identity.authority.fingerprint());
            let token = token.expect("random bytes");
            let _all = one.peers.0.shared.joins.clone().acquire_many_owned(16).await.expect("they are there");
            let key = Key::create().expect("random bytes");
            let refused = super::super::join::join(&token, &[one.address.to_string()], &key, Bytes::new()).await;
            assert!(refused.expect_err("there is no place").to_string().contains("try again in a moment"));
            wait_for(&one, limit).await;
        }
        // `refused.rs` sends one.
        Limit::peer_frame_bytes_max => {}
        other => assert!(!other.name().starts_with("peer_"), "{} is hit here", other.name()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_other_nodes_can_hit_is_counted_when_it_is() {
    for limit in Limit::ALL {
        hit(*limit).await;
    }
}
