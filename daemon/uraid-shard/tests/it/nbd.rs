//! A whole shard with real sockets: well-behaved clients, many requests at once, and clients that mean
//! harm or just go away.

use std::time::Duration;

use crate::volume::{Client, Rng, Volume, tuning};
use nbd_rs::{Command, Errno, Headers, Request};
use uraid_core::{ArrayState, MemberStanding};
use uraid_shard::{AddError, ConnectionLimits, FailError, MemberName, ShardExit, Terms, Tuning, peer_groups};

const DATA: u64 = 2 << 20;

/// Random requests, many at a time, beside a byte array. Those in flight together do not overlap.
fn churn(client: &mut Client, model: &mut [u8], rng: &mut Rng, depth: usize, requests: usize) -> usize {
    let mut asked: Vec<(Request, Vec<u8>)> = Vec::new();
    let (mut sent, mut reordered) = (0, 0);
    while sent < requests || !asked.is_empty() {
        while sent < requests && asked.len() < depth {
            let sectors = model.len() as u64 / 512;
            let first = rng.below(sectors);
            let longest = if rng.below(4) == 0 { 2000 } else { 16 };
            let len = (1 + rng.below(longest)).min(sectors - first);
            let (offset, end) = (first * 512, (first + len) * 512);
            sent += 1;
            if asked.iter().any(|(r, _)| r.offset < end && offset < r.offset + r.len) {
                continue;
            }
            let command = match rng.below(9) {
                0..4 => Command::Read,
                4..8 => Command::Write,
                _ => Command::WriteZeroes,
            };
            let mut request = client.request(command, offset, (end - offset) as u32);
            request.fua = command != Command::Read && rng.below(6) == 0;
            let data = match command {
                Command::Write => rng.bytes((end - offset) as usize),
                _ => vec![0; (end - offset) as usize],
            };
            client.send(&request, if command == Command::Write { &data } else { &[] });
            asked.push((request, data));
        }
        if asked.is_empty() {
            continue;
        }
        let requests: Vec<_> = asked.iter().map(|(request, _)| *request).collect();
        let (cookie, result) = client.answer(&requests);
        let at = asked.iter().position(|(request, _)| request.cookie == cookie).unwrap();
        reordered += usize::from(at > 0);
        let (request, data) = asked.remove(at);
        let model = &mut model[request.offset as usize..][..request.len as usize];
        match request.command {
            Command::Read => assert!(result.unwrap() == model, "{request:?}"),
            _ => {
                result.unwrap();
                model.copy_from_slice(&data);
            }
        }
    }
    reordered
}

/// A header as clients without extended headers send it.
fn compact(request: &Request) -> Vec<u8> {
    request.header(Headers::Simple).encode(Headers::Simple).as_bytes().to_vec()
}

fn check_all(client: &mut Client, model: &[u8]) {
    for (i, expected) in model.chunks(1 << 20).enumerate() {
        let got = client.read((i << 20) as u64, expected.len() as u32).unwrap();
        assert!(got == expected, "MiB {i} differs");
    }
}

#[test]
fn many_requests_at_once_give_what_one_by_one_would() {
    for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
        let volume = Volume::new(DATA, tuning());
        let mut rng = Rng(0x6e62_6401);
        let mut client = volume.client_of(headers, &[]);
        let mut model = vec![0; volume.export.size() as usize];
        let reordered = churn(&mut client, &mut model, &mut rng, 128, 600);
        assert!(reordered > 0, "no answer overtook another");
        check_all(&mut client, &model);
        let (dir, exit) = volume.stop();
        assert_eq!(exit, ShardExit::Stopped { clean: true });
        let volume = Volume::open(dir, tuning());
        assert_eq!(volume.status().array.state, ArrayState::Clean);
        check_all(&mut volume.client_of(headers, &[]), &model);
    }
}

