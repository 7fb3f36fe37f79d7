//! Channels: who gets which, who gets none, and who gets them back.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_tx::*;

/// A queue that does nothing but tell whether it is open.
struct Queue {
    open: Arc<AtomicI64>,
    /// Asked when it closes.
    closing: Option<Box<dyn Fn() + Send>>,
}

impl Drop for Queue {
    fn drop(&mut self) {
        if let Some(closing) = &self.closing {
            closing();
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Backend for Queue {
    fn name(&self) -> &str {
        "queue"
    }

    fn caps(&self) -> Caps {
        COPY
    }

    fn limits(&self, _: OpKind) -> Limits {
        Limits { sources_max: 3, ..Limits::NONE }
    }

    fn accepts(&self, op: &Op<'_>) -> bool {
        op.kind() == OpKind::Notify
    }

    fn fences(&self) -> Caps {
        COPY
    }

    fn batch(&self) -> usize {
        5
    }

    fn room(&self) -> usize {
        6
    }

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        ops.len()
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        done.push(Completion { token: OpToken(9), result: Err(Fault::Gone) });
    }

    fn abort(&mut self) {
        self.open.fetch_add(10, Ordering::SeqCst);
    }

    fn revive(&mut self, now: Nanos) -> Revival {
        if now == Nanos(1) { Revival::Ready } else { Revival::Failed }
    }

    fn relax(&mut self) {
        self.open.fetch_add(100, Ordering::SeqCst);
    }
}

const COPY: Caps = Caps::NONE.with(OpKind::Copy);
const CRC: Caps = Caps::NONE.with(OpKind::Crc32c);
const BOTH: Caps = COPY.with(OpKind::Crc32c);

fn spec(name: &str, caps: Caps, dedicated: bool) -> ChannelSpec {
    let open = Arc::new(AtomicI64::new(0));
    let opener: Opener = Arc::new(move || {
        open.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Queue { open: open.clone(), closing: None }))
    });
    ChannelSpec { name: name.to_owned(), caps, dedicated, opener }
}

fn shared(name: &str, caps: Caps) -> ChannelSpec {
    spec(name, caps, false)
}

fn dedicated(name: &str, caps: Caps) -> ChannelSpec {
    spec(name, caps, true)
}

fn device(name: &str, node: Option<u32>, channels: Vec<ChannelSpec>) -> DeviceSpec {
    DeviceSpec { name: name.to_owned(), node, private: false, channels }
}

fn private(name: &str, channels: Vec<ChannelSpec>) -> DeviceSpec {
    DeviceSpec { private: true, ..device(name, None, channels) }
}

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn registry<const N: usize>(devices: [DeviceSpec; N]) -> (Channels, [DeviceId; N]) {
    let channels = Channels::default();
    let ids = devices.map(|device| channels.register(device).unwrap());
    (channels, ids)
}

fn names(leases: &[Lease]) -> Vec<String> {
    leases.iter().map(|lease| format!("{}/{}", lease.info().device, lease.info().name)).collect()
}

fn ids(leases: &[Lease]) -> Vec<ChannelId> {
    leases.iter().map(Lease::id).collect()
}

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn usage(channels: &Channels, name: &str) -> Usage {
    channels.list().into_iter().find(|channel| &*channel.name == name).unwrap().usage
}

/// Does what a shard does: drops, and holds what it gets.
fn rebalance(channels: &Channels, caps: Caps, node: Option<u32>, held: &mut Vec<Lease>) -> (usize, usize) {
    let (drop, leases) = channels.rebalance(caps, node, &ids(held));
    let changes = (drop.len(), leases.len());
    held.retain(|lease| !drop.contains(&lease.id()));
    held.extend(leases);
    changes
}

// Allocation: a table of channels for each shard, nearest first, fewest users.

