//! Plans of single stripes: what is read, computed and written, and where the bytes lie meanwhile.

use super::*;

use md_format::Level::{Raid5, Raid6};
use md_format::{Layout, Level};

const SLOT: SlotId = SlotId(7);
const BLOCKS: u32 = 4;
const STRIP: u32 = BLOCKS * BLOCK;

/// One stripe of an array with 16 KiB chunks. Parity-last layout: the role of a lane is its number.
struct Stripe {
    geometry: Geometry,
    lanes: Vec<LaneState>,
    trusted: bool,
}

impl Stripe {
    fn new(level: Level, members: u16) -> Self {
        let geometry =
            Geometry::new(level, Layout::ParityLast, members, u64::from(STRIP), 1 << 20).expect("possible");
        Stripe { geometry, lanes: vec![LaneState::default(); usize::from(members)], trusted: true }
    }

    fn gone(mut self, lane: usize) -> Self {
        self.lanes[lane].gone = true;
        self
    }

    fn bad(mut self, lane: usize, block: u32) -> Self {
        self.lanes[lane].bad = self.lanes[lane].bad.or(Blocks::range(block, 1));
        self
    }

    fn view(&self) -> View<'_> {
        View {
            geometry: &self.geometry,
            pattern: self.geometry.pattern(0),
            slot: SLOT,
            lanes: &self.lanes,
            trusted: self.trusted,
            log: false,
        }
    }

    /// The next plan after all loads of this one went into the slot.
    fn load(&mut self, plan: &Plan) {
        assert!(plan.steps.is_empty() && plan.stores.is_empty(), "reads come first, alone: {plan:?}");
        for load in &plan.loads {
            let state = &mut self.lanes[usize::from(load.lane)];
            assert!(!state.gone && !state.bad.meets(load.run.blocks()), "reads what can't be read");
            assert!(!state.cached.meets(load.run.blocks()), "reads what it has");
            state.cached = state.cached.or(load.run.blocks());
        }
    }

    /// Plans the writes, loads what is asked for, and plans again.
    fn write(&mut self, parts: &[Part]) -> (Vec<Transfer>, Plan) {
        let first = plan_writes(&self.view(), parts);
        if first.loads.is_empty() {
            return (vec![], first);
        }
        self.load(&first);
        let second = plan_writes(&self.view(), parts);
        assert!(second.loads.is_empty(), "everything was loaded: {second:?}");
        (first.loads, second)
    }
}

/// A piece of request `req`, whose memory begins with this piece.
fn part(req: u64, lane: u16, offset: u32, len: u32) -> Part {
    Part { req: ReqId(req), lane, offset, len, at: 0, zero: false }
}

/// The pieces of one request that covers the whole stripe.
fn whole_stripe(data: u16) -> Vec<Part> {
    (0..data).map(|lane| Part { at: u32::from(lane) * STRIP, ..part(1, lane, 0, STRIP) }).collect()
}

fn slot(lane: u16, offset: u32, len: u32) -> Mem {
    Mem { place: Place::Slot(SLOT, Role(lane)), offset, len }
}

fn request(req: u64, offset: u32, len: u32) -> Mem {
    Mem { place: Place::Request(ReqId(req)), offset, len }
}

fn zero(len: u32) -> Mem {
    Mem { place: Place::Zero, offset: 0, len }
}

fn whole() -> Run {
    Run { first: 0, count: BLOCKS }
}

fn block(first: u32) -> Run {
    Run { first, count: 1 }
}

fn transfer(lane: u16, run: Run, mem: Mem) -> Transfer {
    Transfer { lane, run, mem }
}

fn copies(plan: &Plan) -> usize {
    plan.steps.iter().filter(|s| matches!(s, Step::Copy { .. })).count()
}

