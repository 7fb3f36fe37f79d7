//! Against a copy of what the kernel shows. What it really shows is tested in a guest kernel
//! (`tests/e2e/test_handover.py`).

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Machine(tempfile::tempdir().unwrap());
        for directory in ["sys/dev/block", "sys/block", "proc/self", "proc/1"] {
            fs::create_dir_all(machine.0.path().join(directory)).unwrap();
        }
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn disk(&self, name: &str, number: &str) {
        self.write(&format!("sys/devices/{name}/dev"), number);
        symlink(format!("../devices/{name}"), self.0.path().join(format!("sys/block/{name}"))).unwrap();
        let node = format!("../../devices/{name}");
        symlink(node, self.0.path().join(format!("sys/dev/block/{number}"))).unwrap();
    }

    fn partition(&self, disk: &str, name: &str, number: &str) {
        self.write(&format!("sys/devices/{disk}/{name}/dev"), number);
        self.write(&format!("sys/devices/{disk}/{name}/partition"), "1\n");
        let node = format!("../../devices/{disk}/{name}");
        symlink(node, self.0.path().join(format!("sys/dev/block/{number}"))).unwrap();
    }

    fn over(&self, below: &str, above: &str) {
        self.write(&format!("sys/devices/{below}/holders/{above}"), "");
    }

    fn said(&self, number: (u64, u64)) -> Option<String> {
        View { root: self.0.path().to_owned() }.device(number).sentence()
    }
}

#[test]
fn nobody_is_made_up() {
    let machine = Machine::new();
    machine.disk("sda", "8:0");
    assert_eq!(machine.said((8, 0)), None);
    assert_eq!(machine.said((8, 16)), None);
    assert!(of_device(u64::MAX).contains("lsblk"));
}

#[test]
fn an_array_under_a_mount_is_let_go_of_from_the_top() {
    let machine = Machine::new();
    machine.disk("sda", "8:0");
    machine.partition("sda", "sda1", "8:1");
    machine.disk("md0", "9:0");
    machine.write("sys/devices/md0/md/array_state", "clean\n");
    machine.over("sda/sda1", "md0");
    let plain = "a member of the kernel's array md0; `mdadm --stop /dev/md0` lets go of it";
    assert_eq!(machine.said((8, 1)).unwrap(), plain);
    machine.write("proc/1/mountinfo", "36 35 9:0 / /srv/a\\040b rw - ext4 /dev/md0 rw\n");
    assert_eq!(
        machine.said((8, 1)).unwrap(),
        "a member of the kernel's array md0, which is mounted on /srv/a b; `umount '/srv/a b'` and then \
         `mdadm --stop /dev/md0`, in this order, let go of it"
    );
    // The disk as a whole cannot be had either.
    assert!(
        machine
            .said((8, 0))
            .unwrap()
            .starts_with("the disk of sda1, which is a member of the kernel's array")
    );
    machine.write("sys/devices/md0/md/array_state", "inactive\n");
    assert!(machine.said((8, 1)).unwrap().contains("md0 (not started)"));
}

#[test]
fn mappings_are_named_by_their_maker() {
    for (uuid, title, said) in [
        ("LVM-x", "my--vg-root", "logical volume my-vg/root; `vgchange --activate n my-vg`"),
        ("CRYPT-LUKS2-x", "secret", "encrypted volume secret; `cryptsetup close secret`"),
        ("mpath-3600", "mpatha", "a path of /dev/mapper/mpatha, which can be the member"),
        ("", "own", "device-mapper device own; `dmsetup remove own`"),
    ] {
        let machine = Machine::new();
        machine.disk("sda", "8:0");
        machine.disk("dm-0", "253:0");
        machine.write("sys/devices/dm-0/dm/name", title);
        machine.write("sys/devices/dm-0/dm/uuid", uuid);
        machine.over("sda", "dm-0");
        let text = machine.said((8, 0)).unwrap();
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn what_holds_itself_ends() {
    let machine = Machine::new();
    machine.disk("dm-0", "253:0");
    machine.write("sys/devices/dm-0/dm/name", "round");
    machine.over("dm-0", "dm-0");
    assert!(machine.said((253, 0)).unwrap().contains("round"));
}

#[test]
fn the_service_of_a_volume_is_found_by_its_process() {
    let machine = Machine::new();
    let view = View { root: machine.0.path().to_owned() };
    machine.write("proc/77/comm", "uraid\n");
    machine.write("proc/77/cmdline", "uraid\0serve\0--control\0/run/c\0a\0");
    machine.write("proc/77/fdinfo/5", "pos:\t0\nlock:\t1: OFDLCK ADVISORY  WRITE -1 08:01:4242 0 EOF\n");
    machine.write("proc/78/comm", "other\n");
    machine.write("proc/78/fdinfo/5", "lock:\t1: FLOCK  ADVISORY  READ 78 08:01:4242 0 EOF\n");
    let held = |inode| view.locked((8, 1), inode).sentence();
    assert_eq!(
        held(4242).unwrap(),
        "locked by a running uraid (pid 77); `uraid stop --control /run/c` lets go of it"
    );
    machine.write("proc/77/cgroup", "0::/system.slice/system-uraid.slice/uraid@tank.service\n");
    assert!(held(4242).unwrap().contains("uraid@tank.service serves (pid 77); `systemctl stop uraid@tank`"));
    assert_eq!(held(42), None);
}
