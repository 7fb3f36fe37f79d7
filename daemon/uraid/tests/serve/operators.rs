//! What operators do to a running array.

use serde_json::Value;

use crate::world::{Rng, World};

fn member_states(status: &Value) -> Vec<&str> {
    status["members"].as_array().unwrap().iter().map(|member| member["state"].as_str().unwrap()).collect()
}

fn whole(status: &Value) -> bool {
    status["degraded"] == 0 && status["sync"].is_null()
}

#[test]
fn the_status_says_what_is_known() {
    let world = World::new(6, 4);
    let _daemon = world.serve();
    let status = world.wait_for("clean", |status| status["state"] == "clean");
    for (field, value) in [
        ("version", Value::from(1)),
        ("name", "vol".into()),
        ("level", 6.into()),
        ("layout", "left-symmetric".into()),
        ("chunk_bytes", 16384.into()),
        ("size_bytes", (30 << 20).into()),
        ("read_only", false.into()),
        ("dirty", false.into()),
        ("degraded", 0.into()),
        ("raid_disks", 4.into()),
        ("mkfs_hint", "mkfs.ext4 -b 4096 -E stride=4,stripe_width=8 DEVICE".into()),
    ] {
        assert_eq!(status[field], value, "{field}");
    }
    assert_eq!(status["uuid"], world.examine(&world.members[0])["array_uuid"]);
    assert!(status["kernels"]["pq"].is_string());
    for (role, member) in status["members"].as_array().unwrap().iter().enumerate() {
        assert_eq!(member["path"], world.members[role].to_str().unwrap());
        assert_eq!((&member["role"], &member["state"]), (&role.into(), &"in_sync".into()));
        assert!(["uring", "sync"].contains(&member["io"].as_str().unwrap()));
    }
    let text = world.ctl("status", &[]).stdout;
    assert!(text.starts_with("vol : clean raid6 m0[0] m1[1] m2[2] m3[3]\n"), "{text}");
}

#[test]
fn members_are_failed_replaced_and_rebuilt_while_clients_work() {
    let world = World::new(6, 5);
    let daemon = world.serve();
    let mut client = world.client();
    let size = client.remote.size;
    let mut model = Rng(0x6f70_6572).bytes(size as usize);
    for (i, piece) in model.chunks(1 << 20).enumerate() {
        client.write((i as u64) << 20, piece).unwrap();
    }
    for index in [0, 3] {
        let run = world.ctl("fail", &[world.members[index].to_str().unwrap()]);
        assert_eq!(run.code, 0, "{run:?}");
    }
    let status = world.status();
    assert_eq!(
        member_states(&status),
        ["missing", "in_sync", "in_sync", "missing", "in_sync", "failed", "failed"]
    );
    assert_eq!((&status["state"], &status["degraded"]), (&"degraded".into(), &2.into()));
    assert!(client.read_all() == model);

    // A third one is more than parity covers.
    let run = world.ctl("fail", &[world.members[1].to_str().unwrap()]);
    assert!(run.code == 1 && run.stderr.contains("cannot do without it"), "{run:?}");
    let run = world.ctl("fail", &["/nonexistent"]);
    assert!(run.code == 1 && run.stderr.contains("no such member"), "{run:?}");

    // A blank one in place of the first, and the second one itself, which may have been out of order for
    // a moment only.
    let fresh = world.blank("fresh", 16 << 20);
    for path in [&fresh, &world.members[3]] {
        let run = world.ctl("add", &[path.to_str().unwrap()]);
        assert!(run.code == 0 && run.stdout.contains("is added"), "{run:?}");
        let mut rng = Rng(0x6164_6465);
        for _ in 0..50 {
            let offset = rng.below(size / 4096 - 8) * 4096;
            let data = rng.bytes(32768);
            client.write(offset, &data).unwrap();
            model[offset as usize..][..data.len()].copy_from_slice(&data);
        }
    }
    let status = world.wait_for("rebuilt", whole);
    assert_eq!(member_states(&status), ["in_sync", "in_sync", "in_sync", "in_sync", "in_sync", "failed"]);
    assert_eq!(status["members"][5]["path"], world.members[0].to_str().unwrap());
    assert!(client.read_all() == model);
    let run = world.ctl("add", &[fresh.to_str().unwrap()]);
    assert!(run.code == 1 && run.stderr.contains("a member of this array already"), "{run:?}");

    // The rebuilt members carry the data of two others.
    for index in [1, 2] {
        assert_eq!(world.ctl("fail", &[world.members[index].to_str().unwrap()]).code, 0);
    }
    assert!(client.read_all() == model);
    daemon.terminate();
    let members = [fresh, world.members[3].clone(), world.members[4].clone()];
    let daemon = world.serve_with(&[], &members);
    assert!(world.client().read_all() == model);
    daemon.terminate();
}

