//! Rows 42 to 57: channels and capabilities.

use std::sync::Arc;

use async_tx::*;

use crate::support::{Blocks, Desk, chain, cpu, poll, q_of};

const COPY: Caps = Caps::NONE.with(OpKind::Copy);
const CRC: Caps = Caps::NONE.with(OpKind::Crc32c);

fn copy(blocks: &Blocks, from: usize, to: usize) -> Op<'static> {
    Op::Copy { src: blocks.at(from), dst: blocks.at(to) }
}

/// A device of shared channels, each of which is opened as the backend of `desk`.
fn device_of(desk: &Desk, name: &str, node: Option<u32>, channels: &[(&str, Caps)]) -> DeviceSpec {
    let channel = |(name, caps): &(&str, Caps)| {
        let desk = desk.clone();
        let opener: Opener = Arc::new(move || Ok(desk.backend()));
        ChannelSpec { name: (*name).to_owned(), caps: *caps, dedicated: false, opener }
    };
    let channels = channels.iter().map(channel).collect();
    DeviceSpec { name: name.to_owned(), node, private: false, channels }
}

fn device(name: &str, node: Option<u32>, channels: &[(&str, Caps)]) -> DeviceSpec {
    device_of(&Desk::of_copies(), name, node, channels)
}

fn names(leases: &[Lease]) -> Vec<String> {
    leases.iter().map(|lease| lease.info().name.to_string()).collect()
}

#[test]
fn c42_capabilities_are_a_set_of_kinds() {
    let caps = COPY.with(OpKind::Fill);
    assert!(caps.has(OpKind::Copy) && !caps.has(OpKind::Xor));
    assert!(caps.covers(COPY) && !COPY.covers(caps) && Caps::ALL.covers(caps));
    assert_eq!((caps.without(OpKind::Fill), caps.and(CRC)), (COPY, Caps::NONE));
    // One bit a kind, and a word for each.
    for kind in OpKind::ALL {
        assert_eq!(OpKind::from_word(kind.word()), Some(kind));
        assert!(Caps::NONE.with(kind).has(kind));
    }
}

#[test]
fn c43_where_one_backend_takes_everything_a_chain_never_switches() {
    let (blocks, desk) = (Blocks::new(4), Desk::of(&OpKind::ALL));
    let mut engine = desk.engine();
    let srcs = [blocks.at(0), blocks.at(1)];
    let xor = Op::Xor { srcs: &srcs, dst: blocks.at(2), mode: XorMode::Overwrite };
    engine.submit(chain(&[xor, copy(&blocks, 2, 3), Op::XorVal { srcs: &srcs[..1] }]), 1);
    while engine.in_flight() > 0 {
        desk.complete_all();
        engine.poll(&mut Vec::new());
    }
    let stats = engine.stats();
    assert_eq!((stats.cpu_ops, stats.backends[0].completed), (0, 3));
    assert_eq!(blocks.bytes(3), blocks.sum(&[0, 1]));
}

#[test]
fn c44_each_shard_has_channels_of_its_own_to_look_at() {
    let channels = Channels::default();
    channels.register(device("dsa0", None, &[("wq0", COPY), ("wq1", CRC)])).unwrap();
    // To route is to look at what the shard's own engine holds: the registry, and its lock, are out of it.
    let shards = [channels.attach(COPY.with(OpKind::Crc32c), None), channels.attach(COPY, None)];
    assert_eq!(shards.each_ref().map(|leases| names(leases)), [vec!["wq0", "wq1"], vec!["wq0"]]);
    let blocks = Blocks::new(2);
    let mut engine = cpu().with_backend(shards.into_iter().flatten().last().unwrap().open().unwrap());
    engine.submit(chain(&[copy(&blocks, 0, 1)]), 1);
    assert_eq!(engine.stats().backends[0].submitted, 1);
}

