//! One process lets go of its clients, the next one goes on with them: whatever was sent, received or
//! answered half at that moment.

use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::time::Duration;

use nbd_rs::{Command, Headers, Negotiated, Request, Session};
use uraid_shard::{ConnectionKind, HandedOver, NewConnection, ShardExit};

use crate::volume::{Client, Rng, Volume, tuning};

const DATA: u64 = 2 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Hands over to a new shard over the same members.
fn succeed(volume: Volume) -> Volume {
    let (dir, handed) = let_go(volume);
    assert!(handed.clean);
    let next = Volume::open(dir, tuning());
    for connection in handed.connections {
        next.handle.connect(connection).unwrap();
    }
    next
}

fn let_go(volume: Volume) -> (tempfile::TempDir, HandedOver) {
    let (tell, told) = channel();
    volume.handle.hand_over(PATIENCE, move |handed| tell.send(handed).unwrap()).unwrap();
    let handed = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(volume.exit.recv_timeout(PATIENCE).unwrap(), ShardExit::Stopped { clean: true });
    (volume.dir, handed)
}

fn connect(volume: &Volume, kind: ConnectionKind) -> Client {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let session = Session::new(&volume.export, &Negotiated::default());
    let mut new = NewConnection::client(theirs.into(), session, vec![], "test".to_owned());
    new.kind = kind;
    volume.handle.connect(new).unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    Client::over(ours)
}

/// The stream of requests is cut at arbitrary bytes, in headers and in payloads, and goes on at the next
/// shard as if nothing had been.
#[test]
fn a_stream_may_be_cut_at_any_byte() {
    let mut volume = Volume::new(DATA, tuning());
    let mut rng = Rng(0x4a4d_0001);
    let size = volume.export.size();
    let mut clients: Vec<Client> = (0..3).map(|i| volume.client(i % 2 == 0)).collect();
    clients.push(connect(&volume, ConnectionKind::Kernel));
    clients.push(volume.client_of(Headers::Extended, &[]));
    let share = size / clients.len() as u64 / 4096 * 4096;
    let mut model = vec![0; size as usize];
    for _ in 0..6 {
        // What each client says: its own part of the volume, in writes that do not overlap, and reads of it.
        let mut said: Vec<(Vec<u8>, Vec<Request>)> = Vec::new();
        for (client, base) in clients.iter_mut().zip((0..).map(|i| i * share)) {
            let (mut bytes, mut asked, mut at) = (Vec::new(), Vec::new(), 0);
            while at < share && asked.len() < 12 {
                let len = ((1 + rng.below(200)) * 512).min(share - at);
                let request = client.request(Command::Write, base + at, len as u32);
                let payload = rng.bytes(len as usize);
                model[(base + at) as usize..][..len as usize].copy_from_slice(&payload);
                bytes.extend(client.header(&request));
                bytes.extend(payload);
                asked.push(request);
                at += len;
            }
            said.push((bytes, asked));
        }
        let cuts: Vec<usize> = said.iter().map(|(bytes, _)| rng.below(bytes.len() as u64) as usize).collect();
        for ((client, (bytes, _)), cut) in clients.iter_mut().zip(&said).zip(&cuts) {
            client.send_raw(&bytes[..*cut]);
        }
        volume = succeed(volume);
        for ((client, (bytes, asked)), cut) in clients.iter_mut().zip(&said).zip(&cuts) {
            client.send_raw(&bytes[*cut..]);
            let mut cookies: Vec<u64> = asked
                .iter()
                .map(|_| client.answer(asked))
                .map(|(cookie, answer)| {
                    assert_eq!(answer, Ok(vec![]));
                    cookie
                })
                .collect();
            cookies.sort_unstable();
            assert_eq!(cookies, asked.iter().map(|request| request.cookie).collect::<Vec<_>>());
        }
    }
    for (i, expected) in model.chunks(1 << 20).enumerate() {
        assert!(clients[0].read((i << 20) as u64, expected.len() as u32).unwrap() == expected, "MiB {i}");
    }
    assert_eq!(volume.stop().1, ShardExit::Stopped { clean: true });
}