#[test]
fn members_are_lost_and_rebuilt_while_serving() {
    let volume = Volume::new(DATA, tuning());
    let mut rng = Rng(0x6e62_6402);
    let mut client = volume.client(true);
    let mut model = vec![0; volume.export.size() as usize];
    churn(&mut client, &mut model, &mut rng, 32, 100);
    for member in [0, 4] {
        let (tell, answer) = std::sync::mpsc::channel();
        let name = MemberName::Path(volume.member_path(member));
        volume.handle.fail(name, move |result| tell.send(result).unwrap()).unwrap();
        answer.recv().unwrap().unwrap();
        churn(&mut client, &mut model, &mut rng, 32, 100);
        check_all(&mut client, &model);
    }
    let (tell, answer) = std::sync::mpsc::channel();
    let name = MemberName::Path(volume.member_path(1));
    volume.handle.fail(name, move |result| tell.send(result).unwrap()).unwrap();
    assert!(matches!(answer.recv().unwrap(), Err(FailError::Refused(_))));

    for member in [0, 4] {
        // A failed member was let go, so it can be opened and added again.
        let path = volume.member_path(member);
        let member = uraid_blockio::Member::open(path, Default::default()).unwrap();
        let (tell, answer) = std::sync::mpsc::channel();
        volume.handle.add(member, [50; 16], None, move |result| tell.send(result).unwrap()).unwrap();
        answer.recv().unwrap().unwrap();
        churn(&mut client, &mut model, &mut rng, 32, 60);
    }
    let status = volume.wait_for("rebuilt", |s| s.array.missing == 0 && s.array.sync.is_none());
    let rebuilt = status.members.iter().filter(|m| m.report.standing == MemberStanding::InSync);
    assert_eq!(rebuilt.count(), 6);
    assert!(status.notices.iter().any(|n| n.text.contains("rebuild finished")), "{:?}", status.notices);
    check_all(&mut client, &model);
    assert_eq!(volume.stop().1, ShardExit::Stopped { clean: true });
}

#[test]
fn a_blank_that_is_too_small_is_not_added() {
    let volume = Volume::new(DATA, tuning());
    let path = volume.dir.path().join("small");
    uraid_blockio::create_sparse(&path, 1 << 20).unwrap();
    let member = uraid_blockio::Member::open(&path, Default::default()).unwrap();
    let (tell, answer) = std::sync::mpsc::channel();
    volume.handle.add(member, [50; 16], None, move |result| tell.send(result).unwrap()).unwrap();
    assert!(matches!(answer.recv().unwrap(), Err(AddError::Refused(_))));
    assert_eq!(volume.status().members.len(), 6);
}

#[test]
fn what_needs_nothing_of_the_array_is_answered() {
    let volume = Volume::new(DATA, tuning());
    let mut client = volume.client(true);
    client.write(0, &[7; 4096]).unwrap();
    for command in [Command::Trim, Command::Cache] {
        let request = client.request(command, 0, 4096);
        assert_eq!(client.ask(request, &[]), Ok(vec![]));
    }
    let flush = client.request(Command::Flush, 0, 0);
    assert_eq!(client.ask(flush, &[]), Ok(vec![]));
    assert_eq!(client.read(0, 4096), Ok(vec![7; 4096]));
    let request = client.request(Command::BlockStatus, 512, 1 << 20);
    // Two contexts, and neither has anything to say.
    assert_eq!(client.ask(request, &[]), Ok([[0, 16, 0, 0], [0; 4]].concat().repeat(2)));
    let mut fast = client.request(Command::WriteZeroes, 0, 4096);
    fast.fast_zero = true;
    assert_eq!(client.ask(fast, &[]), Err(Errno::NotSup));
    assert_eq!(client.read(0, 4096), Ok(vec![7; 4096]));
    let zeroes = client.request(Command::WriteZeroes, 0, 4 << 20);
    assert_eq!(client.ask(zeroes, &[]), Ok(vec![]));
    assert_eq!(client.read(0, 4096), Ok(vec![0; 4096]));
}

#[test]
fn refused_requests_leave_the_stream_in_step() {
    let volume = Volume::new(DATA, tuning());
    let end = volume.export.size();
    for structured in [false, true] {
        let mut client = volume.client(structured);
        let payload = vec![1; 300 << 10];
        let beyond = client.request(Command::Write, end - 512, payload.len() as u32);
        assert_eq!(client.ask(beyond, &payload), Err(Errno::NoSpc));
        let odd = client.request(Command::Write, 1, 513);
        assert_eq!(client.ask(odd, &[1; 513]), Err(Errno::Inval));
        assert_eq!(client.read(end, 512), Err(Errno::Inval));
        assert_eq!(client.read(u64::MAX - 511, 512), Err(Errno::Inval));
        assert_eq!(client.read(0, 0), Ok(vec![]));
        assert_eq!(client.read(end - 512, 512), Ok(vec![0; 512]));
    }
}