#[test]
fn c45_the_nearest_come_first_and_hot_plug_rebalances() {
    let channels = Channels::new(Distances::default());
    channels.register(device("far", Some(1), &[("far", COPY)])).unwrap();
    let held = channels.attach(COPY, Some(0));
    assert_eq!(names(&held), ["far"], "there is nothing nearer");
    let before = channels.generation();
    channels.register(device("near", Some(0), &[("near", COPY)])).unwrap();
    assert_ne!(channels.generation(), before, "shards see that they should look again");
    let ids: Vec<ChannelId> = held.iter().map(Lease::id).collect();
    let (to_drop, to_add) = channels.rebalance(COPY, Some(0), &ids);
    assert_eq!((to_drop, names(&to_add)), (ids, vec!["near".to_owned()]));
}

#[test]
fn c46_a_channel_that_was_requested_is_the_callers_alone() {
    let channels = Channels::default();
    channels.register(device("dsa0", None, &[("wq0", COPY), ("wq1", COPY), ("wq2", CRC)])).unwrap();
    let mut seen = Vec::new();
    let lease = channels.request_channel(COPY, |channel| {
        seen.push(channel.name.to_string());
        &*channel.name == "wq1"
    });
    let lease = lease.unwrap();
    assert_eq!((seen, &*lease.info().name), (vec!["wq0".to_owned(), "wq1".to_owned()], "wq1"));
    assert!(channels.request_channel(COPY, |channel| &*channel.name == "wq1").is_none());
    assert_eq!(names(&channels.attach(COPY, None)), ["wq0"]);
}

#[test]
fn c47_private_stays_private_and_both_caveats_are_improved_on() {
    let channels = Channels::default();
    let private = DeviceSpec { private: true, ..device("dsa0", None, &[("p0", COPY)]) };
    channels.register(private).unwrap();
    assert!(channels.attach(COPY, None).is_empty(), "a private device is for those who request it");
    assert!(channels.request_channel(COPY, |_| true).is_some());
    assert!(channels.attach(COPY, None).is_empty(), "also after that");
    channels.register(device("dsa1", None, &[("q0", COPY), ("q1", COPY)])).unwrap();
    let lease = channels.request_channel(COPY, |channel| &*channel.name == "q0").unwrap();
    // There, one exclusive channel makes the whole device private; here, the others stay public.
    assert_eq!(names(&channels.attach(COPY, None)), ["q1"]);
    // There, what was released stays private; here, it is public again.
    drop(lease);
    assert!(channels.list().iter().any(|channel| &*channel.name == "q0" && channel.is_free()));
}

#[test]
fn c48_a_channel_goes_when_its_users_have_let_go_of_it() {
    let (channels, desk, blocks) = (Channels::default(), Desk::of_copies(), Blocks::new(2));
    let id = channels.register(device_of(&desk, "dsa0", None, &[("wq0", COPY)])).unwrap();
    let mut engine = cpu().with_backend(channels.attach(COPY, None).remove(0).open().unwrap());
    let name = engine.stats().backends[0].name.clone();
    engine.submit(chain(&[copy(&blocks, 0, 1)]), 1);
    assert_eq!(channels.unregister(id), 1, "one user");
    assert!(channels.attach(COPY, None).is_empty(), "nobody gets it any more");
    assert!(engine.remove_backend(&name));
    poll(&mut engine);
    assert_eq!((desk.state().dropped, channels.list().len()), (false, 1), "it is drained first");
    desk.complete(0);
    poll(&mut engine);
    assert_eq!((desk.state().dropped, channels.list().len()), (true, 0));
}