/// Zeroes of the whole volume take long: a hand-over does not wait for them, and the successor does them,
/// in order with what was sent behind them.
#[test]
fn zeroes_that_take_long_go_along() {
    let mut volume = Volume::new(64 << 20, tuning());
    let size = volume.export.size();
    let mut client = volume.client(true);
    let mut beside = volume.client_of(Headers::Extended, &[]);
    client.write(0, &[0xee; 4096]).unwrap();
    client.write(size - 4096, &[0xee; 4096]).unwrap();
    for round in 0..5_u8 {
        let zeroes = client.request(Command::WriteZeroes, 0, size as u32);
        client.send(&zeroes, &[]);
        let write = client.request(Command::Write, size - 4096, 4096);
        client.send(&write, &[round; 4096]);
        let more = beside.request(Command::WriteZeroes, 4096, (size - 8192) as u32);
        beside.send(&more, &[]);
        volume.wait_for("busy", |status| status.requests_in_flight >= 3);
        volume = succeed(volume);
        let asked = [zeroes, write];
        let answers = [client.answer(&asked), client.answer(&asked)];
        assert!(answers.iter().all(|(_, answer)| *answer == Ok(vec![])), "{answers:?}");
        assert_eq!(beside.answer(&[more]).1, Ok(vec![]));
        assert_eq!(client.read(0, 4096).unwrap(), [0; 4096]);
        assert_eq!(client.read(size - 4096, 4096).unwrap(), [round; 4096], "the write came after the zeroes");
    }
    assert_eq!(volume.stop().1, ShardExit::Stopped { clean: true });
}

/// What was asked before the end of a stream is done and answered, by the successor if need be.
#[test]
fn a_client_at_its_end_is_answered_by_the_successor() {
    let mut volume = Volume::new(64 << 20, tuning());
    let size = volume.export.size();
    for round in 0..4_u8 {
        let headers = [Headers::Simple, Headers::Extended][usize::from(round % 2)];
        let mut client = volume.client_of(headers, &[]);
        client.write(0, &[0xee; 4096]).unwrap();
        let zeroes = client.request(Command::WriteZeroes, 0, size as u32);
        client.send(&zeroes, &[]);
        let write = client.request(Command::Write, size - 4096, 4096);
        client.send(&write, &[round; 4096]);
        match round / 2 {
            0 => client.disconnect(),
            _ => client.stream.shutdown(std::net::Shutdown::Write).unwrap(),
        }
        volume.wait_for("busy", |status| status.requests_in_flight >= 2);
        for _ in 0..3 {
            volume = succeed(volume);
        }
        let asked = [zeroes, write];
        let answers = [client.answer(&asked), client.answer(&asked)];
        assert!(answers.iter().all(|(_, answer)| *answer == Ok(vec![])), "{answers:?}");
        assert!(client.is_closed());
        let mut other = volume.client(true);
        assert_eq!(other.read(0, 4096).unwrap(), [0; 4096]);
        assert_eq!(other.read(size - 4096, 4096).unwrap(), [round; 4096]);
    }
    assert_eq!(volume.stop().1, ShardExit::Stopped { clean: true });
}

/// A client that takes nothing for a while gets all of its answers in the end, each once.
#[test]
fn answers_that_were_not_taken_go_along() {
    let volume = Volume::new(DATA, tuning());
    let mut client = volume.client(true);
    let data = Rng(5).bytes(1 << 20);
    client.write(0, &data).unwrap();
    let asked: Vec<Request> = (0..12).map(|_| client.request(Command::Read, 0, 1 << 20)).collect();
    asked.iter().for_each(|request| client.send(request, &[]));
    let mut volume = succeed(volume);
    for _ in 0..2 {
        volume = succeed(volume);
    }
    for _ in &asked {
        assert!(client.answer(&asked).1.unwrap() == data);
    }
    assert!(!client.has_input());
    assert_eq!(client.read(512, 512).unwrap(), &data[512..1024]);
}