#[test]
fn each_shard_has_its_own_list_with_every_kind_served_and_every_channel_once() {
    let (channels, _) = registry([
        device("dsa0", None, vec![shared("a", BOTH), shared("b", COPY)]),
        device("dsa1", None, vec![shared("c", CRC)]),
    ]);
    assert_eq!(names(&channels.attach(BOTH, None)), ["dsa0/a"], "one that serves all, once");
    let both = channels.attach(COPY, None);
    assert_eq!(names(&both), ["dsa0/a"]);
    assert_eq!(names(&channels.attach(BOTH, None)), ["dsa0/b", "dsa1/c"], "the one of all has a user");
    let rest = channels.attach(BOTH.with(OpKind::Pq), None);
    assert_eq!(names(&rest), ["dsa0/b", "dsa1/c"], "what nobody takes, nobody serves");
    let (one_for_all, _) = registry([device("dsa0", None, vec![shared("a", COPY), shared("b", BOTH)])]);
    assert_eq!(names(&one_for_all.attach(BOTH, None)), ["dsa0/b"], "fewer channels rather than older ones");
    assert!(channels.attach(Caps::NONE, None).is_empty());
    assert!(channels.attach(Caps::NONE.with(OpKind::Notify), None).is_empty());
    assert!(channels.attach(Caps::NONE.with(OpKind::Xor), None).is_empty());
    assert!(Channels::default().attach(Caps::ALL, None).is_empty());
}

#[test]
fn shards_are_spread_over_the_channels_with_the_fewest_users() {
    let queues = ["a", "b", "c"].map(|name| shared(name, COPY));
    let (channels, _) = registry([device("dsa0", None, queues.to_vec())]);
    let mut shards: Vec<Vec<Lease>> = (0..7).map(|_| channels.attach(COPY, None)).collect();
    let users = |channels: &Channels| ["a", "b", "c"].map(|name| usage(channels, name));
    assert_eq!(users(&channels), [Usage::Public(3), Usage::Public(2), Usage::Public(2)]);
    // The first, fourth and seventh shard are on the first channel.
    shards.swap_remove(0);
    shards.swap_remove(3);
    assert_eq!(names(&channels.attach(COPY, None)), ["dsa0/a"]);
}

#[test]
fn the_nearest_node_comes_before_the_fewest_users() {
    let channels = Channels::new(Distances::new(vec![vec![10, 30, 21], vec![30, 10, 12], vec![21, 12, 10]]));
    for node in 0..3 {
        let name = format!("dsa{node}");
        channels.register(device(&name, Some(node), vec![shared("wq", COPY)])).unwrap();
    }
    let near: Vec<Vec<Lease>> = (0..4).map(|_| channels.attach(COPY, Some(1))).collect();
    assert!(near.iter().all(|leases| names(leases) == ["dsa1/wq"] && leases[0].is_near()));
    let gone = channels.list()[1].device_id;
    channels.unregister(gone);
    let far = channels.attach(COPY, Some(1));
    assert_eq!(names(&far), ["dsa2/wq"], "the nearest of the others");
    assert!(!far[0].is_near());
    assert_eq!(names(&channels.attach(COPY, Some(0))), ["dsa0/wq"]);
    assert_eq!(names(&channels.attach(COPY, None)), ["dsa0/wq"], "no node is local everywhere");
    assert!(channels.attach(COPY, None)[0].is_near());
}

#[test]
fn a_nearer_channel_serves_a_kind_that_a_farther_one_serves_too() {
    let (channels, _) = registry([
        device("far", Some(1), vec![shared("all", BOTH)]),
        device("near", Some(0), vec![shared("crc", CRC)]),
    ]);
    assert_eq!(names(&channels.attach(BOTH, Some(0))), ["far/all", "near/crc"]);
    assert_eq!(names(&channels.attach(BOTH, Some(1))), ["far/all"]);
}

