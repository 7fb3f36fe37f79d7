//! The replay of one long entry, some of which cannot be read.

use super::{Pending, SEVERAL, Shape};
use crate::world::{self, Rng, World};
use md_format::Layout;
use uraid_core::*;

/// A block that cannot be read keeps the replay from its own column only. The others of the same entry are all that
/// is known of what a lost member held there.
#[test]
fn an_unreadable_block_spoils_no_other_column() {
    let chunk = 65536;
    let shape =
        Shape { layout: Layout::LeftSymmetric, members: 3, chunk, rows: 1, log: SEVERAL, clean: true };
    let mut world = shape.world(1);
    world.quiesce();
    let fill: Vec<u8> = (0..2 * chunk).map(|at| (at / 512 + 1) as u8).collect();
    world.ask(RequestKind::Write { fua: true }, 0, fill.clone());
    world.quiesce();
    // Half of the first chunk; its data arrive, its parity does not.
    let written = 32768;
    world.ask(RequestKind::Write { fua: false }, 0, vec![0xee; written]);
    world.tell(Event::Idle);
    while !world.pending.iter().any(|p| matches!(p, Pending::Write { .. })) {
        assert!(world.answer_one());
    }
    let geometry = world.geometry();
    let member_of = |lane: u16| usize::from(geometry.pattern(0).roles[usize::from(lane)].0);
    let mut disks = world.disks.clone();
    for pending in &world.pending {
        if let Pending::Write { member, offset, bytes, .. } = pending
            && usize::from(member.0) == member_of(0)
        {
            disks[member_of(0)].write(*offset, bytes);
        }
    }
    let first = disks[member_of(0)].data_start() / 4096;
    disks[member_of(0)].bad.insert(first);
    // Nothing is found on the member of the other chunk.
    disks[member_of(1)].view[4096..8192].fill(0);
    let assembly = world::assemble(&disks, false).expect("starts without force");
    assert_eq!(assembly.ppl.as_ref().map(|ppl| ppl.replay.len()), Some(1));
    let mut next = World::over(disks, &assembly, 6, Rng(2), 2);
    next.model = fill;
    next.model[..written].fill(0xee);
    next.quiesce();
    next.ask(RequestKind::Read, chunk as u64 + 4096, vec![0; written - 4096]);
    next.quiesce();
    assert!(next.asked.is_empty());
}