#[test]
fn a_full_stripe_goes_from_the_request_to_the_members_without_a_copy() {
    let mut stripe = Stripe::new(Raid6, 6);
    let parts = whole_stripe(4);
    let (loads, plan) = stripe.write(&parts);
    assert!(loads.is_empty());
    let data = |lane: u16| request(1, u32::from(lane) * STRIP, STRIP);
    let (p, q) = (slot(4, 0, STRIP), slot(5, 0, STRIP));
    let gen_parity =
        Step::GenParity { data: (0..4).map(|l| Some(data(l))).collect(), p: Some(p), q: Some(q) };
    assert_eq!(plan.steps, [gen_parity]);
    let mut stores: Vec<Transfer> = (0..4).map(|l| transfer(l, whole(), data(l))).collect();
    stores.extend([transfer(4, whole(), p), transfer(5, whole(), q)]);
    assert_eq!(plan.stores, stores);
    // The data never were in the slot; parity is.
    let all = whole().blocks();
    assert_eq!(plan.stale, (0..4).map(|l| (l, all)).collect::<Vec<_>>());
    assert_eq!(plan.cached, [(4, all), (5, all)]);
    assert!(plan.failed.is_empty() && plan.repaired.is_empty());
}

#[test]
fn a_full_stripe_of_zeroes_reads_the_zero_strip() {
    let mut stripe = Stripe::new(Raid5, 4);
    let parts: Vec<Part> = whole_stripe(3).into_iter().map(|p| Part { zero: true, ..p }).collect();
    let (loads, plan) = stripe.write(&parts);
    assert!(loads.is_empty());
    let p = slot(3, 0, STRIP);
    assert_eq!(plan.steps, [Step::GenParity { data: vec![Some(zero(STRIP)); 3], p: Some(p), q: None }]);
    assert_eq!(plan.stores[0], transfer(0, whole(), zero(STRIP)));
    assert_eq!(plan.stores.len(), 4);
}

#[test]
fn a_strip_written_twice_is_not_taken_from_a_request() {
    let mut stripe = Stripe::new(Raid5, 3);
    let parts = [part(1, 0, 0, STRIP), part(2, 1, 0, STRIP), part(3, 0, 0, STRIP)];
    let (loads, plan) = stripe.write(&parts);
    assert!(loads.is_empty());
    let copy = |req| Step::Copy { src: request(req, 0, STRIP), dst: slot(0, 0, STRIP) };
    assert_eq!(plan.steps[..2], [copy(1), copy(3)], "in order of arrival");
    assert_eq!(plan.stores[0].mem, slot(0, 0, STRIP));
    assert_eq!(plan.stores[1].mem, request(2, 0, STRIP));
}

#[test]
fn overlapping_pieces_are_applied_in_order_of_arrival() {
    // Reconstruct-write: copies.
    let mut stripe = Stripe::new(Raid5, 3);
    let parts = [part(1, 0, 0, 8192), part(2, 0, 512, 1024), part(3, 0, 0, 1024)];
    let (loads, plan) = stripe.write(&parts);
    assert_eq!(loads, [transfer(1, Run { first: 0, count: 2 }, slot(1, 0, 8192))]);
    let wanted = [(1, 0, 0, 8192), (2, 0, 512, 1024), (3, 0, 0, 1024)];
    let copies: Vec<Step> = plan.steps.iter().filter(|s| matches!(s, Step::Copy { .. })).cloned().collect();
    assert_eq!(
        copies,
        wanted.map(|(req, at, to, len)| Step::Copy { src: request(req, at, len), dst: slot(0, to, len) })
    );

    // Read-modify-write: each is a difference to what the one before left.
    let mut stripe = Stripe::new(Raid5, 6);
    let (_, plan) = stripe.write(&[part(1, 0, 0, 4096), part(2, 0, 512, 1024)]);
    let update = |req, to, len| Step::UpdateParity {
        old: slot(0, to, len),
        new: request(req, 0, len),
        exponent: 0,
        p: Some(slot(5, to, len)),
        q: None,
    };
    assert_eq!(plan.steps, [update(1, 0, 4096), update(2, 512, 1024)]);
}