#[test]
fn a_dedicated_queue_has_one_public_user_and_a_shared_one_any_number() {
    let (channels, _) = registry([device("dsa0", None, vec![dedicated("d", COPY), shared("s", COPY)])]);
    let first = channels.attach(COPY, None);
    assert_eq!(names(&first), ["dsa0/d"]);
    let others: Vec<_> = (0..5).map(|_| channels.attach(COPY, None)).collect();
    assert!(others.iter().all(|leases| names(leases) == ["dsa0/s"]));
    assert_eq!((usage(&channels, "d"), usage(&channels, "s")), (Usage::Public(1), Usage::Public(5)));
    let before = channels.generation();
    drop(first);
    assert_ne!(channels.generation(), before, "who has none may want it");
    assert_eq!(names(&channels.attach(COPY, None)), ["dsa0/d"]);
}

#[test]
fn distances_are_those_of_the_table_and_local_if_nothing_is_known() {
    let table = Distances::new(vec![vec![10, 21]]);
    assert_eq!(table.between(Some(0), Some(1)), 21);
    assert_eq!(table.between(Some(1), Some(0)), Distances::REMOTE);
    assert_eq!(table.between(Some(7), Some(7)), Distances::LOCAL);
    assert_eq!(table.between(Some(u32::MAX), Some(0)), Distances::REMOTE);
    assert_eq!(table.between(None, Some(1)), Distances::LOCAL);
    assert_eq!(table.between(Some(1), None), Distances::LOCAL);
}

// Rebalancing at hot-plug.

#[test]
fn a_channel_that_comes_is_used_after_a_rebalance() {
    let (channels, _) = registry([device("dsa1", Some(1), vec![shared("wq", COPY)])]);
    let mut held = channels.attach(COPY, Some(0));
    let before = channels.generation();
    assert_eq!(rebalance(&channels, COPY, Some(0), &mut held), (0, 0), "nothing new, nothing to do");
    assert_eq!(channels.generation(), before, "to look changes nothing");
    channels.register(device("dsa0", Some(0), vec![shared("wq", COPY)])).unwrap();
    assert_ne!(channels.generation(), before);
    assert_eq!(rebalance(&channels, COPY, Some(0), &mut held), (1, 1));
    assert_eq!(names(&held), ["dsa0/wq"], "the near one");
    assert_eq!(rebalance(&channels, COPY, Some(0), &mut held), (0, 0));
}

#[test]
fn a_busy_channel_is_left_for_an_idle_one_but_not_for_its_equal() {
    let (channels, _) = registry([device("dsa0", None, vec![shared("a", COPY)])]);
    let mut shards: Vec<Vec<Lease>> = (0..4).map(|_| channels.attach(COPY, None)).collect();
    channels.register(device("dsa1", None, vec![shared("b", COPY)])).unwrap();
    for held in &mut shards {
        rebalance(&channels, COPY, None, held);
    }
    assert_eq!((usage(&channels, "a"), usage(&channels, "b")), (Usage::Public(2), Usage::Public(2)));
    for held in &mut shards {
        assert_eq!(rebalance(&channels, COPY, None, held), (0, 0), "balanced");
    }
}

/// The device is gone when its last user is, who is told at its next rebalance.
#[test]
fn a_device_that_goes_is_drained_and_stays_while_it_has_users() {
    let (channels, [first, _]) = registry([
        device("dsa0", None, vec![shared("a", COPY), shared("b", COPY)]),
        device("dsa1", None, vec![shared("c", CRC)]),
    ]);
    let mut held = channels.attach(BOTH, None);
    assert_eq!(names(&held), ["dsa0/a", "dsa1/c"]);
    let before = channels.generation();
    assert_eq!(channels.unregister(first), 1);
    assert_ne!(channels.generation(), before);
    let list = channels.list();
    assert_eq!(list.len(), 2, "the one without users is gone");
    assert!(list[0].leaving && !list[1].leaving);
    assert!(channels.attach(COPY, None).is_empty(), "nobody new gets it");
    assert!(channels.request_channel(COPY, |_| true).is_none());
    channels.register(device("dsa0", None, vec![shared("a", COPY)])).unwrap();
    assert_eq!(channels.unregister(first), 1, "to say it again does no harm");
    assert_eq!(rebalance(&channels, BOTH, None, &mut held), (1, 1));
    assert_eq!(names(&held), ["dsa1/c", "dsa0/a"]);
    assert!(channels.list().iter().all(|channel| !channel.leaving), "its last user was this one");
    assert_eq!(channels.unregister(first), 0);

    let (channels, [id]) = registry([device("dsa0", None, vec![shared("a", COPY)])]);
    let [one, two] = [channels.attach(COPY, None), channels.attach(COPY, None)];
    assert_eq!(channels.unregister(id), 2);
    drop(one);
    assert_eq!(channels.list().len(), 1, "the second user has it still");
    drop(two);
    assert!(channels.list().is_empty());
}

