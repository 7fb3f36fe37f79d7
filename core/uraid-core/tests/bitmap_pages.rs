//! Write-intent bitmaps of more than one page: in which order pages reach the members.

#![expect(clippy::expect_used, reason = "a test says what went wrong by panicking")]

use md_format::{Areas, AssembleOptions, Bitmap, CreateParams, Found, IntentBitmap, Layout, Level, Uuid};
use std::collections::BTreeMap;
use uraid_core::*;

/// Sectors of a member: 10 GiB and the room in front of the data.
const SECTORS: u64 = (10 << 21) + 300_000;

/// Where pages of the bitmap begin on a member: 163,840 bits and its superblock take six of them.
fn pages() -> Vec<u64> {
    (0..6).map(|page| 8192 + page * 4096).collect()
}

/// Members of 10 GiB, without bytes: everything that is asked for is answered well. What was kept of each as
/// metadata, by the byte at which it was written.
struct Large {
    array: Array,
    kept: BTreeMap<(u16, u64), Vec<u8>>,
    order: Vec<(u16, u64)>,
}

impl Large {
    /// An array without the member of role 1.
    fn degraded() -> Self {
        Large::start(true, |role, map| (role != 1).then_some(map))
    }

    /// An array, clean or not, of the members of which `copy` gives the bitmap.
    fn start(clean: bool, copy: impl Fn(u16, Bitmap) -> Option<Bitmap>) -> Self {
        let superblocks = md_format::plan_create(&CreateParams {
            level: Level::Raid5,
            layout: Layout::LeftSymmetric,
            chunk_sectors: 512,
            name: "large",
            members: &[SECTORS; 4],
            size_sectors: Some(10 << 21),
            set_uuid: Uuid([9; 16]),
            device_uuids: &[1, 2, 3, 4].map(|n| Uuid([n; 16])),
            now: 1_700_000_000,
            clean,
            minor: md_format::Minor::V2,
            bitmap: IntentBitmap::Internal { chunk_bytes: Some(65536) },
            ppl: false,
        });
        let superblocks = superblocks.expect("a possible array");
        let mut found = Vec::new();
        let mut ids = Vec::new();
        for (role, sb) in (0..).zip(&superblocks) {
            let map = Bitmap::create(sb, Some(65536)).expect("there is room");
            let Some(map) = copy(role, map) else { continue };
            let bytes: Vec<u8> = (0..map.pages()).flat_map(|page| map.page(page).1.to_vec()).collect();
            let areas = Areas { bitmap: Some(Ok(bytes)), ..Areas::default() };
            let (label, superblock) = (String::new(), Ok(sb.clone()));
            found.push(Found { label, device_sectors: SECTORS, superblock, identity: None, areas });
            ids.push(MemberId(role));
        }
        let assembly = md_format::assemble(&found, AssembleOptions::default()).expect("assembles");
        let array = Array::start(&assembly, &ids, ArrayConfig::default()).expect("starts");
        Large { array, kept: BTreeMap::new(), order: vec![] }
    }

    fn run(&mut self) {
        let now = Tick(1);
        while let Some(action) = self.array.poll() {
            let answer = match action {
                Action::WriteMeta { io, member, offset, bytes } => {
                    self.order.push((member.0, offset));
                    self.kept.insert((member.0, offset), bytes);
                    Event::IoDone { io, result: Ok(()) }
                }
                Action::Read { io, .. }
                | Action::Write { io, .. }
                | Action::WriteLog { io, .. }
                | Action::Flush { io, .. } => Event::IoDone { io, result: Ok(()) },
                Action::Compute { id, .. } => Event::ComputeDone { id, result: Ok(Verdict::default()) },
                Action::Complete { .. } | Action::Notice(_) | Action::Stopped { .. } => continue,
            };
            self.array.handle(now, answer);
        }
    }
}