#[test]
fn extended_requests_that_are_refused_leave_the_stream_in_step() {
    let volume = Volume::new(DATA, tuning());
    let end = volume.export.size();
    let mut client = volume.client_of(Headers::Extended, &[]);
    let with_payload = |request: &Request, payload: &[u8]| {
        let mut header = request.header(Headers::Extended);
        header.flags |= nbd_rs::wire::cmd_flag::PAYLOAD_LEN;
        header.len = payload.len() as u64;
        [header.encode(Headers::Extended).as_bytes(), payload].concat()
    };
    // A payload where none belongs is taken and refused.
    for (command, payload) in [(Command::Read, 512), (Command::Flush, 100_000), (Command::Trim, 4096)] {
        let request = client.request(command, 0, 512);
        let message = with_payload(&request, &vec![7; payload]);
        client.send_raw(&message);
        assert_eq!(client.answer(&[request]), (request.cookie, Err(Errno::Inval)));
    }
    // A write has its payload whether it says so or not (qemu does not), and is done.
    let request = client.request(Command::Write, 0, 512);
    let mut header = request.header(Headers::Extended);
    header.flags = 0;
    client.send_raw(&[header.encode(Headers::Extended).as_bytes(), &[0; 512]].concat());
    assert_eq!(client.answer(&[request]).1, Ok(vec![]));
    // Lengths of 64 bits are not cut: these are past the end, whatever their low half says.
    for len in [1u64 << 32, (1 << 40) + 512, u64::MAX - 511] {
        for (command, errno) in [
            (Command::WriteZeroes, Errno::NoSpc),
            (Command::Trim, Errno::Inval),
            (Command::Read, Errno::Inval),
        ] {
            let request = Request { len, ..client.request(command, 512, 0) };
            assert_eq!(client.ask(request, &[]), Err(errno), "{command:?} of {len}");
        }
    }
    assert_eq!(client.read(end - 512, 512), Ok(vec![0; 512]));
}

#[test]
fn block_status_can_be_asked_of_some_contexts() {
    let volume = Volume::new(DATA, tuning());
    let mut client = volume.client_of(Headers::Extended, &[]);
    let ask = |client: &mut Client, len: u64, ids: &[u32]| {
        let request = client.request(Command::BlockStatus, 512, 0);
        let mut header = request.header(Headers::Extended);
        header.flags |= nbd_rs::wire::cmd_flag::PAYLOAD_LEN;
        header.len = 8 + 4 * ids.len() as u64;
        let mut message = header.encode(Headers::Extended).as_bytes().to_vec();
        message.extend(len.to_be_bytes());
        message.extend(ids.iter().flat_map(|id| id.to_be_bytes()));
        // Bit by bit, so that the list arrives apart from its header.
        for piece in message.chunks(5) {
            client.send_raw(piece);
        }
        client.answer(&[request]).1
    };
    let whole = [4096u64.to_be_bytes(), [0; 8]].concat();
    assert_eq!(ask(&mut client, 4096, &[1]), Ok(whole));
    for ids in [&[][..], &[1, 1], &[77], &[1, 0], &[1; 100]] {
        assert_eq!(ask(&mut client, 4096, ids), Err(Errno::Inval), "{ids:?}");
    }
    assert_eq!(ask(&mut client, volume.export.size(), &[1]), Err(Errno::Inval), "past the end");
    assert_eq!(ask(&mut client, 0, &[1]), Err(Errno::Inval));
    assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
}

/// The extents of `x-uraid:redundancy` over the whole volume.
fn redundancy(client: &mut Client, volume: &Volume) -> Vec<(u64, u64)> {
    let request = Request { len: volume.export.size(), ..client.request(Command::BlockStatus, 0, 0) };
    let told = client.ask(request, &[]).unwrap();
    let numbers: Vec<_> = told.chunks(8).map(|n| u64::from_be_bytes(n.try_into().unwrap())).collect();
    assert_eq!(numbers[..2], [volume.export.size(), 0], "base:allocation comes first");
    numbers[2..].chunks(2).map(|pair| (pair[0], pair[1])).collect()
}

#[test]
fn redundancy_follows_failures_and_rebuilds() {
    use uraid_shard::redundancy_flag::{NONE, REDUCED};
    let volume = Volume::new(DATA, tuning());
    let mut client = volume.client_of(Headers::Extended, &[]);
    let size = volume.export.size();
    assert_eq!(redundancy(&mut client, &volume), [(size, 0)]);
    for (member, expected) in [(0, REDUCED), (4, REDUCED | NONE)] {
        let (tell, answer) = std::sync::mpsc::channel();
        let name = MemberName::Path(volume.member_path(member));
        volume.handle.fail(name, move |result| tell.send(result).unwrap()).unwrap();
        answer.recv().unwrap().unwrap();
        assert_eq!(redundancy(&mut client, &volume), [(size, expected)]);
    }
    let member = volume.reopen_member(4);
    let (tell, answer) = std::sync::mpsc::channel();
    volume.handle.add(member, [50; 16], None, move |result| tell.send(result).unwrap()).unwrap();
    answer.recv().unwrap().unwrap();
    // On the way what is rebuilt is better than what is not, and the extents always make up the volume.
    let start = std::time::Instant::now();
    loop {
        let extents = redundancy(&mut client, &volume);
        assert_eq!(extents.iter().map(|(len, _)| len).sum::<u64>(), size);
        assert!(extents.iter().all(|(_, status)| [REDUCED, REDUCED | NONE].contains(status)), "{extents:?}");
        if extents == [(size, REDUCED)] {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "never rebuilt: {extents:?}");
    }
}