#[test]
fn the_plan_is_a_pure_function_of_what_there_is() {
    let (channels, _) = registry([
        device("near", Some(0), vec![shared("a", COPY), dedicated("b", COPY)]),
        device("far", Some(1), vec![shared("c", BOTH)]),
    ]);
    let list = channels.list();
    let [a, b, c] = [0, 1, 2].map(|i| list[i].id);
    let plan = |list: &[ChannelInfo], caps, held: &[ChannelId]| {
        plan_channels(list, &Distances::default(), caps, Some(0), held)
    };
    let with = |at: usize, change: &dyn Fn(&mut ChannelInfo)| {
        let mut list = list.clone();
        change(&mut list[at]);
        list
    };
    let expect = |drop: &[ChannelId], attach: &[ChannelId]| ChannelPlan {
        drop: drop.to_vec(),
        attach: attach.to_vec(),
    };
    assert_eq!(plan(&list, COPY, &[]), expect(&[], &[a]));
    assert_eq!(plan(&list, BOTH, &[]), expect(&[], &[a, c]));
    assert_eq!(plan(&list, CRC, &[]), expect(&[], &[c]));
    let mine = with(1, &|b| b.usage = Usage::Public(1));
    assert_eq!(plan(&mine, COPY, &[b]), expect(&[], &[]), "its equal is no reason to move");
    assert_eq!(plan(&mine, COPY, &[]), expect(&[], &[a]), "dedicated to another");
    assert_eq!(plan(&with(0, &|a| a.usage = Usage::Public(1)), COPY, &[]), expect(&[], &[b]));
    for change in [
        &|a: &mut ChannelInfo| a.usage = Usage::Exclusive,
        &|a: &mut ChannelInfo| a.private = true,
        &|a: &mut ChannelInfo| a.leaving = true,
        &|a: &mut ChannelInfo| a.broken = Some("broken".into()),
    ] as [&dyn Fn(&mut ChannelInfo); 4]
    {
        assert_eq!(plan(&with(0, change), COPY, &[]), expect(&[], &[b]));
    }
    let broken = with(0, &|a| (a.broken, a.usage) = (Some("broken".into()), Usage::Public(1)));
    assert_eq!(plan(&broken, COPY, &[a]), expect(&[], &[]), "it is open here; it broke for another");
    let leaves = with(0, &|a| (a.leaving, a.usage) = (true, Usage::Public(1)));
    assert_eq!(plan(&leaves, COPY, &[a, c]), expect(&[a, c], &[b]));
    assert_eq!(plan(&list, Caps::NONE, &[a, b]), expect(&[a, b], &[]));
    assert_eq!(plan(&[], BOTH, &[a]), expect(&[a], &[]), "what is not there any more");
}