#[test]
fn a_sub_block_write_changes_only_its_bytes_and_stores_whole_blocks() {
    let mut stripe = Stripe::new(Raid6, 8);
    let parts = [part(1, 2, 4096 + 512, 1024)];
    let (loads, plan) = stripe.write(&parts);
    let reads = [2, 6, 7].map(|l| transfer(l, block(1), slot(l, 4096, 4096)));
    assert_eq!(loads, reads, "old data, P and Q of that block");
    let at = |lane| slot(lane, 4096 + 512, 1024);
    let update = Step::UpdateParity {
        old: at(2),
        new: request(1, 0, 1024),
        exponent: 2,
        p: Some(at(6)),
        q: Some(at(7)),
    };
    assert_eq!(plan.steps, [update]);
    assert_eq!(plan.stores, reads, "to where it came from");
    assert_eq!(plan.cached, [2, 6, 7].map(|l| (l, block(1).blocks())));
}

#[test]
fn a_piece_over_several_blocks_is_cut_where_decisions_differ() {
    // Blocks 0 (its end), 1 to 2 (wholly) and 3 (its start) of one lane.
    let mut stripe = Stripe::new(Raid5, 4);
    let (loads, plan) = stripe.write(&[part(1, 0, 2048, 2 * 4096 + 4096)]);
    // The ragged ends are modified, 2 reads against 3; the middle is a tie and reconstructed.
    assert!(loads.contains(&transfer(0, block(0), slot(0, 0, 4096))));
    assert!(loads.contains(&transfer(1, Run { first: 1, count: 2 }, slot(1, 4096, 8192))));
    let updates = plan.steps.iter().filter(|s| matches!(s, Step::UpdateParity { .. })).count();
    let generated = plan.steps.iter().filter(|s| matches!(s, Step::GenParity { .. })).count();
    assert_eq!((updates, generated, copies(&plan)), (2, 1, 1), "{:?}", plan.steps);
    let middle = Step::Copy { src: request(1, 2048, 8192), dst: slot(0, 4096, 8192) };
    assert!(plan.steps.contains(&middle));
    // Stores are whole again.
    assert_eq!(plan.stores, [0, 3].map(|l| transfer(l, whole(), slot(l, 0, STRIP))));
}

#[test]
fn zeroes_in_part_of_a_block_come_from_the_zero_strip() {
    let mut stripe = Stripe::new(Raid5, 6);
    let (_, plan) = stripe.write(&[Part { zero: true, ..part(1, 1, 512, 512) }]);
    let at = |lane| slot(lane, 512, 512);
    let update = Step::UpdateParity { old: at(1), new: zero(512), exponent: 1, p: Some(at(5)), q: None };
    assert_eq!(plan.steps, [update]);
}

#[test]
fn a_write_to_a_lost_strip_only_brings_parity_up_to_date() {
    let mut stripe = Stripe::new(Raid5, 4).gone(0);
    let (loads, plan) = stripe.write(&[part(1, 0, 0, STRIP)]);
    assert_eq!(loads, [1, 2].map(|l| transfer(l, whole(), slot(l, 0, STRIP))));
    let data = vec![Some(request(1, 0, STRIP)), Some(slot(1, 0, STRIP)), Some(slot(2, 0, STRIP))];
    assert_eq!(plan.steps, [Step::GenParity { data, p: Some(slot(3, 0, STRIP)), q: None }]);
    assert_eq!(plan.stores, [transfer(3, whole(), slot(3, 0, STRIP))]);
}

#[test]
fn part_of_a_lost_block_is_recovered_first() {
    let mut stripe = Stripe::new(Raid5, 4).gone(1);
    let (loads, plan) = stripe.write(&[part(1, 1, 0, 512)]);
    assert_eq!(loads, [0, 2, 3].map(|l| transfer(l, block(0), slot(l, 0, 4096))));
    assert!(matches!(&plan.steps[0], Step::Recover { lost, .. } if lost.data == [1] && !lost.p));
    assert_eq!(plan.steps[1], Step::Copy { src: request(1, 0, 512), dst: slot(1, 0, 512) });
    assert!(matches!(plan.steps[2], Step::GenParity { .. }));
    assert_eq!(plan.stores, [transfer(3, block(0), slot(3, 0, 4096))], "nothing for the lost member");
}