#[test]
fn a_new_member_has_every_page_of_the_bitmap_before_others_name_it() {
    let mut large = Large::degraded();
    large.run();
    large.array.handle(
        Tick(1),
        Event::AddMember(NewMember {
            member: MemberId(7),
            device_sectors: SECTORS,
            device_uuid: [7; 16],
            old: None,
        }),
    );
    large.run();
    assert_eq!(large.array.status().missing, 0);
    for page in &pages() {
        assert!(large.kept.contains_key(&(7, *page)), "the page at {page} is missing");
    }
    let spare_first = large.order.iter().position(|at| *at == (7, 4096)).expect("its superblock");
    let named = large.order.iter().skip(spare_first + 1).position(|at| *at == (7, 4096));
    let named = spare_first + 1 + named.expect("its superblock once more");
    let before: Vec<_> = large.order[..named].iter().filter(|(member, _)| *member == 7).collect();
    assert!(pages().iter().all(|page| before.contains(&&(7, *page))), "{before:?}");
}

/// The first page says whether the bitmap is to be believed. A crash in the middle of the first round must not leave
/// a first page that says so beside pages that nobody has kept up to date.
#[test]
fn a_copy_that_was_not_believed_is_whole_before_it_can_be() {
    let no_bits = |map: &mut Bitmap| (0..map.regions()).for_each(|region| map.put_bit(region, false));
    let outdated = |map: Bitmap| {
        let mut map = map;
        no_bits(&mut map);
        map.set_events(0);
        Some(map)
    };
    let all = |_: u16, map: Bitmap| outdated(map);
    let one = |role: u16, map: Bitmap| if role == 2 { outdated(map) } else { Some(map) };
    for mut large in [Large::start(false, all), Large::start(false, one)] {
        let mut written: BTreeMap<(u16, u64), Vec<u8>> = BTreeMap::new();
        let mut rounds = 0;
        loop {
            let mut answers = Vec::new();
            let mut under_way = Vec::new();
            while let Some(action) = large.array.poll() {
                match action {
                    Action::WriteMeta { io, member, offset, bytes } => {
                        under_way.push(((member.0, offset), bytes));
                        answers.push(Event::IoDone { io, result: Ok(()) });
                    }
                    Action::Read { io, .. } | Action::Write { io, .. } | Action::Flush { io, .. } => {
                        answers.push(Event::IoDone { io, result: Ok(()) });
                    }
                    Action::Compute { id, .. } => {
                        answers.push(Event::ComputeDone { id, result: Ok(Verdict::default()) });
                    }
                    Action::WriteLog { .. } => panic!("there is no log"),
                    Action::Complete { .. } | Action::Notice(_) | Action::Stopped { .. } => {}
                }
            }
            for ((member, offset), _) in &under_way {
                if *offset == pages()[0] {
                    let others = pages()[1..].iter().all(|page| written.contains_key(&(*member, *page)));
                    assert!(others, "member {member} says that its bitmap is good before it is");
                    rounds += 1;
                }
            }
            written.extend(under_way);
            if rounds >= 8 {
                break;
            }
            answers.into_iter().for_each(|answer| large.array.handle(Tick(1), answer));
        }
    }
}

/// What is told of a part is what is told of all of the array, there.
#[test]
fn a_part_of_the_array_is_told_as_in_the_whole() {
    let some = |_: u16, map: Bitmap| {
        let mut map = map;
        (0..map.regions())
            .filter(|region| region / 37 % 3 != 0)
            .for_each(|region| map.put_bit(region, false));
        Some(map)
    };
    let array = Large::start(false, some).array;
    let bytes = array.geometry().array_bytes();
    let whole = array.redundancy(0, bytes);
    assert!(whole.len() > 1000 && whole.iter().map(|(bytes, _)| bytes).sum::<u64>() == bytes);
    let clipped = |from: u64, to: u64| {
        let mut at = 0;
        let mut parts = Vec::new();
        for (bytes, state) in &whole {
            let (start, end) = (at.max(from), (at + bytes).min(to));
            if start < end {
                parts.push((end - start, *state));
            }
            at += bytes;
        }
        parts
    };
    for n in 0..200_u64 {
        let from = n * 7_919 * 131_072 % bytes;
        let len = (n % 13 + 1) * 1_500_000 / 512 * 512;
        assert_eq!(
            array.redundancy(from, len),
            clipped(from, (from + len).min(bytes)),
            "{len} bytes at {from}"
        );
    }
    assert_eq!(array.redundancy(bytes, 4096), []);
    assert_eq!(array.redundancy(u64::MAX, u64::MAX), []);
}