/// Three of six members lose their contents under a volume that survives two. Gives the length of a chunk, and
/// which of the volume's chunks are lost by that.
fn lose_three(volume: &Volume) -> (u64, impl Fn(u64) -> bool) {
    let geometry = volume.status().geometry;
    for member in 0..3 {
        std::fs::File::options().write(true).open(volume.member_path(member)).unwrap().set_len(0).unwrap();
    }
    let chunk = geometry.chunk_bytes();
    let is_lost = move |index: u64| {
        let piece = geometry.piece(index * chunk, 512);
        geometry.pattern(piece.stripe).roles[usize::from(piece.lane)].0 < 3
    };
    (chunk, is_lost)
}

#[test]
fn a_read_that_fails_gives_the_good_data_and_names_the_first_lost_byte() {
    let volume = Volume::new(DATA, tuning());
    let mut rng = Rng(0x6e62_6406);
    let mut model = vec![0; volume.export.size() as usize];
    model.iter_mut().for_each(|byte| *byte = rng.below(256) as u8);
    volume.client(true).write(0, &model).unwrap();
    let volume = Volume::open(volume.stop().0, tuning());
    let (chunk, is_lost) = lose_three(&volume);
    // A chunk that is there, and behind it one that is not.
    let at = (0..20).find(|index| !is_lost(*index) && is_lost(index + 1)).unwrap() * chunk;
    for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
        let mut client = volume.client_of(headers, &[]);
        assert_eq!(client.read(at + 512, (2 * chunk - 1024) as u32), Err(Errno::Io));
        match client.failed.take() {
            None => assert_eq!(headers, Headers::Simple),
            Some((data, offset, message)) => {
                assert_eq!(offset, Some(at + chunk));
                assert!(data == model[(at + 512) as usize..(at + chunk) as usize]);
                assert!(message.starts_with("test: "), "{message}");
            }
        }
        assert_eq!(client.read(at + chunk, 512), Err(Errno::Io), "lost from its first byte on");
        assert_eq!(
            client.failed.take().map(|(data, offset, _)| (data, offset)),
            match headers {
                Headers::Simple => None,
                _ => Some((vec![], Some(at + chunk))),
            }
        );
        assert!(client.read(at, chunk as u32).unwrap() == model[at as usize..(at + chunk) as usize]);
    }
    volume.wait_for("given back", |status| status.pool_in_use == 0);
}

/// A client of `EXPORT_NAME` reads what it likes; what is lost beside it is no error of its read.
#[test]
fn unaligned_reads_give_just_the_bytes() {
    let volume = Volume::new(DATA, tuning());
    let mut rng = Rng(0x6e62_6407);
    let model = rng.bytes(volume.export.size() as usize);
    volume.client(true).write(0, &model).unwrap();
    let volume = Volume::open(volume.stop().0, tuning());
    for headers in [Headers::Simple, Headers::Structured] {
        let mut client = volume.client_who_knows_no_sizes(headers);
        for _ in 0..200 {
            let len = 1 + rng.below(20_000);
            let at = rng.below(volume.export.size() - len);
            let data = client.read(at, len as u32).unwrap();
            assert!(data == model[at as usize..(at + len) as usize], "{len} bytes at {at}");
        }
    }
    let (chunk, is_lost) = lose_three(&volume);
    let edge = (1..20).find(|index| !is_lost(index - 1) && is_lost(*index)).unwrap() * chunk;
    let mut client = volume.client_who_knows_no_sizes(Headers::Structured);
    assert!(client.read(edge - 700, 700).unwrap() == model[(edge - 700) as usize..edge as usize]);
    assert_eq!(client.read(edge - 700, 701), Err(Errno::Io));
    let (data, offset, _) = client.failed.take().unwrap();
    assert_eq!(offset, Some(edge));
    assert!(data == model[(edge - 700) as usize..edge as usize]);
    volume.wait_for("given back", |status| status.pool_in_use == 0);
}

