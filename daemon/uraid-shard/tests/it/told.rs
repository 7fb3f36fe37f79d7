//! What a shard says about itself: how long things took, and what happened.

use std::time::{Duration, Instant};

use nbd_rs::Command;
use uraid_core::{Notice, Role, SyncKind};
use uraid_shard::{ClientOp, MemberName, MemberOp, News, OpStats, ShardStatus};

use crate::volume::{Client, Volume, tuning};

fn client_op(status: &ShardStatus, op: ClientOp) -> OpStats {
    status.client_ops[op as usize]
}

fn flush(client: &mut Client) {
    let request = client.request(Command::Flush, 0, 0);
    client.ask(request, &[]).unwrap();
}

/// Every request is counted once, with its bytes, and the time of all is within the time of the test.
#[test]
fn what_was_asked_and_how_long_it_took() {
    let started = Instant::now();
    let volume = Volume::new(8 << 20, tuning());
    let mut client = volume.client(true);
    for i in 0..10 {
        client.write(i * (256 << 10), &[7; 256 << 10]).unwrap();
    }
    for i in 0..20 {
        client.read(i * 4096, 4096).unwrap();
    }
    let zeroes = client.request(Command::WriteZeroes, 0, 64 << 10);
    client.ask(zeroes, &[]).unwrap();
    flush(&mut client);
    let status = volume.status();
    let elapsed = u64::try_from(started.elapsed().as_nanos()).unwrap();
    for (op, count, bytes) in [
        (ClientOp::Read, 20, 20 * 4096),
        (ClientOp::Write, 10, 10 * (256 << 10)),
        (ClientOp::WriteZeroes, 1, 64 << 10),
        (ClientOp::Flush, 1, 0),
    ] {
        let stats = client_op(&status, op);
        assert_eq!((stats.latency.count(), stats.bytes), (count, bytes), "{op:?}");
        assert!(stats.latency.sum_ns > 0 && stats.latency.sum_ns < elapsed, "{op:?}: {stats:?}");
    }
    let ops = |op: MemberOp| status.members.iter().map(move |member| member.ops[op as usize]);
    for op in MemberOp::ALL {
        assert!(ops(op).all(|stats| stats.latency.sum_ns < elapsed), "{op:?}");
    }
    let sum = |op: MemberOp| ops(op).fold((0, 0), |(n, b), s| (n + s.latency.count(), b + s.bytes));
    assert_eq!(sum(MemberOp::Read), (status.io.reads, status.io.read_bytes));
    assert_eq!(sum(MemberOp::Write), (status.io.writes, status.io.write_bytes));
    assert_eq!(sum(MemberOp::Flush).0, status.io.flushes);
    assert_eq!(sum(MemberOp::WriteMeta).0, status.io.meta_writes);
    assert!(ops(MemberOp::Write).all(|stats| stats.latency.count() > 0 && stats.latency.sum_ns > 0));
    volume.stop();
}

/// A failure, a device in its place and its rebuild, as they are told.
#[test]
fn what_happened_is_told_in_order() {
    let volume = Volume::new(1 << 20, tuning());
    let (tell, answer) = std::sync::mpsc::channel();
    volume.handle.fail(MemberName::Role(Role(2)), move |result| tell.send(result).unwrap()).unwrap();
    answer.recv().unwrap().unwrap();
    volume.wait_for("degraded", |status| status.array.missing == 1);
    let path = volume.member_path(2);
    let member = volume.reopen_member(2);
    let (tell, answer) = std::sync::mpsc::channel();
    volume.handle.add(member, [9; 16], None, move |result| tell.send(result).unwrap()).unwrap();
    answer.recv().unwrap().unwrap();
    let told: Vec<String> = std::iter::from_fn(|| {
        let news = volume.news.recv_timeout(Duration::from_secs(60)).unwrap();
        Some(match news {
            News::Notice { record, missing, promoted } => {
                let what = match record.notice {
                    Notice::MemberFailed { role, .. } => format!("failed {role}"),
                    Notice::SyncStarted { kind: SyncKind::Rebuild } => "rebuild".to_owned(),
                    Notice::MemberInSync { role, .. } => format!("in sync {role}"),
                    // The last one, whichever of the two it is.
                    Notice::SyncFinished { complete: true, .. } => return None,
                    other => format!("{other:?}"),
                };
                let roles: Vec<_> = promoted.iter().map(|(at, role)| (at == &path, role.0)).collect();
                format!("{what}, missing {missing}, promoted {roles:?}")
            }
            News::Added(at) => format!("added {}", at == path),
            other => format!("{other:?}"),
        })
    })
    .collect();
    let expected = [
        "failed 2, missing 1, promoted []",
        "added true",
        "rebuild, missing 1, promoted [(true, 2)]",
        "in sync 2, missing 0, promoted []",
    ];
    assert_eq!(told, expected);
    volume.stop();
}