/// Random machines and shards: what holds of every plan, and that rebalancing comes to rest.
#[test]
fn random_shards_are_served_by_the_nearest_and_come_to_rest() {
    let seed = 0xc0ff_ee11_u64;
    println!("seed {seed:#x}");
    let mut state = seed;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..300 {
        let channels = Channels::default();
        let mut devices = Vec::new();
        let mut shards: Vec<(Caps, Option<u32>, Vec<Lease>)> = (0..1 + random(5))
            .map(|_| {
                let kinds = OpKind::ALL[1..7].iter();
                let caps =
                    kinds.fold(Caps::NONE, |caps, kind| if random(3) > 0 { caps.with(*kind) } else { caps });
                (caps, (random(4) > 0).then(|| random(3) as u32), Vec::new())
            })
            .collect();
        for step in 0..12 {
            if random(4) > 0 || devices.is_empty() {
                let queues = (0..1 + random(3)).map(|i| {
                    let kinds = OpKind::ALL[1..7].iter();
                    let caps =
                        kinds.fold(Caps::NONE, |c, kind| if random(2) > 0 { c.with(*kind) } else { c });
                    spec(&format!("wq{i}"), caps, random(3) == 0)
                });
                let queues = queues.collect();
                let node = (random(4) > 0).then(|| random(3) as u32);
                let private = random(5) == 0;
                let name = format!("dsa{step}");
                let spec = DeviceSpec { private, ..device(&name, node, queues) };
                devices.push(channels.register(spec).unwrap());
            } else {
                let at = random(devices.len() as u64) as usize;
                channels.unregister(devices.swap_remove(at));
            }
            let mut turns = 0;
            loop {
                let mut changes = 0;
                for (caps, node, held) in &mut shards {
                    let (dropped, attached) = rebalance(&channels, *caps, *node, held);
                    changes += dropped + attached;
                    check_served(&channels, *caps, *node, held);
                }
                if changes == 0 {
                    break;
                }
                turns += 1;
                assert!(turns < 30, "it does not come to rest");
            }
            let users = |id| shards.iter().filter(|(_, _, held)| ids(held).contains(&id)).count();
            for channel in channels.list() {
                assert_eq!(channel.usage, Usage::Public(users(channel.id)), "counted right");
                assert!(!channel.leaving, "everybody has left it");
            }
        }
    }
}

/// Slow and obvious: for each kind, no open channel is nearer than one that is held.
fn check_served(channels: &Channels, caps: Caps, node: Option<u32>, held: &[Lease]) {
    let held = ids(held);
    let distance = |channel: &ChannelInfo| match (node, channel.node) {
        (Some(a), Some(b)) if a != b => 20,
        _ => 10,
    };
    let list = channels.list();
    let mine = || list.iter().filter(|channel| held.contains(&channel.id));
    assert!(mine().all(|channel| !channel.private && !channel.leaving));
    assert!(mine().all(|channel| !channel.dedicated || channel.usage == Usage::Public(1)));
    assert_eq!(mine().count(), held.len(), "every channel once");
    for kind in OpKind::ALL[1..].iter().filter(|kind| caps.has(**kind)) {
        let open = list.iter().filter(|channel| {
            let free = channel.usage == Usage::Public(0) || !channel.dedicated || held.contains(&channel.id);
            channel.caps.has(*kind) && !channel.private && !channel.leaving && free
        });
        let nearest = open.map(distance).min();
        let served = mine().filter(|channel| channel.caps.has(*kind)).map(distance).min();
        assert_eq!(served, nearest, "{kind:?}");
    }
    assert!(
        mine().all(|channel| OpKind::ALL[1..].iter().any(|kind| caps.has(*kind) && channel.caps.has(*kind)))
    );
}

// Exclusive channels.

#[test]
fn the_filter_sees_each_free_channel_with_the_capabilities_once() {
    let (channels, _) = registry([
        device("dsa0", None, vec![shared("copy", COPY), shared("used", BOTH), shared("a", BOTH)]),
        private("dsa1", vec![dedicated("p", BOTH)]),
        device("dsa2", None, vec![dedicated("b", BOTH), shared("taken", BOTH)]),
    ]);
    let named = |name: &'static str| move |channel: &ChannelInfo| &*channel.name == name;
    let _taken = channels.request_channel(BOTH, named("taken")).unwrap();
    let _copy = channels.attach(COPY, None);
    let _used = channels.attach(CRC, None);
    assert_eq!(usage(&channels, "used"), Usage::Public(1));
    let mut seen = Vec::new();
    let none = channels.request_channel(BOTH, |channel| {
        seen.push(channel.name.to_string());
        false
    });
    assert!(none.is_none());
    assert_eq!(seen, ["p", "a", "b"], "the private one first, then as they were registered");
    seen.clear();
    let second = channels.request_channel(BOTH, |channel| {
        seen.push(channel.name.to_string());
        seen.len() == 2
    });
    assert_eq!((names(&[second.unwrap()]), seen.len()), (vec!["dsa0/a".to_owned()], 2), "it stops there");
    assert_eq!(names(&[channels.request_channel(BOTH, |_| true).unwrap()]), ["dsa1/p"]);
    assert!(channels.request_channel(BOTH.with(OpKind::Pq), |_| true).is_none());
}