#[test]
fn what_the_handshake_received_too_much_is_not_lost() {
    let volume = Volume::new(DATA, tuning());
    let request = Request::new(Command::Write, 77, 4096, 8192);
    let mut message = compact(&request);
    message.extend_from_slice(&[9; 8192]);
    let (early, late) = message.split_at(3000);
    let mut client = volume.client_with(true, early);
    client.send_raw(late);
    assert_eq!(client.answer(&[request]), (77, Ok(vec![])));
    assert_eq!(client.read(4096, 8192), Ok(vec![9; 8192]));
}

/// More answers than may wait at once are wanted by requests that were all received at once, so that
/// nothing but the sending of answers can make the rest of them go on.
#[test]
fn requests_go_on_when_their_answers_are_taken() {
    let volume = Volume::new(DATA, tuning());
    let trims: Vec<_> = (0..12_000).map(|i| Request::new(Command::Trim, i, 0, 4096)).collect();
    let stream: Vec<_> = trims.iter().flat_map(compact).collect();
    let mut client = volume.client_with(false, &stream);
    for request in &trims {
        assert_eq!(client.answer(std::slice::from_ref(request)), (request.cookie, Ok(vec![])));
    }
}

#[test]
fn headers_and_payloads_may_arrive_in_any_pieces() {
    let volume = Volume::new(DATA, tuning());
    let mut rng = Rng(0x6e62_6403);
    let mut client = volume.client(true);
    let mut model = vec![0u8; volume.export.size() as usize];
    let mut stream = Vec::new();
    let mut asked = Vec::new();
    for i in 0..40u64 {
        let sectors = 1 + rng.below(300) as usize;
        let data = rng.bytes(512 * sectors);
        let request = client.request(Command::Write, i * 200_704, data.len() as u32);
        model[request.offset as usize..][..data.len()].copy_from_slice(&data);
        stream.extend_from_slice(&client.header(&request));
        stream.extend_from_slice(&data);
        asked.push(request);
    }
    let mut rest = stream.as_slice();
    while !rest.is_empty() {
        let most = if rng.below(2) == 0 { 40 } else { 200_000 };
        let (piece, later) = rest.split_at(rest.len().min(1 + rng.below(most) as usize));
        client.send_raw(piece);
        rest = later;
    }
    for _ in 0..asked.len() {
        client.answer(&asked).1.unwrap();
    }
    check_all(&mut client, &model);
}

#[test]
fn half_a_write_never_happens() {
    let volume = Volume::new(DATA, tuning());
    let mut other = volume.client(true);
    for half in [0, 1, 5000, (1 << 20) - 1] {
        let mut client = volume.client(true);
        let request = client.request(Command::Write, 0, 1 << 20);
        client.send(&request, &vec![0xee; half]);
        drop(client);
        volume.wait_for("closed", |status| status.connections == 1);
        assert_eq!(other.read(0, 1 << 20).unwrap(), vec![0; 1 << 20], "{half}");
    }
    volume.wait_for("given back", |status| status.pool_in_use == 0);
}

#[test]
fn hostile_bytes_cost_their_sender_the_connection_and_nobody_else() {
    let volume = Volume::new(DATA, tuning());
    let mut good = volume.client(true);
    good.write(0, &[3; 512]).unwrap();
    let mut huge = compact(&Request::new(Command::Write, 1, 0, u64::from(u32::MAX)));
    let mut magic = compact(&Request::new(Command::Read, 1, 0, 512));
    magic[0] ^= 1;
    huge.extend_from_slice(&[0; 4096]);
    let garbage = Rng(0x6e62_6404).bytes(100_000);
    for bytes in [huge, magic, garbage] {
        let mut bad = volume.client(false);
        // The server may hang up before it has read everything.
        let _ = std::io::Write::write_all(&mut bad.stream, &bytes);
        assert!(bad.is_closed());
        assert_eq!(good.read(0, 512), Ok(vec![3; 512]));
    }
    let status = volume.wait_for("closed", |status| status.connections == 1);
    assert_eq!(status.clients.broken_connections, 3);
    assert_eq!(status.pool_in_use, 0);
}

