//! A scrub as an operator sees it.

use std::os::unix::fs::FileExt;

use crate::world::World;

#[test]
fn a_scrub_tells_what_does_not_match_and_repairs_it_when_asked() {
    let world = World::new(5, 3);
    let daemon = world.serve();
    let mut client = world.client();
    client.write(0, &[0x5a; 4 << 20]).unwrap();
    client.flush().unwrap();
    let good = world.ctl("scrub", &["--wait"]);
    assert_eq!(
        (good.code, good.stdout.as_str()),
        (0, "parity of all stripes matches the data\n"),
        "{good:?}"
    );

    let member = std::fs::OpenOptions::new().write(true).open(&world.members[1]).unwrap();
    member.write_all_at(&[0x11; 512], 10 << 20).unwrap();
    member.sync_all().unwrap();
    for _ in 0..2 {
        let bad = world.ctl("scrub", &["--wait"]);
        assert!(bad.code == 1 && bad.stderr.contains("parity of 1 stripes does not match"), "{bad:?}");
    }
    assert_eq!(world.status()["counters"]["resync_mismatches"], 0);
    let repaired = world.ctl("scrub", &["--repair", "--wait"]);
    assert!(repaired.code == 0 && repaired.stdout.contains("was rewritten"), "{repaired:?}");
    assert_eq!(world.status()["counters"]["resync_mismatches"], 1);
    assert_eq!(world.ctl("scrub", &["--wait"]).code, 0);

    let begun = world.ctl("scrub", &[]);
    assert!(begun.code == 0 && begun.stdout.contains("begins"), "{begun:?}");
    daemon.terminate();
    world.assert_all_clean();
}

#[test]
fn a_scrub_of_an_array_without_parity_to_spare_is_refused() {
    let world = World::new(5, 3);
    let daemon = world.serve();
    assert_eq!(world.ctl("fail", &[world.members[0].to_str().unwrap()]).code, 0);
    let refused = world.ctl("scrub", &["--wait"]);
    assert!(refused.code == 1 && refused.stderr.contains("no parity is left"), "{refused:?}");
    daemon.terminate();
}
