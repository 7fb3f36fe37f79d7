//! Where operations run, and why: the table, and a slow oracle beside it.

use async_tx::*;

/// A backend that takes everything, with the limits at which the tests below look.
fn profile() -> Profile {
    let limits = Limits { sources_max: 8, len_min: 4096, len_max: 1 << 20, align: 64, keeps_on_fault: true };
    Profile { caps: Caps::ALL, limits: [limits; OpKind::COUNT], thresholds: Thresholds::default() }
}

fn with_limits(change: impl Fn(&mut Limits)) -> Profile {
    let mut profile = profile();
    profile.limits.iter_mut().for_each(change);
    profile
}

fn candidate(profile: &Profile) -> Candidate<'_> {
    Candidate { profile, room: 16, health: Health::Good, near: true }
}

fn question(kind: OpKind) -> Question {
    Question { kind, len: 64 << 10, sources: 1, align: 4096, in_place: false, parent: None }
}

fn copy() -> Question {
    question(OpKind::Copy)
}

/// Where it goes among backends that accept all.
fn choose(question: &Question, candidates: &[Candidate<'_>]) -> Choice {
    route(question, candidates.iter().copied(), |_| true)
}

/// The index and the number of steps.
fn index_of(choice: Choice) -> Result<(usize, usize), Reason> {
    match choice {
        Choice::Cpu(reason) => Err(reason),
        Choice::Backend { index, cut } => Ok((index, cut.steps())),
    }
}

fn alone(question: &Question, profile: &Profile) -> Result<usize, Reason> {
    index_of(choose(question, &[candidate(profile)])).map(|(_, steps)| steps)
}

fn taken(question: &Question, candidates: &[Candidate<'_>]) -> Result<usize, Reason> {
    index_of(choose(question, candidates)).map(|(index, _)| index)
}

// One backend: each reason at its edge.

#[test]
fn the_table_of_reasons() {
    use Reason::*;
    let p = profile();
    let masked =
        |kind| Profile { thresholds: Thresholds::default().with(kind, Thresholds::OFF), ..profile() };
    let only_copies = Profile { caps: Caps::NONE.with(OpKind::Copy), ..profile() };
    let from_16k = Profile { thresholds: Thresholds::default().with(OpKind::Copy, 16 << 10), ..profile() };
    let from_0 = Profile { thresholds: Thresholds::all(0), ..profile() };
    let xor = question(OpKind::Xor);
    let in_place = Question { in_place: true, ..question(OpKind::GfMulAdd) };
    let forgets = with_limits(|limits| limits.keeps_on_fault = false);
    let unaligned = with_limits(|limits| limits.align = 0);
    let odd = with_limits(|limits| limits.align = 48);
    let nothing = with_limits(|limits| limits.len_max = 63);
    let table: &[(&str, Question, &Profile, Result<usize, Reason>)] = &[
        ("all is well", copy(), &p, Ok(1)),
        ("a notification is the engine's", question(OpKind::Notify), &p, Err(NoCapability)),
        ("no capability", xor, &only_copies, Err(NoCapability)),
        ("capability", copy(), &only_copies, Ok(1)),
        ("masked", copy(), &masked(OpKind::Copy), Err(Masked)),
        ("another is masked", copy(), &masked(OpKind::Fill), Ok(1)),
        ("as short as it may be", Question { len: 4096, ..copy() }, &p, Ok(1)),
        ("too short", Question { len: 4032, ..copy() }, &p, Err(TooShort)),
        ("as short as calibrated", Question { len: 16 << 10, ..copy() }, &from_16k, Ok(1)),
        ("too short as calibrated", Question { len: (16 << 10) - 64, ..copy() }, &from_16k, Err(TooShort)),
        ("the calibration of another kind", Question { len: 4096, ..xor }, &from_16k, Ok(1)),
        ("calibrated below the default", Question { len: 64, ..copy() }, &from_0, Ok(1)),
        ("as many sources as it takes", Question { sources: 8, ..xor }, &p, Ok(1)),
        ("continued", Question { sources: 9, ..xor }, &p, Ok(2)),
        ("continued to the last", Question { sources: 255, ..xor }, &p, Ok(32)),
        ("not continued", Question { sources: 9, ..question(OpKind::XorVal) }, &p, Err(TooManySources)),
        ("not continued", Question { sources: 9, ..question(OpKind::PqVal) }, &p, Err(TooManySources)),
        ("not continued", Question { sources: 9, ..question(OpKind::Recover) }, &p, Err(TooManySources)),
        ("an update continued", Question { sources: 17, ..question(OpKind::PqUpdate) }, &p, Ok(3)),
        ("as long as it takes", Question { len: 1 << 20, ..copy() }, &p, Ok(1)),
        ("cut", Question { len: (1 << 20) + 64, ..copy() }, &p, Ok(2)),
        ("cut both ways", Question { len: 3 << 20, sources: 20, ..xor }, &p, Ok(9)),
        ("aligned enough", Question { align: 64, ..copy() }, &p, Ok(1)),
        ("misaligned", Question { align: 32, ..copy() }, &p, Err(Misaligned)),
        ("no alignment asked for", Question { align: 1, ..copy() }, &unaligned, Ok(1)),
        ("an alignment that is no power of two", copy(), &odd, Err(Misaligned)),
        ("takes no block at all", copy(), &nothing, Err(NoCapability)),
        ("in place", in_place, &p, Ok(1)),
        ("in place, and not repeatable", in_place, &forgets, Err(CannotRetry)),
        ("not in place", copy(), &forgets, Ok(1)),
    ];
    for (what, question, profile, expected) in table {
        assert_eq!(alone(question, profile), *expected, "{what}: {question:?}");
    }
}

#[test]
fn health_and_room_and_the_backends_own_word_count() {
    let p = profile();
    let good = candidate(&p);
    assert_eq!(taken(&copy(), &[]), Err(Reason::NoBackend));
    assert_eq!(taken(&copy(), &[Candidate { health: Health::Leaving, ..good }]), Err(Reason::NoBackend));
    let ill = Candidate { health: Health::Quarantined, ..good };
    assert_eq!(taken(&copy(), &[ill]), Err(Reason::Quarantined));
    assert_eq!(taken(&copy(), &[Candidate { room: 1, ..good }]), Ok(0));
    assert_eq!(taken(&copy(), &[Candidate { room: 0, ..good }]), Err(Reason::QueueFull));
    assert_eq!(taken(&copy(), &[Candidate { room: 0, ..ill }]), Err(Reason::Quarantined));
    assert_eq!(route(&copy(), [good], |_| false), Choice::Cpu(Reason::Refused));
    let mut asked = Vec::new();
    let choice = route(&copy(), [ill, good, Candidate { near: false, ..good }, good], |index| {
        asked.push(index);
        index == 3
    });
    assert_eq!(index_of(choice), Ok((3, 1)));
    assert_eq!(asked, [1, 2, 3], "only those that qualify otherwise");
}

#[test]
fn the_reason_is_that_of_the_candidate_that_came_closest() {
    let p = profile();
    let good = candidate(&p);
    let none = Profile { caps: Caps::NONE, ..profile() };
    let masked = Profile { thresholds: Thresholds::NEVER, ..profile() };
    let one = with_limits(|limits| limits.sources_max = 0);
    let pages = with_limits(|limits| limits.align = 1 << 20);
    let long = Profile { thresholds: Thresholds::all(1 << 20), ..profile() };
    let forgets = with_limits(|limits| limits.keeps_on_fault = false);
    // Each fails one check more than the one before.
    let question = Question { in_place: true, ..copy() };
    let ladder = [
        (candidate(&none), Reason::NoCapability),
        (candidate(&masked), Reason::Masked),
        (candidate(&one), Reason::TooManySources),
        (candidate(&pages), Reason::Misaligned),
        (candidate(&forgets), Reason::CannotRetry),
        (candidate(&long), Reason::TooShort),
        (Candidate { health: Health::Quarantined, ..good }, Reason::Quarantined),
        (Candidate { room: 0, ..good }, Reason::QueueFull),
    ];
    for (i, (_, reason)) in ladder.iter().enumerate() {
        let mut candidates: Vec<_> = ladder[..=i].iter().map(|(candidate, _)| *candidate).collect();
        assert_eq!(taken(&question, &candidates), Err(*reason));
        candidates.reverse();
        assert_eq!(taken(&question, &candidates), Err(*reason), "whatever their order");
        candidates.push(good);
        assert_eq!(taken(&question, &candidates), Ok(i + 1), "and the one that qualifies is taken");
        assert_eq!(route(&question, candidates, |_| false), Choice::Cpu(Reason::Refused));
    }
    assert!(ladder.is_sorted_by_key(|(_, reason)| *reason));
}

#[test]
fn reasons_have_words_and_numbers() {
    let words: std::collections::BTreeSet<&str> = Reason::ALL.into_iter().map(Reason::word).collect();
    assert_eq!(words.len(), Reason::COUNT);
    assert!(Reason::ALL.into_iter().enumerate().all(|(i, reason)| reason as usize == i));
}

// Several backends.

/// The original stays on the channel of the operation that it depends on, if that has the capability.
#[test]
fn an_operation_stays_on_the_channel_of_its_parent() {
    let p = profile();
    let good = candidate(&p);
    let far = Candidate { near: false, room: 1, ..good };
    let behind = |at| Question { parent: Some(Place::Backend(at)), ..copy() };
    assert_eq!(taken(&copy(), &[far, good]), Ok(1));
    assert_eq!(taken(&behind(0), &[far, good]), Ok(0), "though it is far and has less room");
    assert_eq!(taken(&behind(1), &[good, good]), Ok(1));
    assert_eq!(taken(&behind(7), &[good, good]), Ok(0), "gone, like one that does not qualify");
    let crc = Profile { caps: Caps::NONE.with(OpKind::Crc32c), ..profile() };
    assert_eq!(taken(&behind(0), &[candidate(&crc), good]), Ok(1), "a switch, for want of the capability");
    let ill = Candidate { health: Health::Quarantined, ..good };
    assert_eq!(taken(&behind(0), &[ill, good]), Ok(1));
    assert_eq!(taken(&behind(0), &[Candidate { room: 0, ..good }, good]), Ok(1));
    let refused = route(&behind(0), [good, good], |index| index != 0);
    assert_eq!(index_of(refused), Ok((1, 1)));
}

#[test]
fn near_comes_before_room_and_room_before_order() {
    let p = profile();
    let with = |near, room| Candidate { near, room, ..candidate(&p) };
    assert_eq!(taken(&copy(), &[with(true, 5), with(true, 5)]), Ok(0));
    assert_eq!(taken(&copy(), &[with(true, 5), with(true, 6)]), Ok(1));
    assert_eq!(taken(&copy(), &[with(false, 50), with(true, 1)]), Ok(1));
    assert_eq!(taken(&copy(), &[with(false, 50), with(false, 51)]), Ok(1));
    assert_eq!(taken(&copy(), &[with(false, 50), with(true, 0)]), Ok(0));
}

#[test]
fn far_backends_and_switches_of_channel_raise_the_threshold() {
    let p = profile();
    let far = Candidate { near: false, ..candidate(&p) };
    let of = |len, parent| Question { len, parent, ..copy() };
    let (cpu, other, same) = (Some(Place::Cpu), Some(Place::Backend(1)), Some(Place::Backend(0)));
    assert_eq!((FAR_FACTOR, SWITCH_FACTOR), (2, 2));
    for (candidate, parent, factor) in [
        (candidate(&p), None, 1),
        (candidate(&p), same, 1),
        (candidate(&p), cpu, 2),
        (candidate(&p), other, 2),
        (far, None, 2),
        (far, same, 2),
        (far, cpu, 4),
        (far, other, 4),
    ] {
        let shortest = 4096 * factor;
        assert_eq!(taken(&of(shortest, parent), &[candidate]), Ok(0), "{candidate:?} {parent:?}");
        assert_eq!(taken(&of(shortest - 64, parent), &[candidate]), Err(Reason::TooShort));
    }
    let always = Profile { thresholds: Thresholds::all(0), ..profile() };
    assert_eq!(taken(&of(64, cpu), &[Candidate { near: false, ..candidate(&always) }]), Ok(0));
    let huge = Profile { thresholds: Thresholds::all(usize::MAX - 1), ..profile() };
    assert_eq!(taken(&of(1 << 20, cpu), &[candidate(&huge)]), Err(Reason::TooShort), "no overflow");
    let half = Profile { thresholds: Thresholds::all(usize::MAX / 2 + 1), ..profile() };
    let far = Candidate { near: false, ..candidate(&half) };
    assert_eq!(taken(&of(1 << 20, None), &[far]), Err(Reason::TooShort), "no overflow");
}

// What the concepts of the original say.

/// A device that can do everything never needs another channel: a chain stays on it.
#[test]
fn a_closed_engine_never_switches() {
    let p = profile();
    let candidates = [candidate(&p), Candidate { room: 99, ..candidate(&p) }];
    let mut parent = None;
    for kind in OpKind::ALL.into_iter().filter(|kind| *kind != OpKind::Notify) {
        let found = taken(&Question { parent, ..question(kind) }, &candidates);
        assert_eq!(found, Ok(1), "{kind:?}");
        parent = found.ok().map(Place::Backend);
    }
}

/// As an IOAT of the later kind was: 8 sources of an xor, 16 of P+Q, checks of P+Q but none of xor.
#[test]
fn limits_are_those_of_each_kind() {
    let mut ioat = profile();
    ioat.limits[OpKind::Pq as usize].sources_max = 16;
    ioat.limits[OpKind::PqUpdate as usize].sources_max = 0;
    ioat.caps = [OpKind::Copy, OpKind::Xor, OpKind::Pq, OpKind::PqVal]
        .into_iter()
        .fold(Caps::NONE, |caps, kind| caps.with(kind));
    let of = |kind, sources| alone(&Question { sources, ..question(kind) }, &ioat);
    assert_eq!(of(OpKind::Xor, 9), Ok(2));
    assert_eq!(of(OpKind::Pq, 16), Ok(1));
    assert_eq!(of(OpKind::Pq, 17), Err(Reason::TooManySources), "it cannot be continued");
    assert_eq!(of(OpKind::PqVal, 8), Ok(1));
    assert_eq!(of(OpKind::XorVal, 8), Err(Reason::NoCapability));
}

/// As DSA 1 and 2: the copies of a chain go there, the xors between them do not.
#[test]
fn an_engine_of_copies_takes_the_copies_alone() {
    let dsa = [OpKind::Copy, OpKind::Fill, OpKind::Compare, OpKind::Crc32c, OpKind::CopyCrc32c];
    let caps = dsa.into_iter().fold(Caps::NONE, Caps::with);
    let profile = Profile { caps, ..profile() };
    for kind in OpKind::ALL {
        let expected = if dsa.contains(&kind) { Ok(1) } else { Err(Reason::NoCapability) };
        assert_eq!(alone(&question(kind), &profile), expected);
    }
    let mut parent = None;
    let chain = [
        (OpKind::Xor, Err(Reason::NoCapability)),
        (OpKind::Copy, Ok(0)),
        (OpKind::Xor, Err(Reason::NoCapability)),
    ];
    for (kind, expected) in chain {
        let found = taken(&Question { parent, ..question(kind) }, &[candidate(&profile)]);
        assert_eq!(found, expected);
        parent = Some(found.map_or(Place::Cpu, Place::Backend));
    }
}

/// The original has a build option for each check that a driver wants on the CPU. Here it is a policy.
#[test]
fn an_operator_may_keep_a_kind_on_the_cpu_or_off_it() {
    let calibrated = Thresholds::default().with(OpKind::Copy, 64 << 10).with(OpKind::Fill, Thresholds::OFF);
    let policies = Policies::default()
        .with(OpKind::XorVal, Policy::Never)
        .with(OpKind::PqVal, Policy::Never)
        .with(OpKind::Fill, Policy::From(8 << 10));
    let profile = Profile { thresholds: policies.apply(&calibrated), ..profile() };
    let of = |kind, len| alone(&Question { len, ..question(kind) }, &profile);
    assert_eq!(of(OpKind::XorVal, 1 << 20), Err(Reason::Masked));
    assert_eq!(of(OpKind::PqVal, 1 << 20), Err(Reason::Masked));
    assert_eq!(of(OpKind::Xor, 4096), Ok(1), "automatic, and not calibrated: the backend's default");
    assert_eq!((of(OpKind::Copy, 32 << 10), of(OpKind::Copy, 64 << 10)), (Err(Reason::TooShort), Ok(1)));
    assert_eq!((of(OpKind::Fill, 4096), of(OpKind::Fill, 8 << 10)), (Err(Reason::TooShort), Ok(1)));
}

#[test]
fn policies_are_written_as_they_are_read() {
    for (text, policy) in [
        ("auto", Policy::Auto),
        ("never", Policy::Never),
        ("0", Policy::From(0)),
        ("4095", Policy::From(4095)),
        ("64KiB", Policy::From(64 << 10)),
        ("3MiB", Policy::From(3 << 20)),
        ("1025KiB", Policy::From(1025 << 10)),
    ] {
        assert_eq!(text.parse(), Ok(policy));
        assert_eq!(policy.to_string(), text);
    }
    assert_eq!("1024".parse(), Ok(Policy::From(1024)));
    for text in [
        "",
        "Auto",
        "KiB",
        "-1",
        "+1",
        " 1",
        "1 KiB",
        "1kb",
        "1.5MiB",
        "18446744073709551616",
        "99999999999999MiB",
    ] {
        assert_eq!(text.parse::<Policy>(), Err(PolicyError), "{text:?}");
    }
    assert_eq!(Policies::all(Policy::Never).apply(&Thresholds::default()), Thresholds::NEVER);
    assert_eq!(Policies::default().apply(&Thresholds::all(5)), Thresholds::all(5));
    assert_eq!(Policies::all(Policy::From(5)).get(OpKind::Pq), Policy::From(5));
}

// The question.

/// A region at this address; nothing reads it.
fn at(address: usize, len: usize) -> Region {
    // SAFETY: nothing here reads or writes through a region; the address is not null.
    unsafe { Region::new(std::ptr::without_provenance_mut(address), len) }
}

#[test]
fn a_question_is_made_of_all_blocks_of_the_operation() {
    let ask = |op: Op<'_>| Question::of(&op, None);
    let (page, next) = (at(0x10000, 4096), at(0x20000, 4096));
    let expected =
        Question { kind: OpKind::Copy, len: 4096, sources: 1, align: 4096, in_place: false, parent: None };
    assert_eq!(ask(Op::Copy { src: page, dst: next }), expected);
    assert_eq!(Question::of(&Op::Copy { src: page, dst: next }, Some(Place::Cpu)).parent, Some(Place::Cpu));
    let aligns = |op: Op<'_>| ask(op).align;
    assert_eq!(aligns(Op::Copy { src: at(0x10008, 4096), dst: next }), 8, "an address");
    assert_eq!(aligns(Op::Copy { src: page, dst: at(0x20020, 4096) }), 32, "any address");
    assert_eq!(aligns(Op::Fill { dst: at(0x10000, 4098), byte: 0 }), 2, "the length");
    assert_eq!(aligns(Op::Xor { srcs: &[page, at(0x30040, 4096)], dst: next, mode: XorMode::Overwrite }), 64);
    let crc = at(0x5001, 4);
    assert_eq!(aligns(Op::Crc32c { src: page, seed: Seed::Value(0), crc }), 4096, "a CRC is no block");
    assert!(aligns(Op::Notify) > 1 << 30);
    let data = [Some(page), None, Some(next)];
    let pq = ask(Op::Pq { data: &data, p: Some(at(0x30000, 4096)), q: None });
    assert_eq!((pq.kind, pq.sources, pq.len, pq.in_place), (OpKind::Pq, 3, 4096, false));
    let xor = ask(Op::Xor { srcs: &[page], dst: next, mode: XorMode::Accumulate });
    assert!(xor.in_place);
}

// A slow oracle: all rules one by one, of all candidates, then a sort.

fn oracle(
    question: &Question,
    candidates: &[Candidate<'_>],
    accepts: &[bool],
) -> Result<(usize, usize), Reason> {
    let present: Vec<usize> =
        (0..candidates.len()).filter(|i| candidates[*i].health != Health::Leaving).collect();
    let fails = |i: usize| {
        let Candidate { profile, room, health, near } = candidates[i];
        let limits = profile.limits[question.kind as usize];
        let update = profile.limits[OpKind::PqUpdate as usize];
        let continues = match question.kind {
            OpKind::Xor | OpKind::PqUpdate | OpKind::GfMulAdd => limits.sources_max > 0,
            OpKind::Pq => {
                profile.caps.has(OpKind::PqUpdate) && limits.sources_max.min(update.sources_max) > 0
            }
            _ => false,
        };
        let many = question.sources > limits.sources_max;
        let aligned = |align: usize| align == 0 || question.align.is_multiple_of(align);
        let threshold = profile.thresholds.get(question.kind).unwrap_or(limits.len_min);
        let switch = question.parent.is_some_and(|parent| parent != Place::Backend(i));
        let raised = threshold as u128 * if near { 1 } else { 2 } * if switch { 2 } else { 1 };
        let rules = [
            (Reason::NoCapability, question.kind != OpKind::Notify && profile.caps.has(question.kind)),
            (Reason::Masked, threshold != usize::MAX),
            (Reason::TooManySources, !many || continues),
            (
                Reason::Misaligned,
                aligned(limits.align) && (!(many && question.kind == OpKind::Pq) || aligned(update.align)),
            ),
            (Reason::NoCapability, oracle_steps(question, profile).is_some()),
            (Reason::CannotRetry, !question.in_place || limits.keeps_on_fault),
            (Reason::TooShort, question.len as u128 >= raised),
            (Reason::Quarantined, health == Health::Good),
            (Reason::QueueFull, room > 0),
            (Reason::Refused, accepts[i]),
        ];
        rules.into_iter().find(|(_, holds)| !holds).map(|(reason, _)| reason)
    };
    let mut qualified: Vec<usize> = present.iter().copied().filter(|i| fails(*i).is_none()).collect();
    // Stable sorts, the least important first.
    qualified.sort_by_key(|i| std::cmp::Reverse(candidates[*i].room));
    qualified.sort_by_key(|i| !candidates[*i].near);
    qualified.sort_by_key(|i| question.parent != Some(Place::Backend(*i)));
    match qualified.first() {
        Some(i) => Ok((*i, oracle_steps(question, candidates[*i].profile).unwrap_or(0))),
        None => Err(present.into_iter().filter_map(fails).max().unwrap_or(Reason::NoBackend)),
    }
}

/// Counts the steps by taking them.
fn oracle_steps(question: &Question, profile: &Profile) -> Option<usize> {
    let mut limits = profile.limits[question.kind as usize];
    if question.kind == OpKind::Pq && question.sources > limits.sources_max {
        let update = profile.limits[OpKind::PqUpdate as usize];
        limits.sources_max = limits.sources_max.min(update.sources_max);
        limits.len_max = limits.len_max.min(update.len_max);
        limits.align = limits.align.max(update.align);
    }
    let (mut sources, mut groups) = (question.sources, 0);
    loop {
        groups += 1;
        sources -= sources.min(limits.sources_max);
        if sources == 0 {
            break;
        }
        if limits.sources_max == 0 {
            return None;
        }
    }
    let (mut left, mut rows) = (question.len, 0);
    while left > 0 {
        let mut step = left.min(limits.len_max);
        while step > 0 && limits.align > 0 && !step.is_multiple_of(limits.align) {
            step -= 1;
        }
        if step == 0 {
            return None;
        }
        left -= step;
        rows += 1;
    }
    Some(groups * rows)
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn limits(&mut self) -> Limits {
        Limits {
            sources_max: self.one_of(&[0, 1, 2, 3, 8, 8, 255]),
            len_min: self.one_of(&[0, 0, 64, 128, 512, usize::MAX]),
            len_max: self.one_of(&[32, 64, 100, 512, 1024, 1 << 20]),
            align: self.one_of(&[0, 1, 1, 2, 8, 64]),
            keeps_on_fault: self.below(4) > 0,
        }
    }

    fn profile(&mut self) -> Profile {
        let caps = OpKind::ALL.into_iter().filter(|_| self.below(6) > 0).fold(Caps::NONE, Caps::with);
        let mut thresholds = Thresholds::default();
        for kind in OpKind::ALL {
            if self.below(3) == 0 {
                thresholds =
                    thresholds.with(kind, self.one_of(&[0, 64, 256, 1024, usize::MAX - 1, usize::MAX]));
            }
        }
        Profile { caps, limits: OpKind::ALL.map(|_| self.limits()), thresholds }
    }

    fn question(&mut self) -> Question {
        // An alignment divides the length.
        let align = self.one_of(&[1, 2, 8, 64, 128]);
        let parents = [
            None,
            Some(Place::Cpu),
            Some(Place::Backend(0)),
            Some(Place::Backend(1)),
            Some(Place::Backend(9)),
        ];
        Question {
            kind: self.one_of(&OpKind::ALL),
            len: align * (1 + self.below(12)),
            sources: self.one_of(&[0, 1, 2, 4, 9, 17]),
            align,
            in_place: self.below(4) == 0,
            parent: self.one_of(&parents),
        }
    }
}

#[test]
fn routing_is_that_of_a_slow_oracle() {
    let seed = 0x0720_ac1e;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let mut seen = [0; Reason::COUNT];
    let (mut offloaded, mut cut, mut not_first) = (0, 0, 0);
    for _ in 0..60_000 {
        let count = random.below(5);
        let profiles: Vec<Profile> = (0..count).map(|_| random.profile()).collect();
        let candidates: Vec<Candidate<'_>> = profiles
            .iter()
            .map(|profile| Candidate {
                profile,
                room: random.one_of(&[0, 1, 1, 2, usize::MAX]),
                health: random.one_of(&[
                    Health::Good,
                    Health::Good,
                    Health::Good,
                    Health::Quarantined,
                    Health::Leaving,
                ]),
                near: random.below(2) == 0,
            })
            .collect();
        let accepts: Vec<bool> = (0..count).map(|_| random.below(5) > 0).collect();
        let question = random.question();
        let found = index_of(route(&question, candidates.iter().copied(), |index| accepts[index]));
        assert_eq!(
            found,
            oracle(&question, &candidates, &accepts),
            "{question:?} {candidates:#?} {accepts:?}"
        );
        match found {
            Ok((index, steps)) => {
                offloaded += 1;
                cut += usize::from(steps > 1);
                not_first += usize::from(index > 0);
            }
            Err(reason) => seen[reason as usize] += 1,
        }
    }
    assert!(offloaded > 2000 && cut > 500 && not_first > 500, "{offloaded} {cut} {not_first}");
    assert!(seen.iter().all(|count| *count > 50), "every reason is met: {seen:?}");
}