/// Requests that cannot be handed over as they are: the rest of a payload that nobody wants is waited for,
/// and those who do not send it are disconnected; the others go on.
#[test]
fn a_payload_that_nobody_wants_does_not_hold_up_others() {
    let volume = Volume::new(DATA, tuning());
    let (mut slow, mut good, mut idle) = (volume.client(false), volume.client(false), volume.client(true));
    let beyond = volume.export.size();
    let refused = slow.request(Command::Write, beyond, 1 << 20);
    slow.send(&refused, &[]);
    slow.send_raw(&[7; 1000]);
    let refused = good.request(Command::Write, beyond, 1 << 20);
    good.send(&refused, &[]);
    good.send_raw(&[7; 1000]);
    // Both are in the middle of it.
    idle.write(0, &[1; 512]).unwrap();
    let rest = std::thread::spawn(move || {
        good.send_raw(&vec![7; (1 << 20) - 1000]);
        assert!(good.answer(&[refused]).1.is_err());
        good
    });
    let volume = succeed(volume);
    assert!(slow.is_closed());
    let mut good = rest.join().unwrap();
    assert_eq!(good.read(0, 512).unwrap(), [1; 512]);
    assert_eq!(idle.read(0, 512).unwrap(), [1; 512]);
    drop(volume);
}

#[test]
fn a_client_behind_a_proxy_is_answered_and_closed() {
    let volume = Volume::new(DATA, tuning());
    let mut client = connect(&volume, ConnectionKind::Proxied);
    client.write(4096, &[9; 4096]).unwrap();
    let (dir, handed) = let_go(volume);
    assert!(handed.connections.is_empty());
    drop(handed);
    assert!(client.is_closed());
    let volume = Volume::open(dir, tuning());
    assert_eq!(volume.client(true).read(4096, 512).unwrap(), [9; 512]);
}

#[test]
fn a_stop_is_no_hand_over() {
    let volume = Volume::new(DATA, tuning());
    let _client = volume.client(true);
    volume.handle.stop(PATIENCE).unwrap();
    let (tell, told) = channel::<HandedOver>();
    // It may be gone already, which is the same answer.
    let _ = volume.handle.hand_over(PATIENCE, move |handed| tell.send(handed).unwrap());
    assert!(told.recv_timeout(PATIENCE).is_err());
    assert_eq!(volume.exit.recv_timeout(PATIENCE).unwrap(), ShardExit::Stopped { clean: true });
}

/// The kernel gives up on a connection, sends its write again on another one, is answered, and writes
/// something newer: the copy that still lies in the first socket must not be written then.
#[test]
fn what_the_kernel_has_given_up_on_is_not_begun() {
    let volume = Volume::new(DATA, tuning());
    let mut second = connect(&volume, ConnectionKind::Kernel);
    let mut busy = volume.client(true);
    for round in 0..60_u8 {
        let mut first = connect(&volume, ConnectionKind::Kernel);
        first.read(0, 512).unwrap();
        // While the shard has this in hand, all that follows comes together.
        let load = busy.request(Command::Write, 1 << 20, 4 << 20);
        busy.send(&load, &vec![round; 4 << 20]);
        let late = first.request(Command::Write, 0, 64 << 10);
        first.send(&late, &vec![0xee; 64 << 10]);
        first.stream.shutdown(std::net::Shutdown::Both).unwrap();
        let again = second.request(Command::Write, 0, 64 << 10);
        second.send(&again, &vec![0xee; 64 << 10]);
        let newer = second.request(Command::Write, 0, 4096);
        second.send(&newer, &[round; 4096]);
        let asked = [again, newer];
        assert_eq!((second.answer(&asked).1, second.answer(&asked).1), (Ok(vec![]), Ok(vec![])));
        assert_eq!(busy.answer(&[load]).1, Ok(vec![]));
        volume.wait_for("rid of the first", |status| status.connections == 2);
        assert_eq!(second.read(0, 512).unwrap(), [round; 512], "round {round}");
    }
    assert!(volume.status().clients.broken_connections > 0, "nothing was ever late");
}
