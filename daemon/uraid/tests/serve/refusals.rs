//! What the daemon does not serve, and what it says then. The verdicts over members are tested with
//! assembly; here it is that the daemon ends with them, having made nothing.

use crate::world::World;

/// Runs `serve` where it must fail.
fn refused(world: &World, options: &[&str], members: &[std::path::PathBuf], code: i32) -> String {
    let args = world.serve_args(options, members);
    let run = world.uraid(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((run.code, run.stdout.as_str()), (code, ""), "{run:?}");
    run.stderr
}

#[test]
fn too_few_members_are_told_with_their_roles() {
    let world = World::new(5, 4);
    let text = refused(&world, &[], &world.members[2..], 1);
    assert!(
        text.contains("too few members: raid5 of 4 can do without 1 and roles 0, 1 are missing"),
        "{text}"
    );
    assert!(!world.socket().exists() && !world.control().exists());
    let text = refused(&world, &[], &[world.path("none")], 1);
    assert!(text.contains("none: "), "{text}");
}

#[test]
fn a_second_daemon_gets_neither_members_nor_sockets() {
    let world = World::new(5, 3);
    let other = World::new(5, 3);
    let daemon = world.serve();
    let text = refused(&world, &[], &world.members, 1);
    assert!(text.contains("m0: it is in use") && text.contains("may be running elsewhere"), "{text}");
    let text = refused(&world, &[], &other.members, 1);
    assert!(text.contains("already listening"), "{text}");
    // The first one did not notice.
    world.client().write(0, &[1; 4096]).unwrap();
    daemon.terminate();
}

#[test]
fn another_name_is_refused() {
    let world = World::new(5, 3);
    let text = refused(&world, &["--name", "other"], &world.members, 1);
    assert!(text.contains("vol\"") && text.contains("\"other\""), "{text}");
}

#[test]
fn addresses_that_cannot_be_had_are_named() {
    let world = World::new(5, 3);
    let text = refused(&world, &["--listen", "tcp:0.0.0.0:0"], &world.members, 2);
    assert!(text.contains("other machines"), "{text}");
    let text = refused(&world, &["--listen", "unix:/nonexistent/s"], &world.members, 1);
    assert!(text.contains("/nonexistent/s: cannot make the socket"), "{text}");
    std::fs::write(world.path("file"), "mine").unwrap();
    let file = format!("unix:{}", world.path("file").display());
    let text = refused(&world, &["--listen", &file], &world.members, 1);
    assert!(text.contains("not a socket"), "{text}");
    assert!(!world.socket().exists() && !world.control().exists());
    world.assert_all_clean();
}

#[test]
fn a_configuration_with_problems_is_told_all_of_them() {
    let world = World::new(5, 3);
    std::fs::write(world.path("v.toml"), "members = [1]\nlisten = [\"ftp:x\"]\nfoo = 1\n").unwrap();
    let run = world.uraid(&["serve", "v.toml"]);
    assert_eq!(run.code, 2, "{run:?}");
    for line in ["v.toml:1:", "v.toml:2:", "v.toml:3:"] {
        assert!(run.stderr.contains(line), "{line} in {}", run.stderr);
    }
    let run = world.uraid(&["serve", "none.toml"]);
    assert!(run.code == 1 && run.stderr.contains("none.toml"), "{run:?}");
}