#[test]
fn lost_parity_is_not_written_and_its_cached_blocks_are_forgotten() {
    let mut stripe = Stripe::new(Raid6, 5).gone(3);
    let (_, plan) = stripe.write(&whole_stripe(3));
    assert!(matches!(&plan.steps[..], [Step::GenParity { p: None, q: Some(_), .. }]));
    assert!(plan.stores.iter().all(|s| s.lane != 3));
    assert!(plan.stale.contains(&(3, whole().blocks())));

    let mut stripe = Stripe::new(Raid5, 4).gone(3);
    let (loads, plan) = stripe.write(&[part(1, 0, 0, STRIP)]);
    assert!(loads.is_empty() && plan.steps.is_empty(), "straight from the request: {plan:?}");
    assert_eq!(plan.stores, [transfer(0, whole(), request(1, 0, STRIP))]);
}

#[test]
fn a_block_that_failed_to_read_is_rewritten_by_the_write_that_recovers_it() {
    // Data: block 0 of lane 0 is bad and partly overwritten; lane 1 is bad there in another column.
    let mut stripe = Stripe::new(Raid5, 4).bad(0, 0).bad(1, 3);
    let (loads, plan) = stripe.write(&[part(1, 0, 0, 512)]);
    assert_eq!(loads, [1, 2, 3].map(|l| transfer(l, block(0), slot(l, 0, 4096))));
    assert_eq!(plan.repaired, [(0, block(0).blocks())]);
    assert_eq!(plan.stores, [0, 3].map(|l| transfer(l, block(0), slot(l, 0, 4096))));
}

#[test]
fn columns_that_cannot_be_served_fail_alone() {
    // RAID 5, one member gone and a bad block on another: column 2 is lost, the others are not.
    let mut stripe = Stripe::new(Raid5, 4).gone(0).bad(1, 2);
    let plan = plan_writes(&stripe.view(), &[part(1, 0, 0, STRIP - 512)]);
    assert_eq!(plan.failed, block(2).blocks());
    stripe.load(&plan);
    let plan = plan_writes(&stripe.view(), &[part(1, 0, 0, STRIP - 512)]);
    assert_eq!(plan.failed, block(2).blocks());
    assert!(plan.loads.is_empty());
    assert!(plan.stores.iter().all(|s| !s.run.blocks().has(2)), "nothing is written there: {plan:?}");
    assert!(!plan.stores.is_empty());

    let plan = plan_reads(&stripe.view(), &[part(1, 0, 0, STRIP)], &[Blocks::NONE; 4]);
    assert_eq!(plan.lost, [(0, block(2).blocks())]);
}

#[test]
fn a_degraded_read_recovers_into_the_request_and_reads_each_survivor_once() {
    // One request over lanes 0 to 2 of RAID 5; lane 1 is lost.
    let stripe = Stripe::new(Raid5, 4).gone(1);
    let parts = whole_stripe(3);
    let none = [Blocks::NONE; 4];
    let plan = plan_reads(&stripe.view(), &parts, &none);
    let mem = |lane: u16| request(1, u32::from(lane) * STRIP, STRIP);
    let loads = vec![
        transfer(0, whole(), mem(0)),
        transfer(2, whole(), mem(2)),
        transfer(3, whole(), slot(3, 0, STRIP)),
    ];
    assert_eq!(plan.loads, loads, "survivors into the request, parity into the slot");

    let mut got = none;
    (got[0], got[2]) = (whole().blocks(), whole().blocks());
    let mut stripe = stripe;
    stripe.lanes[3].cached = whole().blocks();
    let plan = plan_reads(&stripe.view(), &parts, &got);
    assert!(plan.loads.is_empty());
    let data = vec![Some(mem(0)), Some(mem(1)), Some(mem(2))];
    let lost = LostBlocks { data: vec![1], p: false, q: false };
    let recover = Step::Recover { data, p: Some(slot(3, 0, STRIP)), q: None, lost };
    assert_eq!(plan.steps, [recover], "no copy");
    assert!(plan.stores.is_empty());
    assert!(plan.cached.is_empty(), "it is in the request's memory, not in the slot");
}