#[test]
fn c49_more_sources_than_the_backend_takes_are_added_in_turns() {
    let blocks = Blocks::new(8);
    let desk = Desk::of(&[OpKind::Xor]).with(|state| state.limits.sources_max = 2);
    let mut engine = desk.engine();
    let srcs: Vec<Region> = (0..7).map(|i| blocks.at(i)).collect();
    engine.submit(chain(&[Op::Xor { srcs: &srcs, dst: blocks.at(7), mode: XorMode::Overwrite }]), 1);
    let mut most = Vec::new();
    while engine.in_flight() > 0 {
        most.extend(desk.state().held.iter().map(|(_, held)| held.op(0).unwrap().sources()));
        desk.complete_all();
        engine.poll(&mut Vec::new());
    }
    assert_eq!((most, blocks.bytes(7)), (vec![2, 2, 2, 1], blocks.sum(&[0, 1, 2, 3, 4, 5, 6])));
}

#[test]
fn c50_a_syndrome_of_too_many_sources_is_continued_where_the_backend_can() {
    // An update carries P and Q by itself: no source is lost to them, as three are to an engine that cannot
    // continue. A backend that has no update does not get the operation at all.
    for (kinds, on_device) in [(&[OpKind::Pq, OpKind::PqUpdate][..], true), (&[OpKind::Pq], false)] {
        let blocks = Blocks::new(7);
        let desk = Desk::of(kinds).with(|state| state.limits.sources_max = 3);
        let mut engine = desk.engine();
        let data: Vec<_> = (0..5).map(|i| Some(blocks.at(i))).collect();
        engine.submit(chain(&[Op::Pq { data: &data, p: Some(blocks.at(5)), q: Some(blocks.at(6)) }]), 1);
        assert_eq!(engine.in_flight() > 0, on_device);
        while engine.in_flight() > 0 {
            desk.complete_all();
            engine.poll(&mut Vec::new());
        }
        let all = [0, 1, 2, 3, 4];
        assert_eq!((blocks.bytes(5), blocks.bytes(6)), (blocks.sum(&all), q_of(&blocks, &all)));
    }
}

#[test]
fn c51_what_is_not_aligned_runs_on_the_cpu() {
    let blocks = Blocks::new(2);
    let desk = Desk::of_copies().with(|state| state.limits.align = 16);
    let mut engine = desk.engine();
    let skew = blocks.at(0).as_ptr().align_offset(16);
    let part = |i, offset, len| blocks.part(i, skew + offset, len);
    let aligned = Op::Copy { src: part(0, 0, 32), dst: part(1, 0, 32) };
    let address = Op::Copy { src: part(0, 64, 32), dst: part(1, 65, 32) };
    let length = Op::Copy { src: part(0, 128, 33), dst: part(1, 128, 33) };
    engine.submit(chain(&[aligned, address, length]), 1);
    assert_eq!((desk.held(), engine.stats().on_cpu_for(Reason::Misaligned)), (1, 2));
    desk.complete(0);
    assert_eq!(poll(&mut engine), [1]);
    assert_eq!(blocks.bytes(1)[skew + 128..][..33], blocks.bytes(0)[skew + 128..][..33]);
}

#[test]
fn c52_what_no_backend_takes_runs_on_the_cpu_with_the_same_bytes() {
    let reasons = [
        (Desk::of(&[OpKind::Fill]), Reason::NoCapability),
        (Desk::of_copies().with(|state| state.limits.len_min = 4096), Reason::TooShort),
        (Desk::of_copies().with(|state| state.limits.align = 1 << 20), Reason::Misaligned),
        (Desk::of_copies().with(|state| state.room = 0), Reason::QueueFull),
    ];
    for (desk, reason) in reasons {
        let blocks = Blocks::new(2);
        let mut engine = desk.engine();
        engine.submit(chain(&[copy(&blocks, 0, 1)]), 1);
        assert_eq!((poll(&mut engine), desk.held()), (vec![1], 0));
        assert_eq!(engine.stats().on_cpu_for(reason), 1, "{}", reason.word());
        assert_eq!(blocks.bytes(1), blocks.bytes(0));
    }
}

