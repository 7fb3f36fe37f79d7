//! A loop device and the file behind it are one device: nobody gets to serve the same bytes twice.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::World;

/// A loop device over a file; let go of at the end.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Loop {
        Loop::with(&["--show", "-f"], file)
    }

    fn with(options: &[&str], file: &Path) -> Loop {
        let output = Command::new("/sbin/losetup").args(options).arg(file).output();
        let output = output.unwrap_or_else(|error| panic!("this test needs losetup of util-linux: {error}"));
        assert!(output.status.success(), "this test needs to be root, with loop devices: {output:?}");
        Loop(String::from_utf8(output.stdout).unwrap().trim().into())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("/sbin/losetup").arg("-d").arg(&self.0).status();
    }
}

/// Tries to serve these members elsewhere; gives what is said against it.
fn refused(world: &World, members: &[&Path]) -> String {
    let (socket, control) = (world.path("other.sock"), world.path("other.control"));
    let socket = format!("unix:{}", socket.display());
    let fixed = ["serve", "--listen", &socket, "--control", control.to_str().unwrap()];
    let members: Vec<&str> = members.iter().map(|path| path.to_str().unwrap()).collect();
    let run = world.uraid(&[&fixed[..], &members].concat());
    assert_eq!(run.code, 1, "{run:?}");
    run.stderr
}

#[test]
fn a_file_is_in_use_while_its_loop_device_is_served_under_whatever_name() {
    let world = World::new(5, 3);
    let link = world.path("link");
    std::fs::hard_link(&world.members[0], &link).unwrap();
    let device = Loop::over(&world.members[0]);
    let mut members = world.members.clone();
    members[0].clone_from(&device.0);
    let daemon = world.serve_with(&[], &members);
    for name in [&world.members[0], &link] {
        let why = refused(&world, &[name]);
        assert!(why.contains("is in use: "), "{why}");
    }
    let second = Loop::over(&link);
    let why = refused(&world, &[&second.0]);
    assert!(why.contains("is in use: ") && why.contains("behind it"), "{why}");
    // The array's member by its other name.
    let added = world.ctl("add", &["--force", link.to_str().unwrap()]);
    assert!(added.code == 1 && added.stderr.contains("is a member of this array already"), "{added:?}");
    let failed = world.ctl("fail", &[link.to_str().unwrap()]);
    assert_eq!(failed.code, 0, "{failed:?}");
    daemon.terminate();
}

#[test]
fn a_loop_device_is_in_use_while_its_file_is_served() {
    let world = World::new(5, 3);
    let daemon = world.serve();
    let device = Loop::over(&world.members[1]);
    let over_it = Loop::over(&device.0);
    for path in [&device.0, &over_it.0] {
        let why = refused(&world, &[path]);
        assert!(why.contains("is in use: ") && why.contains("behind it"), "{why}");
    }
    daemon.terminate();
}

#[test]
fn a_file_and_its_loop_device_are_not_two_members() {
    let world = World::new(5, 3);
    let (a, b) = (world.blank("a", 16 << 20), world.blank("b", 16 << 20));
    let device = Loop::over(&a);
    let [a, b, device] = [&a, &b, &device.0].map(|path| path.to_str().unwrap());
    let run = world.uraid(&["create", "--level", "5", "--name", "x", device, a, b]);
    assert!(run.code == 1 && run.stderr.contains(&format!("it is the same device as {device}")), "{run:?}");
}

#[test]
fn a_device_that_takes_no_writes_is_refused_before_anything_is_written() {
    let world = World::new(5, 3);
    let before: Vec<_> = world.members.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let device = Loop::with(&["--show", "-f", "--read-only"], &world.members[2]);
    let [a, b] = [0, 1].map(|n: usize| world.members[n].to_str().unwrap());
    let device = device.0.to_str().unwrap();
    let run = world.uraid(&["create", "--force", "--level", "5", "--name", "x", a, b, device]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("nothing was changed") && run.stderr.contains("read-only"), "{run:?}");
    assert!(!run.stderr.contains("cannot restore"), "{run:?}");
    let after: Vec<_> = world.members.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(before == after);
}