#[test]
fn a_degraded_read_of_part_of_a_block_goes_through_the_slot() {
    let mut stripe = Stripe::new(Raid6, 5).gone(0).gone(3);
    let parts = [part(1, 0, 1024, 512)];
    let plan = plan_reads(&stripe.view(), &parts, &[Blocks::NONE; 5]);
    assert_eq!(plan.loads, [1, 2, 4].map(|l| transfer(l, block(0), slot(l, 0, 4096))), "Q, as P is lost");
    stripe.load(&plan);
    let plan = plan_reads(&stripe.view(), &parts, &[Blocks::NONE; 5]);
    assert!(matches!(&plan.steps[0], Step::Recover { p: None, q: Some(_), lost, .. } if lost.data == [0]));
    assert_eq!(plan.steps[1], Step::Copy { src: slot(0, 1024, 512), dst: request(1, 0, 512) });
    assert_eq!(plan.cached, [(0, block(0).blocks())]);
}

#[test]
fn a_bad_block_is_recovered_in_the_slot_rewritten_and_copied_out() {
    let mut stripe = Stripe::new(Raid5, 4).bad(0, 1);
    let parts = [part(1, 0, 0, STRIP)];
    let plan = plan_reads(&stripe.view(), &parts, &[Blocks::NONE; 4]);
    // The healthy blocks of lane 0 go to the request; of the others only the bad column is read.
    assert!(plan.loads.contains(&transfer(0, block(0), request(1, 0, 4096))));
    assert!(plan.loads.contains(&transfer(3, block(1), slot(3, 4096, 4096))));
    assert!(plan.loads.iter().filter(|t| t.lane != 0).all(|t| t.run == block(1)));
    let mut got = [Blocks::NONE; 4];
    got[0] = whole().blocks().minus(block(1).blocks());
    for lane in 1..4 {
        stripe.lanes[lane].cached = block(1).blocks();
    }
    let plan = plan_reads(&stripe.view(), &parts, &got);
    assert!(matches!(&plan.steps[0], Step::Recover { lost, .. } if lost.data == [0]));
    assert_eq!(plan.steps[1], Step::Copy { src: slot(0, 4096, 4096), dst: request(1, 4096, 4096) });
    assert_eq!(plan.steps.len(), 2);
    assert_eq!(plan.stores, [transfer(0, block(1), slot(0, 4096, 4096))]);
    assert_eq!(plan.repaired, [(0, block(1).blocks())]);
}

#[test]
fn two_reads_of_the_same_lost_block_share_one_recovery() {
    let mut stripe = Stripe::new(Raid5, 4).gone(0);
    let parts = [part(1, 0, 0, 4096), part(2, 0, 0, 4096), part(3, 0, 512, 512)];
    let plan = plan_reads(&stripe.view(), &parts, &[Blocks::NONE; 4]);
    assert_eq!(plan.loads.len(), 3);
    stripe.load(&plan);
    let plan = plan_reads(&stripe.view(), &parts, &[Blocks::NONE; 4]);
    assert_eq!(plan.steps.iter().filter(|s| matches!(s, Step::Recover { .. })).count(), 1);
    let copy = |req, at, len| Step::Copy { src: request(1, at, len), dst: request(req, 0, len) };
    assert_eq!(plan.steps[1..], [copy(2, 0, 4096), copy(3, 512, 512)], "from the first one's memory");
}

#[test]
fn a_rebuild_recovers_its_targets_and_writes_whole_strips() {
    let mut stripe = Stripe::new(Raid6, 5).gone(1).gone(4);
    let targets: Lanes = [1, 4].into_iter().collect();
    let plan = plan_rebuild(&stripe.view(), &targets);
    assert_eq!(plan.loads, [0, 2, 3].map(|l| transfer(l, whole(), slot(l, 0, STRIP))));
    stripe.load(&plan);
    let plan = plan_rebuild(&stripe.view(), &targets);
    assert!(matches!(&plan.steps[..], [Step::Recover { lost, .. }] if lost.data == [1] && lost.q && !lost.p));
    assert_eq!(plan.stores, [1, 4].map(|l| transfer(l, whole(), slot(l, 0, STRIP))));

    let stripe = Stripe::new(Raid5, 4).gone(1).bad(0, 2);
    let plan = plan_rebuild(&stripe.view(), &[1].into_iter().collect());
    assert_eq!(plan.failed, block(2).blocks());
    assert!(plan.steps.is_empty() && plan.stores.is_empty());
}