#[test]
fn a_client_that_reads_nothing_is_bounded_and_harms_no_other() {
    let limits = ConnectionLimits { requests: 16, bytes: 8 << 20 };
    let volume = Volume::new(DATA, Tuning { connection: limits, ..tuning() });
    let mut slow = volume.client(true);
    slow.stream.set_nonblocking(true).unwrap();
    let mut sent = 0u64;
    let mut blocked = 0;
    // It asks for ever more and takes nothing, until the server does not listen any more.
    while blocked < 1000 {
        let request = slow.request(Command::Read, (sent % 8) << 20, 1 << 20);
        match std::io::Write::write(&mut slow.stream, &compact(&request)) {
            Ok(n) => {
                assert_eq!(n, 28);
                sent += 1;
            }
            Err(_) => {
                blocked += 1;
                std::thread::yield_now();
            }
        }
    }
    let mut other = volume.client(true);
    other.write(0, &[5; 1 << 20]).unwrap();
    assert_eq!(other.read(0, 1 << 20), Ok(vec![5; 1 << 20]));
    let status = volume.status();
    assert!(status.pool_in_use <= 9 << 20, "{}", status.pool_in_use);
    drop(slow);
    volume.wait_for("given back", |status| status.connections == 1 && status.pool_in_use == 0);
}

#[test]
fn memory_is_shared_in_turn_and_not_kept_by_sleepers() {
    let volume = Volume::new(DATA, tuning());
    // Together they announce all that they are let have, and send nothing more.
    let mut sleepers: Vec<_> = (0..7).map(|_| volume.client(true)).collect();
    for (i, sleeper) in sleepers.iter_mut().enumerate() {
        let request = sleeper.request(Command::Write, 0, 8 << 20);
        sleeper.send(&request, &[1; 100]);
        volume.wait_for("received", |status| status.pool_in_use >= (i + 1) * (8 << 20));
    }
    let mut model = vec![0; volume.export.size() as usize];
    let whole = model.len() as u32;
    // Twelve reads of 8 MiB do not fit the pool at once; each gets its turn when sleepers are gone.
    let mut clients: Vec<_> = (0..12).map(|_| volume.client(true)).collect();
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| assert!(client.read(0, whole).unwrap() == model));
        }
    });
    assert!(volume.status().clients.broken_connections > 0);
    model.fill(4);
    clients[0].write(0, &model).unwrap();
    check_all(&mut clients[1], &model);
}

/// Asks for `requests` reads of 1 MiB and takes nothing, ever.
fn gorge(client: &mut Client, requests: u64) {
    for i in 0..requests {
        let request = client.request(Command::Read, (i % 8) << 20, 1 << 20);
        client.send(&request, &[]);
    }
}

/// Eight clients that take nothing hold all that they can get; those who come later do not notice, however
/// long they wait, for the silent ones may stay: nobody waits for what they hold.
#[test]
fn silent_clients_leave_a_share_to_those_who_come_later() {
    let stall = Duration::from_secs(3600);
    let volume = Volume::new(DATA, Tuning { stall, ..tuning() });
    let mut silent: Vec<_> = (0..8).map(|_| volume.client(true)).collect();
    silent.iter_mut().for_each(|client| gorge(client, 64));
    // Requests are taken in order, so these are behind what the silent ones were let have.
    let mut model = vec![0; volume.export.size() as usize];
    let mut clients = [volume.client(true), volume.client(false)];
    for (i, client) in clients.iter_mut().enumerate() {
        client.write(0, &[i as u8; 4096]).unwrap();
        assert_eq!(client.read(0, 4096), Ok(vec![i as u8; 4096]));
        client.write(0, &[i as u8; 1 << 20]).unwrap();
        model[..1 << 20].fill(i as u8);
        churn(client, &mut model, &mut Rng(0x6e62_6406), 32, 100);
        check_all(client, &model);
    }
    let status = volume.status();
    assert_eq!((status.connections, status.clients.broken_connections), (10, 0));
    assert!(status.pool_in_use < 64 << 20, "{}", status.pool_in_use);
}

/// Half-sent writes of 32 MiB take the pool as a whole. A small request does not care; one that cannot go
/// on without what they hold waits no longer than two seconds, whatever `stall` says.
#[test]
fn those_who_keep_everything_lose_their_connection_and_only_they() {
    let stall = Duration::from_secs(3600);
    let volume = Volume::new(16 << 20, Tuning { stall, ..tuning() });
    let mut quiet = volume.client(true);
    quiet.write(0, &[1; 4096]).unwrap();
    let mut silent: Vec<_> = (0..4).map(|_| volume.client(true)).collect();
    for client in &mut silent {
        let request = client.request(Command::Write, 0, 32 << 20);
        client.send(&request, &[9; 1000]);
    }
    volume.wait_for("taken", |status| status.pool_in_use >= 32 << 20);
    let mut other = volume.client(true);
    for _ in 0..100 {
        assert_eq!(other.read(0, 4096), Ok(vec![1; 4096]));
    }
    assert_eq!(volume.status().connections, 6);
    let long = other.read(0, 24 << 20).unwrap();
    assert!(long[..4096] == [1; 4096] && long[4096..].iter().all(|byte| *byte == 0));
    assert_eq!(quiet.read(0, 4096), Ok(vec![1; 4096]));
    assert!(silent.iter_mut().any(Client::is_closed));
}