#[test]
fn c53_a_parity_that_is_not_wanted_is_written_nowhere() {
    let blocks = Blocks::new(4);
    let before = [1, 3].map(|i| blocks.bytes(i));
    let data = [Some(blocks.at(0)), Some(blocks.at(1))];
    cpu().run(chain(&[Op::Pq { data: &data, p: Some(blocks.at(2)), q: None }])).unwrap();
    assert_eq!([1, 3].map(|i| blocks.bytes(i)), before, "not even into memory that nobody looks at");
}

#[test]
fn c54_an_operator_can_keep_checks_on_the_cpu() {
    let blocks = Blocks::new(3);
    let desk = Desk::of(&OpKind::ALL);
    let policies = Policies::default().with(OpKind::XorVal, Policy::Never).with(OpKind::PqVal, Policy::Never);
    let mut engine = cpu().with_routed_backend(desk.backend(), policies.apply(&Thresholds::default()));
    let (srcs, data) = ([blocks.at(0)], [Some(blocks.at(0))]);
    let checks = [Op::XorVal { srcs: &srcs }, Op::PqVal { data: &data, p: Some(blocks.at(1)), q: None }];
    engine.submit(chain(&checks), 1);
    assert_eq!((desk.held(), engine.stats().on_cpu_for(Reason::Masked)), (0, 2));
    engine.submit(chain(&[copy(&blocks, 0, 2)]), 2);
    assert_eq!(desk.held(), 1);
    desk.complete(0);
    poll(&mut engine);
}

#[test]
fn c55_limits_such_as_those_of_ioat_are_kept() {
    // Eight sources of an xor, with which md's offload came and went: more are cut, none are refused.
    let blocks = Blocks::new(21);
    let desk = Desk::of(&[OpKind::Xor]).with(|state| state.limits.sources_max = 8);
    let mut engine = desk.engine();
    let srcs: Vec<Region> = (0..20).map(|i| blocks.at(i)).collect();
    engine.submit(chain(&[Op::Xor { srcs: &srcs, dst: blocks.at(20), mode: XorMode::Overwrite }]), 1);
    while engine.in_flight() > 0 {
        assert!(desk.state().held.iter().all(|(_, held)| held.op(0).unwrap().sources() <= 8));
        desk.complete_all();
        engine.poll(&mut Vec::new());
    }
    assert_eq!(blocks.bytes(20), blocks.sum(&(0..20).collect::<Vec<_>>()));
}

#[test]
fn c56_a_copy_engine_serves_the_copies_of_a_parity_chain() {
    // The kernel never gives DSA anything of a chain: it wants engines for all of it. Here copies go to
    // whoever copies, and what lies between them stays on the CPU.
    let (blocks, desk) = (Blocks::new(5), Desk::of_copies());
    let mut engine = desk.engine();
    let data = [Some(blocks.at(1)), Some(blocks.at(2))];
    let parity = Op::Pq { data: &data, p: Some(blocks.at(3)), q: Some(blocks.at(4)) };
    engine.submit(chain(&[copy(&blocks, 0, 1), parity]), 1);
    desk.complete(0);
    assert_eq!(poll(&mut engine), [1]);
    let stats = engine.stats();
    assert_eq!((stats.backends[0].completed, stats.on_cpu_for(Reason::NoCapability)), (1, 1));
    assert_eq!(blocks.bytes(4), q_of(&blocks, &[0, 2]));
}

#[test]
fn c57_a_backend_that_breaks_a_promise_is_told_which() {
    use async_tx::conformance::{Point, Subject, run_points};
    struct Forgetful;
    impl Subject for Forgetful {
        fn backend(&mut self) -> Box<dyn Backend> {
            // It takes what it is given, and does nothing about it.
            Desk::of_copies().backend()
        }
        fn patience(&self) -> std::time::Duration {
            std::time::Duration::from_millis(20)
        }
    }
    let report = run_points(&mut Forgetful, &[Point::Declares, Point::Once]);
    assert_eq!(report.failures().collect::<Vec<_>>(), [Point::Once], "{report}");
}