/// No lock is held, so a filter may ask the registry.
#[test]
fn a_filter_may_use_the_registry() {
    let (channels, _) = registry([device("dsa0", None, vec![shared("a", COPY), shared("b", COPY)])]);
    let mut stolen = None;
    let lease = channels.request_channel(COPY, |channel| {
        if stolen.is_none() {
            stolen = channels.request_channel(COPY, |other| other.id == channel.id);
        }
        true
    });
    assert_eq!(
        (names(&[stolen.unwrap()]), names(&[lease.unwrap()])),
        (vec!["dsa0/a".into()], vec!["dsa0/b".into()])
    );
}

#[test]
fn an_exclusive_channel_is_the_callers_until_it_is_released() {
    let (channels, _) = registry([device("dsa0", None, vec![shared("a", COPY)])]);
    let mut held = channels.attach(COPY, None);
    assert!(channels.request_channel(COPY, |_| true).is_none(), "a public user has it");
    held.clear();
    let before = channels.generation();
    let lease = channels.request_channel(COPY, |_| true).unwrap();
    assert!(lease.is_near());
    assert_eq!(usage(&channels, "a"), Usage::Exclusive);
    assert_ne!(channels.generation(), before);
    assert!(channels.request_channel(COPY, |_| true).is_none());
    assert!(channels.attach(COPY, None).is_empty());
    let before = channels.generation();
    let backend = lease.open().unwrap();
    assert!(channels.attach(COPY, None).is_empty(), "open, it is the caller's still");
    drop(backend);
    assert_ne!(channels.generation(), before, "shards look again");
    assert_eq!(rebalance(&channels, COPY, None, &mut held), (0, 1));
}

#[test]
fn a_private_device_is_never_used_by_the_public_allocator() {
    let (channels, _) = registry([private("dsa0", vec![shared("a", COPY), shared("b", COPY)])]);
    assert!(channels.attach(COPY, None).is_empty());
    let lease = channels.request_channel(COPY, |_| true).unwrap();
    assert!(lease.info().private);
    drop(lease);
    assert!(channels.attach(COPY, None).is_empty(), "it stays private");
    assert!(channels.request_channel(COPY, |_| true).is_some());
}

/// The original: once privately allocated, a channel is not public again even after its release. Here it is.
#[test]
fn first_caveat_improved_a_released_channel_is_public_again() {
    let (channels, _) = registry([device("dsa0", None, vec![shared("a", COPY)])]);
    drop(channels.request_channel(COPY, |_| true).unwrap());
    assert_eq!(names(&channels.attach(COPY, None)), ["dsa0/a"]);
}

/// The original: the channels of a device are all public or all private. Here each is by itself.
#[test]
fn second_caveat_improved_the_other_channels_of_the_device_stay_public() {
    let (channels, _) = registry([device("dsa0", None, vec![shared("a", COPY), shared("b", COPY)])]);
    let exclusive = channels.request_channel(COPY, |channel| &*channel.name == "a").unwrap();
    let public = channels.attach(COPY, None);
    assert_eq!((names(&[exclusive]), names(&public)), (vec!["dsa0/a".into()], vec!["dsa0/b".into()]));
}

// Opening and closing.