#[test]
fn a_resync_checks_and_then_writes_only_the_parity_that_differs() {
    let mut stripe = Stripe::new(Raid6, 5);
    stripe.trusted = false;
    let plan = plan_resync(&stripe.view(), None);
    assert_eq!(plan.loads.len(), 5, "all data and all parity");
    stripe.load(&plan);
    let plan = plan_resync(&stripe.view(), None);
    assert!(matches!(&plan.steps[..], [Step::CheckParity { p: Some(_), q: Some(_), .. }]));
    assert!(plan.stores.is_empty());
    let right = plan_resync(&stripe.view(), Some(Verdict::default()));
    assert!(right.steps.is_empty() && right.stores.is_empty());
    let plan = plan_resync(&stripe.view(), Some(Verdict { p_bad: false, q_bad: true }));
    assert!(matches!(&plan.steps[..], [Step::GenParity { p: None, q: Some(_), .. }]));
    assert_eq!(plan.stores, [transfer(4, whole(), slot(4, 0, STRIP))]);
}

/// As after an engine fault, which has the stripe read again when its parity is known to differ.
#[test]
fn parity_that_cannot_be_read_and_differs_is_written_once() {
    let mut stripe = Stripe::new(Raid6, 5).bad(3, 1);
    stripe.trusted = false;
    let differs = Some(Verdict { p_bad: true, q_bad: false });
    let plan = plan_resync(&stripe.view(), differs);
    stripe.load(&plan);
    let plan = plan_resync(&stripe.view(), differs);
    assert_eq!(plan.repaired, [(3, block(1).blocks())]);
    assert_eq!(plan.stores, [transfer(3, whole(), slot(3, 0, STRIP))]);
}

#[test]
fn a_resync_without_parity_to_spare_fails() {
    for stripe in
        [Stripe::new(Raid6, 5).gone(0).gone(3), Stripe::new(Raid5, 4).gone(0), Stripe::new(Raid5, 4).gone(3)]
    {
        let failed = Blocks(15);
        assert_eq!(plan_resync(&stripe.view(), None), Plan { failed, ..Plan::default() });
    }
    let plan = plan_resync(&Stripe::new(Raid6, 5).gone(3).view(), None);
    assert_eq!(plan.loads.len(), 4, "Q can be checked without P");
    let mut stripe = Stripe::new(Raid6, 5).gone(0);
    let plan = plan_resync(&stripe.view(), None);
    assert_eq!(plan.loads.len(), 4, "lost data are what P says");
    stripe.load(&plan);
    let plan = plan_resync(&stripe.view(), None);
    assert!(matches!(&plan.steps[..], [Step::Recover { .. }, Step::CheckParity { p: None, q: Some(_), .. }]));
}

#[test]
fn coverage_counts_sectors_up_to_the_tallest_strip() {
    let dirty = |parts: &[Part]| DirtyMap::new(parts, 1);
    let map = dirty(&[part(1, 0, 512, 3584), part(2, 0, 0, 512)]);
    assert_eq!(map.whole, [Blocks::range(0, 1)], "two pieces make a whole block");
    let map = dirty(&[part(1, 0, 0, crate::MAX_STRIP)]);
    assert_eq!(map.whole, [Blocks(u64::MAX)]);
    let map = dirty(&[part(1, 0, crate::MAX_STRIP - 512, 512)]);
    assert_eq!((map.whole[0], map.touched[0]), (Blocks::NONE, Blocks::range(63, 1)));
    for from in 0..24 {
        for len in 1..40 {
            let map = dirty(&[part(1, 0, from * 512, len * 512)]);
            let sectors = |b: u32| (b * 8..b * 8 + 8).filter(|s| (from..from + len).contains(s)).count();
            for b in 0..8 {
                let want = match sectors(b) {
                    0 => Dirty::No,
                    8 => Dirty::Wholly,
                    _ => Dirty::Partly,
                };
                assert_eq!(map.state(0, b), want, "{len} sectors at {from}, block {b}");
            }
        }
    }
}