/// Whoever takes his answers slower than one request in `stall` is no better than one who takes none.
#[test]
fn a_trickle_is_no_progress_when_others_wait() {
    let stall = Duration::from_millis(500);
    let volume = Volume::new(16 << 20, Tuning { stall, ..tuning() });
    let mut trickle = volume.client(true);
    let request = trickle.request(Command::Write, 0, 32 << 20);
    trickle.send(&request, &[9; 1000]);
    volume.wait_for("taken", |status| status.pool_in_use == 32 << 20);
    let mut other = volume.client(true);
    let asked = other.request(Command::Read, 0, 24 << 20);
    other.send(&asked, &[]);
    let start = std::time::Instant::now();
    while !other.has_input() {
        let _ = std::io::Write::write(&mut trickle.stream, &[9]);
        assert!(start.elapsed() < Duration::from_secs(60), "the trickle keeps its memory");
        std::thread::yield_now();
    }
    assert_eq!(other.answer(&[asked]).1.unwrap().len(), 24 << 20);
}

/// The array has stopped; that somebody does not listen is no reason to wait for the deadline.
#[test]
fn a_silent_client_does_not_hold_up_a_stop() {
    let volume = Volume::new(DATA, tuning());
    let mut silent = volume.client(true);
    gorge(&mut silent, 32);
    volume.wait_for("gorged", |status| status.pool_in_use > 8 << 20 && status.requests_in_flight == 0);
    let start = std::time::Instant::now();
    assert_eq!(volume.stop().1, ShardExit::Stopped { clean: true });
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn a_disconnect_comes_after_every_answer() {
    let volume = Volume::new(DATA, tuning());
    let mut client = volume.client(true);
    let mut asked = Vec::new();
    for i in 0..100u64 {
        let command = if i % 2 == 0 { Command::Write } else { Command::Read };
        let request = client.request(command, i * 8192, 8192);
        client.send(&request, if i % 2 == 0 { &[8; 8192] } else { &[] });
        asked.push(request);
    }
    client.disconnect();
    for _ in 0..asked.len() {
        client.answer(&asked).1.unwrap();
    }
    assert!(client.is_closed());
    let status = volume.wait_for("closed", |status| status.connections == 0);
    assert_eq!((status.clients.writes, status.clients.reads), (50, 50));
    assert_eq!((status.clients.broken_connections, status.pool_in_use), (0, 0));
}

#[test]
fn a_client_that_vanishes_takes_nothing_with_it() {
    let volume = Volume::new(DATA, tuning());
    for round in 0..20u8 {
        let mut client = volume.client(true);
        for i in 0..64 {
            let request = client.request(Command::Write, i * 65536, 65536);
            client.send(&request, &[round; 65536]);
            let request = client.request(Command::Read, i * 65536, 65536);
            client.send(&request, &[]);
        }
    }
    let status = volume.wait_for("gone", |status| status.connections == 0 && status.requests_in_flight == 0);
    assert_eq!(status.pool_in_use, 0);
    let mut client = volume.client(true);
    client.write(0, &[1; 512]).unwrap();
}

#[test]
fn stopping_answers_what_is_in_flight_and_refuses_the_rest() {
    let volume = Volume::new(DATA, tuning());
    let mut client = volume.client(true);
    let mut asked = Vec::new();
    for i in 0..64u64 {
        let request = client.request(Command::Write, i * 4096, 4096);
        client.send(&request, &[i as u8 + 1; 4096]);
        asked.push(request);
    }
    let mut idle = volume.client(true);
    let (dir, exit) = volume.stop();
    assert_eq!(exit, ShardExit::Stopped { clean: true });
    assert!(idle.is_closed());
    // Every write was answered, unless the server stopped before it was read.
    let mut answered = Vec::new();
    while let Some((cookie, result)) = client.answer_or_end(&asked) {
        match result {
            Ok(_) => answered.push(cookie),
            Err(errno) => assert_eq!(errno, Errno::Shutdown),
        }
    }
    let volume = Volume::open(dir, tuning());
    let mut client = volume.client(true);
    for cookie in answered {
        let i = cookie - 1;
        assert_eq!(client.read(i * 4096, 4096), Ok(vec![i as u8 + 1; 4096]));
    }
}

#[test]
fn dropping_the_handle_stops_the_shard() {
    let volume = Volume::new(DATA, tuning());
    let mut client = volume.client(true);
    client.write(0, &[1; 512]).unwrap();
    let Volume { handle, exit, dir, .. } = volume;
    drop(handle.clone());
    assert_eq!(client.read(0, 512), Ok(vec![1; 512]));
    drop(handle);
    assert_eq!(exit.recv_timeout(Duration::from_secs(60)), Ok(ShardExit::Stopped { clean: true }));
    assert!(client.is_closed());
    assert_eq!(Volume::open(dir, tuning()).client(true).read(0, 512), Ok(vec![1; 512]));
}

#[test]
fn a_stopped_shard_says_so() {
    let volume = Volume::new(DATA, tuning());
    let handle = volume.handle.clone();
    volume.stop();
    // The thread tells how it ended as the very last thing, so its end of the channel is closed.
    assert!(handle.status(|_| {}).is_err());
}

#[test]
fn clients_come_over_tcp_too() {
    let volume = Volume::new(DATA, tuning());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    let mut client = volume.client_over(ours.into(), theirs.into(), Headers::Structured, &[]);
    let mut model = vec![0; volume.export.size() as usize];
    churn(&mut client, &mut model, &mut Rng(0x6e62_6405), 64, 200);
    check_all(&mut client, &model);
}

/// Says when it is dropped.
struct Lease(std::sync::mpsc::Sender<&'static str>, &'static str);

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

#[test]
fn a_connection_is_served_on_its_own_terms() {
    let volume = Volume::new(DATA, tuning());
    let (ended, ends) = std::sync::mpsc::channel();
    let connect = |name, idle| {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let lease: Option<Box<dyn Send>> = Some(Box::new(Lease(ended.clone(), name)));
        let terms = Terms { limits: None, idle, lease };
        volume.client_on(ours.into(), theirs.into(), Headers::Structured, &[], terms)
    };
    let short = Some(Duration::from_millis(700));
    let (mut silent, mut busy, mut patient) =
        (connect("silent", short), connect("busy", short), connect("patient", None));
    silent.read(0, 4096).unwrap();
    patient.read(0, 4096).unwrap();
    let begin = std::time::Instant::now();
    // The silent one goes when its time is over, the busy one stays well beyond it.
    let mut gone = None;
    while gone.is_none() || begin.elapsed() < Duration::from_millis(2500) {
        busy.read(0, 4096).unwrap();
        gone = gone.or_else(|| ends.try_recv().ok().map(|name| (name, begin.elapsed())));
        assert!(begin.elapsed() < Duration::from_secs(20), "the silent one was never closed");
    }
    let (name, after) = gone.unwrap();
    assert!(name == "silent" && after >= Duration::from_millis(500), "{name} after {after:?}");
    patient.read(0, 4096).unwrap();
    // Every other end ends the lease, too.
    drop(busy);
    assert_eq!(ends.recv_timeout(Duration::from_secs(20)), Ok("busy"));
    volume.stop();
    assert_eq!(ends.recv_timeout(Duration::from_secs(20)), Ok("patient"));
}

#[test]
fn the_groups_of_a_peer_are_those_of_this_process() {
    use std::os::fd::AsFd;
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut groups = peer_groups(ours.as_fd()).unwrap();
    let mut own: Vec<u32> = nix::unistd::getgroups().unwrap().into_iter().map(|gid| gid.as_raw()).collect();
    groups.sort();
    own.sort();
    assert_eq!(groups, own);
    let (pipe, _other) = nix::unistd::pipe().unwrap();
    assert!(peer_groups(pipe.as_fd()).is_err());
}

/// The members may be too slow for as many zeroes as a stop waits for: half of its time is for what cannot be
/// cut short.
#[test]
fn a_stop_comes_to_a_good_end_in_its_time() {
    let volume = Volume::new(64 << 20, tuning());
    let size = volume.export.size();
    let mut client = volume.client(true);
    let asked: Vec<_> = (0..15).map(|_| client.request(Command::WriteZeroes, 0, size as u32)).collect();
    asked.iter().for_each(|request| client.send(request, &[]));
    volume.wait_for("busy", |status| status.requests_in_flight == asked.len());
    volume.handle.stop(Duration::from_secs(10)).unwrap();
    for _ in &asked {
        let answer = client.answer(&asked).1;
        assert!(matches!(answer, Ok(_) | Err(Errno::Shutdown)), "{answer:?}");
    }
    assert_eq!(volume.stop().1, ShardExit::Stopped { clean: true });
}
