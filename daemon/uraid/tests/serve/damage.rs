//! Members that are damaged while they are served.

use crate::world::World;

#[test]
fn a_member_file_that_is_cut_short_is_failed_and_no_byte_is_lost() {
    const BYTES: usize = 40 << 20;
    let world = World::new(5, 4);
    let daemon = world.serve();
    let mut client = world.client();
    for at in (0..BYTES).step_by(1 << 20) {
        client.write(at as u64, &vec![0x5a; 1 << 20]).unwrap();
    }
    client.flush().unwrap();
    let cut = std::fs::OpenOptions::new().write(true).open(&world.members[0]).unwrap();
    cut.set_len(8 << 20).unwrap();
    let data = client.read_all();
    assert!(data[..BYTES].iter().all(|byte| *byte == 0x5a), "a hole was read as data");
    assert!(data[BYTES..].iter().all(|byte| *byte == 0));
    let status = world.status();
    assert_eq!((&status["state"], &status["degraded"]), (&"degraded".into(), &1.into()), "{status:#}");
    let m0 = world.members[0].to_str().unwrap();
    let failed = status["members"].as_array().unwrap().iter().find(|member| member["path"] == m0).unwrap();
    assert_eq!(failed["state"], "failed", "{status:#}");
    assert_eq!(cut.metadata().unwrap().len(), 8 << 20, "it did not grow back");
    daemon.terminate();
}

#[test]
fn a_member_file_that_is_cut_short_is_noticed_before_a_flush_is_answered() {
    let world = World::new(5, 3);
    let daemon = world.serve();
    let mut client = world.client();
    client.write(0, &[0x5a; 4 << 20]).unwrap();
    let cut = std::fs::OpenOptions::new().write(true).open(&world.members[2]).unwrap();
    cut.set_len(1 << 20).unwrap();
    client.flush().unwrap();
    let status = world.status();
    assert_eq!(status["degraded"], 1, "{status:#}");
    assert_eq!(client.read(0, 4 << 20).unwrap(), vec![0x5a; 4 << 20]);
    daemon.terminate();
}