#[test]
fn a_backend_holds_its_channel_until_it_has_been_dropped() {
    let channels = Channels::default();
    let open = Arc::new(AtomicI64::new(0));
    let at_close = Arc::new(Mutex::new(Vec::new()));
    let opener: Opener = {
        let (channels, open, at_close) = (channels.clone(), open.clone(), at_close.clone());
        Arc::new(move || {
            open.fetch_add(1, Ordering::SeqCst);
            let (channels, at_close) = (channels.clone(), at_close.clone());
            let closing = move || at_close.lock().unwrap().push(channels.list()[0].usage);
            Ok(Box::new(Queue { open: open.clone(), closing: Some(Box::new(closing)) }))
        })
    };
    let spec = ChannelSpec { name: "wq".into(), caps: COPY, dedicated: true, opener };
    assert!(format!("{spec:?}").contains("wq"));
    channels.register(device("dsa0", None, vec![spec])).unwrap();
    let lease = channels.attach(COPY, None).remove(0);
    assert_eq!((lease.info().caps, open.load(Ordering::SeqCst)), (COPY, 0), "not open yet");
    let mut backend = lease.open().unwrap();
    assert_eq!(open.load(Ordering::SeqCst), 1);

    // It is the queue, with the lease beside it.
    assert_eq!((backend.name(), backend.batch(), backend.room()), ("queue", 5, 6));
    assert_eq!((backend.caps(), backend.fences(), backend.limits(OpKind::Copy).sources_max), (COPY, COPY, 3));
    assert!(backend.accepts(&Op::Notify));
    assert_eq!(backend.submit(&[]), 0);
    let mut done = Vec::new();
    backend.reap(&mut done);
    assert_eq!(done.len(), 1);
    assert_eq!((backend.revive(Nanos(1)), backend.revive(Nanos(2))), (Revival::Ready, Revival::Failed));
    backend.abort();
    backend.relax();
    assert_eq!(open.swap(1, Ordering::SeqCst), 111);

    drop(backend);
    assert_eq!(open.load(Ordering::SeqCst), 0);
    assert_eq!(
        *at_close.lock().unwrap(),
        [Usage::Public(1)],
        "the queue was closed before it was given back"
    );
    assert_eq!(usage(&channels, "wq"), Usage::Public(0));
}

#[test]
fn a_channel_that_does_not_open_is_not_given_out_until_forgiven() {
    let channels = Channels::default();
    let works = Arc::new(AtomicBool::new(false));
    let opener: Opener = {
        let works = works.clone();
        Arc::new(move || match works.load(Ordering::SeqCst) {
            true => Ok(Box::new(Queue { open: Arc::default(), closing: None })),
            false => Err("permission denied".to_owned()),
        })
    };
    let broken = ChannelSpec { name: "a".into(), caps: COPY, dedicated: true, opener };
    channels.register(device("dsa0", None, vec![broken, shared("b", COPY)])).unwrap();
    let mut held = channels.attach(COPY, None);
    let error = held.remove(0).open().err().unwrap();
    assert_eq!(error.to_string(), "channel a of device dsa0 does not open: permission denied");
    assert_eq!(channels.list()[0].broken.as_deref(), Some("permission denied"));
    assert_eq!(usage(&channels, "a"), Usage::Public(0), "given back");
    assert_eq!(rebalance(&channels, COPY, None, &mut held), (0, 1));
    assert_eq!(names(&held), ["dsa0/b"]);
    assert!(channels.request_channel(COPY, |_| true).is_none());
    works.store(true, Ordering::SeqCst);
    let before = channels.generation();
    channels.forgive();
    assert_ne!(channels.generation(), before);
    assert!(channels.attach(COPY, None).remove(0).open().is_ok());
}

#[test]
fn names_are_unique() {
    let (channels, [id]) = registry([device("dsa0", None, vec![shared("a", COPY)])]);
    let taken = channels.register(device("dsa0", None, vec![]));
    assert_eq!(taken, Err(RegisterError::Device { device: "dsa0".into() }));
    let twice = channels.register(device("dsa1", None, vec![shared("a", COPY), shared("a", CRC)]));
    assert_eq!(twice, Err(RegisterError::Channel { device: "dsa1".into(), channel: "a".into() }));
    assert_eq!(channels.list().len(), 1, "as it was");
    channels.unregister(id);
    assert_ne!(channels.register(device("dsa0", None, vec![])), Ok(id), "ids are not used again");
}

