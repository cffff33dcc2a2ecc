//! What a link promises while both ends are good: order, all or told, and that a break is noticed.

use super::super::{AskError, Message};
use super::*;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_of_both_kinds_keep_their_order_in_both_directions() {
    let (one, two) = two().await;
    for number in 0..10_000u64 {
        for (from, to) in [(&one, &two), (&two, &one)] {
            let long = if number % 1000 == 0 { 300_000 } else { (number % 50) as usize };
            let sent = match number % 3 {
                0 => from.send(to, number),
                _ => from
                    .peers
                    .send(to.id, Message::Forward([&number.to_le_bytes()[..], &vec![7; long]].concat().into())),
            };
            assert!(sent, "{number}");
        }
    }
    for node in [&one, &two] {
        node.told.until("all have come", |told| told.messages.len() >= 10_000).await;
        let told = node.told.told.lock();
        let of = |raft: bool| {
            let its = told.messages.iter().filter(move |(_, message)| matches!(message, Message::Raft(_)) == raft);
            its.map(|(_, message)| number(message))
        };
        assert!(of(true).eq((0..10_000).step_by(3)));
        assert!(of(false).eq((0..10_000).filter(|number| number % 3 != 0)));
        assert!(told.unreachable.is_empty() && told.links.len() == 1);
    }
    // Figures follow what they count.
    let counted = |link: &LinkStatus| link.messages_out >= 10_000 && link.messages_in >= 10_000;
    let wait = async {
        while !counted(&one.link(&two)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it is counted");
    let link = one.link(&two);
    assert!(link.out_up && link.in_up && link.up_for.is_some() && link.error.is_empty(), "{link:?}");
    assert!(link.bytes_in > 1_000_000 && link.queued_bytes == 0, "{link:?}");
    assert_eq!(link.address, two.address.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_answered_and_says_whether_it_was_sent_when_it_is_not() {
    let (one, two) = two().await;
    let ask = |text: &'static str| one.peers.ask(two.id, text.into(), PATIENCE);
    assert_eq!(ask("what?").await, Ok("n1: what?".into()));
    let many: Vec<_> = (0..200)
        .map(|_| {
            tokio::spawn({
                let peers = one.peers.clone();
                async move { peers.ask(NodeId(2), "x".into(), PATIENCE).await }
            })
        })
        .collect();
    for answer in many {
        assert_eq!(answer.await.expect("no panic"), Ok("n1: x".into()));
    }
    assert_eq!(one.peers.ask(NodeId(9), "x".into(), PATIENCE).await, Err(AskError::NotSent));
    // It is sent, and nobody answers.
    two.told.mute.store(true, Ordering::Relaxed);
    assert_eq!(one.peers.ask(two.id, "x".into(), Duration::from_millis(200)).await, Err(AskError::Unknown));
    let waits = tokio::spawn({
        let peers = one.peers.clone();
        async move { peers.ask(NodeId(2), "last".into(), PATIENCE).await }
    });
    two.told.until("it is asked", |told| told.asked.iter().any(|asked| asked == "last")).await;
    two.peers.stop();
    assert_eq!(waits.await.expect("no panic"), Err(AskError::Unknown));
    one.told.is_down(2).await;
    assert_eq!(ask("x").await, Err(AskError::NotSent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_other_side_dies_it_is_told_and_when_it_is_back_the_links_are_too() {
    let (one, two) = two().await;
    let (identity, address) = (two.identity.clone(), two.address);
    drop(two.peers);
    one.told.is_down(2).await;
    one.told.until("messages were lost", |told| told.unreachable.contains(&2)).await;
    assert!(!one.peers.send(NodeId(2), Message::Raft(raft(1, 2, 1))));
    let began = Instant::now();
    let two = loop {
        // The port may be busy for a moment.
        match TcpListener::bind(address).await {
            Ok(free) => {
                drop(free);
                break Node::start_at(&identity, address, quick()).await;
            }
            Err(_) if began.elapsed() < PATIENCE => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let directory = directory(&[&one, &two]);
    two.peers.set_directory(&directory);
    one.told.is_up(2).await;
    two.told.is_up(1).await;
    assert!(one.send(&two, 5) && two.send(&one, 6));
    two.told.until("it comes", |told| told.messages.len() == 1).await;
    one.told.until("it comes", |told| told.messages.len() == 1).await;
    assert!(one.link(&two).connects >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_swallows_everything_is_noticed_by_both_within_the_silence() {
    let who = identities(2);
    let (one, two) = (Node::start(&who[0]).await, Node::start(&who[1]).await);
    let way = Way::to(two.address).await;
    one.peers.set_directory(&directory_by(&[&one, &two], &two, way.address));
    two.peers.set_directory(&directory(&[&one, &two]));
    one.told.is_up(2).await;
    two.told.is_up(1).await;
    // Idle for longer than the silence: signs of life keep it up.
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(one.told.told.lock().links, [(2, true)]);
    assert!(one.link(&two).rtt.is_some());
    way.swallow(true);
    let began = Instant::now();
    one.told.is_down(2).await;
    two.told.is_down(1).await;
    // A second of silence, a ping, and what a busy machine needs.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(
        one.told
            .told
            .lock()
            .sentences
            .iter()
            .chain(&two.told.told.lock().sentences)
            .any(|said| said.contains("nothing was heard"))
    );
    way.swallow(false);
    one.told.is_up(2).await;
    two.told.is_up(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_message_on_a_slow_way_is_no_silence() {
    let who = identities(2);
    let settings = || Settings { silence: Duration::from_millis(400), ping: Duration::from_millis(50), ..quick() };
    let any = "127.0.0.1:0".parse().expect("an address");
    let (one, two) = (Node::start_at(&who[0], any, settings()).await, Node::start_at(&who[1], any, settings()).await);
    let way = Way::to(two.address).await;
    one.peers.set_directory(&directory_by(&[&one, &two], &two, way.address));
    two.peers.set_directory(&directory(&[&one, &two]));
    one.told.is_up(2).await;
    // Stop and go: the way is closed more than half of the time, never for as long as the silence.
    let swallow = way.swallow.clone();
    let slow = tokio::spawn(async move {
        loop {
            swallow.send_replace(true);
            tokio::time::sleep(Duration::from_millis(60)).await;
            swallow.send_replace(false);
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
    });
    let began = Instant::now();
    assert!(one.peers.send(two.id, Message::Forward(vec![1; 24 << 20].into())));
    two.told.until("it comes", |told| told.messages.len() == 1).await;
    slow.abort();
    assert_eq!(one.told.told.lock().links, [(2, true)], "after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_does_not_wait_for_all_the_answers_that_were_queued_before_it() {
    let who = identities(2);
    let (one, two) = (Node::start(&who[0]).await, Node::start(&who[1]).await);
    let way = Way::to(two.address).await;
    one.peers.set_directory(&directory_by(&[&one, &two], &two, way.address));
    two.peers.set_directory(&directory(&[&one, &two]));
    one.told.is_up(2).await;
    two.told.is_up(1).await;
    way.swallow(true);
    // As many as one lane takes; the other is still open.
    let answer = Message::Forward([&9u64.to_le_bytes()[..], &vec![7; 1 << 20]].concat().into());
    let queued = (0..200).take_while(|_| one.peers.send(two.id, answer.clone())).count();
    assert!(one.send(&two, 1) && one.send(&two, 2));
    way.swallow(false);
    two.told.until("all have come", |told| told.messages.len() == queued + 2).await;
    let told = two.told.told.lock();
    let at: Vec<usize> =
        (0..told.messages.len()).filter(|at| matches!(told.messages[*at].1, Message::Raft(_))).collect();
    // Before it is what the way and the kernel had taken already.
    assert!(at[1] == at[0] + 1 && at[0] + 32 < queued, "{at:?} of {queued}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_cut_a_pair_begins_anew_and_loses_nothing_in_between() {
    let who = identities(2);
    let (one, two) = (Node::start(&who[0]).await, Node::start(&who[1]).await);
    let (there, back) = (Way::to(two.address).await, Way::to(one.address).await);
    one.peers.set_directory(&directory_by(&[&one, &two], &two, there.address));
    two.peers.set_directory(&directory_by(&[&one, &two], &one, back.address));
    let mut rng = base::Rng::new(7);
    let mut number = 0u64;
    for round in 0..30 {
        one.told.is_up(2).await;
        two.told.is_up(1).await;
        let links = |node: &Node| node.told.told.lock().links.len();
        let before = (links(&one), links(&two));
        for _ in 0..rng.below(200) {
            for (from, to) in [(&one, &two), (&two, &one)] {
                // Not taken, or taken and heard, or the link is told to be down.
                from.peers.send(to.id, Message::Forward(number.to_le_bytes().to_vec().into()));
            }
            number += 1;
        }
        if rng.chance(1, 2) {
            tokio::time::sleep(Duration::from_millis(rng.below(5))).await;
        }
        match round % 3 {
            0 => there.cut(),
            1 => back.cut(),
            _ => {
                there.cut();
                back.cut();
            }
        }
        one.told.until("it is told", |told| told.links.len() > before.0).await;
        two.told.until("it is told", |told| told.links.len() > before.1).await;
    }
    one.told.is_up(2).await;
    two.told.is_up(1).await;
    for node in [&one, &two] {
        let told = node.told.told.lock();
        let numbers: Vec<u64> = told.messages.iter().map(|(_, message)| super::number(message)).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "never twice, never out of order");
        // What is missing is the end of a session: at most as many gaps as sessions.
        let gaps = numbers.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count();
        assert!(gaps <= told.links.len() / 2 + 1, "{gaps} gaps, {} sessions", told.links.len() / 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_newer_than_the_directory_may_send_the_log_and_nothing_else() {
    let who = identities(3);
    let (one, three) = (Node::start(&who[0]).await, Node::start(&who[2]).await);
    three.peers.set_directory(&directory(&[&one, &three]));
    // It knows nothing of the third node, and dials back where that says it is.
    one.peers.set_directory(&directory(&[&one]));
    let sent = async {
        while !three.send(&one, 7) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, sent).await.expect("its own link stands");
    one.told.until("it comes", |told| told.messages.len() == 1).await;
    let stands = async {
        while !(three.link(&one).in_up && one.link(&three).in_up) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, stands).await.expect("both links stand");
    assert!(
        !three.peers.send(one.id, Message::Forward("x".into()))
            && !one.peers.send(three.id, Message::Forward("x".into()))
    );
    assert!(one.told.told.lock().links.is_empty() && three.told.told.lock().links.is_empty());
    // The log has told of it: the links that stand are a pair now.
    one.peers.set_directory(&directory(&[&one, &three]));
    one.told.is_up(3).await;
    three.told.is_up(1).await;
    assert!(three.peers.send(one.id, Message::Forward(9u64.to_le_bytes().to_vec().into())));
    one.told.until("it comes", |told| told.messages.len() == 2).await;
    assert_eq!((one.link(&three).connects, three.link(&one).connects), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_moved_is_found_where_it_says_it_is() {
    let (one, two) = two().await;
    let identity = two.identity.clone();
    let old = two.place().1;
    drop(two.peers);
    one.told.is_down(2).await;
    // At another port, and the directory has not heard of it.
    let two = Node::start(&identity).await;
    let mut known = directory(&[&one, &two]);
    known.nodes.insert(two.id, old);
    two.peers.set_directory(&known);
    one.told.is_up(2).await;
    two.told.is_up(1).await;
    assert_eq!(one.link(&two).address, two.address.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_moved_at_once_find_each_other_by_the_word_of_a_third() {
    let who = identities(3);
    let (one, two, three) = (Node::start(&who[0]).await, Node::start(&who[1]).await, Node::start(&who[2]).await);
    // Neither of two and three has read where the other is now; both know one, and so tell it.
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    one.peers.set_directory(&directory(&[&one, &two, &three]));
    two.peers.set_directory(&directory_by(&[&one, &two, &three], &three, nobody));
    three.peers.set_directory(&directory_by(&[&one, &two, &three], &two, nobody));
    two.told.is_up(1).await;
    three.told.is_up(1).await;
    let known = one.peers.whereabouts();
    assert_eq!(known.keys().copied().collect::<Vec<_>>(), [two.id, three.id]);
    two.peers.hint(three.id, known[&three.id].clone());
    two.told.is_up(3).await;
    three.told.is_up(2).await;
}