#[test]
fn a_spare_takes_over_when_a_member_fails() {
    let world = World::new(5, 3);
    let daemon = world.serve();
    world.client().write(0, &[5; 65536]).unwrap();
    let spare = world.blank("spare", 20 << 20);
    let run = world.ctl("add", &[spare.to_str().unwrap()]);
    assert!(run.code == 0 && run.stdout.contains("it is a spare"), "{run:?}");
    assert_eq!(member_states(&world.status())[3], "spare");
    assert_eq!(world.ctl("fail", &[world.members[2].to_str().unwrap()]).code, 0);
    let status = world.wait_for("rebuilt", whole);
    assert_eq!(status["members"][2]["path"], spare.to_str().unwrap());
    assert_eq!(world.client().read(0, 65536).unwrap(), [5; 65536]);
    daemon.terminate();
}

#[test]
fn only_what_may_be_overwritten_is_added() {
    let world = World::new(5, 3);
    let other = World::new(5, 3);
    let daemon = world.serve();
    let full = world.path("letter");
    std::fs::write(&full, vec![b'x'; 16 << 20]).unwrap();
    let small = world.blank("small", 4 << 20);
    let foreign = &other.members[0];
    for (path, why) in [
        (&full, "data of unknown kind"),
        (&small, "is too small: it has 4.0 MiB, the array needs 16.0 MiB"),
        (foreign, "a member of an array"),
        (&world.members[0], "a member of this array already"),
        (&world.path("nothing"), "No such file"),
        (&world.path("."), "a directory"),
    ] {
        let before = std::fs::read(path).ok();
        let run = world.ctl("add", &[path.to_str().unwrap()]);
        assert!(run.code == 1 && run.stderr.contains(why), "{}: {run:?}", path.display());
        if path != &world.members[0] {
            assert!(before == std::fs::read(path).ok());
        }
    }
    assert_eq!(world.status()["members"].as_array().unwrap().len(), 3);

    let run = world.ctl("add", &["--force", foreign.to_str().unwrap()]);
    assert_eq!(run.code, 0, "{run:?}");
    daemon.terminate();
    assert_eq!(world.examine(foreign)["array_uuid"], world.examine(&world.members[0])["array_uuid"]);
}

#[test]
fn a_read_only_array_takes_nothing_from_a_device_even_by_force() {
    let world = World::new(5, 3);
    let other = World::new(5, 3);
    let foreign = &other.members[0];
    let before = std::fs::read(foreign).unwrap();
    let daemon = world.serve_with(&["--read-only"], &world.members);
    let run = world.ctl("add", &["--force", foreign.to_str().unwrap()]);
    assert!(run.code == 1 && run.stderr.contains("read-only"), "{run:?}");
    assert!(std::fs::read(foreign).unwrap() == before);
    daemon.terminate();
}

#[test]
fn a_failed_member_is_let_go_and_known_by_any_of_its_names() {
    let world = World::new(5, 3);
    let daemon = world.serve();
    let link = world.path("by-another-name");
    std::os::unix::fs::symlink(&world.members[1], &link).unwrap();
    assert_eq!(world.ctl("fail", &[link.to_str().unwrap()]).code, 0);
    assert_eq!(member_states(&world.status()), ["in_sync", "missing", "in_sync", "failed"]);
    // Nobody holds it any more, so it can become part of something else.
    let args = ["create", "--level", "5", "--name", "w", "--size", "16M", "--force", "m1", "n1", "n2"];
    let run = world.uraid(&args);
    assert_eq!(run.code, 0, "{run:?}");
    let run = world.uraid(&["create", "--level", "5", "--name", "w", "--force", "m0", "n1", "n2"]);
    assert!(run.code == 1 && run.stderr.contains("in use"), "{run:?}");
    daemon.terminate();
}