// All at once.

/// Who has a channel, as its users see it.
#[derive(Default)]
struct Users {
    count: AtomicI64,
    exclusive: AtomicBool,
}

/// Threads attach, rebalance, request, release and plug at random; nobody ever shares what is exclusive or
/// dedicated, and in the end everything is back.
#[test]
fn threads_never_share_what_is_exclusive() {
    let seed = 0x5eed_0003_u64;
    println!("seed {seed:#x}");
    let channels = Channels::default();
    let users: Arc<Mutex<std::collections::HashMap<ChannelId, Arc<Users>>>> = Arc::default();
    for i in 0..3 {
        let queues = vec![dedicated("d", BOTH), shared("s", COPY), shared("t", CRC)];
        let name = format!("fixed{i}");
        channels.register(DeviceSpec { private: i == 2, ..device(&name, Some(i), queues) }).unwrap();
    }
    let exclusive = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..6_u64 {
            let (channels, users, exclusive) = (channels.clone(), users.clone(), &exclusive);
            scope.spawn(move || {
                let mut state = seed + thread * 0x9e37_79b9;
                let mut random = move |below: u64| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state % below
                };
                let of = |lease: &Lease| users.lock().unwrap().entry(lease.id()).or_default().clone();
                let enter = |lease: &Lease| {
                    let users = of(lease);
                    let others = users.count.fetch_add(1, Ordering::SeqCst);
                    assert!(others == 0 || !lease.info().dedicated, "dedicated, and shared");
                    assert!(!users.exclusive.load(Ordering::SeqCst), "somebody's alone");
                };
                let leave = |lease: &Lease| {
                    of(lease).count.fetch_sub(1, Ordering::SeqCst);
                };
                let node = Some(thread as u32 % 2);
                let mut held: Vec<Lease> = Vec::new();
                let mut plugged = None;
                for round in 0..400 {
                    match random(4) {
                        0 => {
                            let (drop, leases) = channels.rebalance(BOTH, node, &ids(&held));
                            leases.iter().for_each(enter);
                            held.retain(|lease| {
                                let keep = !drop.contains(&lease.id());
                                if !keep {
                                    leave(lease);
                                }
                                keep
                            });
                            held.extend(leases);
                        }
                        1 => {
                            held.iter().for_each(leave);
                            held.clear();
                        }
                        2 => {
                            let skip = random(3);
                            let mut seen = 0;
                            let lease = channels.request_channel(COPY, |_| {
                                seen += 1;
                                seen > skip
                            });
                            if let Some(lease) = lease {
                                enter(&lease);
                                let users = of(&lease);
                                users.exclusive.store(true, Ordering::SeqCst);
                                let backend = lease.open().unwrap();
                                std::thread::yield_now();
                                assert_eq!(users.count.load(Ordering::SeqCst), 1, "it is the only one");
                                users.exclusive.store(false, Ordering::SeqCst);
                                users.count.fetch_sub(1, Ordering::SeqCst);
                                exclusive.fetch_add(1, Ordering::SeqCst);
                                drop(backend);
                            }
                        }
                        _ => match plugged.take() {
                            Some(id) => {
                                channels.unregister(id);
                            }
                            None => {
                                let queues = vec![dedicated("d", COPY), shared("s", BOTH)];
                                let name = format!("plugged{thread}.{round}");
                                plugged = channels.register(device(&name, node, queues)).ok();
                            }
                        },
                    }
                }
                held.iter().for_each(leave);
                drop(held);
                if let Some(id) = plugged {
                    channels.unregister(id);
                }
            });
        }
    });
    assert!(exclusive.load(Ordering::SeqCst) > 20, "exclusive channels were had at times");
    let list = channels.list();
    assert_eq!(list.len(), 9, "all that was plugged is gone: {list:?}");
    assert!(list.iter().all(|channel| channel.is_free()), "everything is back: {list:?}");
}
