//! sysfs, /proc and /dev as a kernel shows them, made of files: who holds a device, what is attached, and
//! queue limits.

#[cfg(test)]
mod tree;

use std::fs;
use std::time::{Duration, SystemTime};

use tree::Tree;
use uraid_attach::{AttachError, Holders, Mount, Opener, QueueLimits, Settled};

#[test]
fn devices_are_listed_by_number_with_what_they_are_attached_to() {
    let tree = Tree::with_devices();
    let devices = tree.host().devices().unwrap();
    assert_eq!(devices.iter().map(|device| device.index).collect::<Vec<_>>(), [0, 1, 10]);
    let attached = devices[0].attached.as_ref().unwrap();
    assert_eq!((attached.pid, attached.size, attached.read_only), (4711, 1 << 20, false));
    assert_eq!(attached.backend.as_deref(), Some("uraid:tank"));
    assert_eq!(devices[1].attached, None);
    let attached = devices[2].attached.as_ref().unwrap();
    assert_eq!((attached.backend.as_deref(), attached.read_only), (None, true));
    assert_eq!(tree.host().find_backend("uraid:tank").unwrap(), [0]);
    assert!(tree.host().find_backend("uraid:other").unwrap().is_empty());
    tree.file("sys/block/nbd10/backend", "uraid:tank\n");
    assert_eq!(tree.host().find_backend("uraid:tank").unwrap(), [0, 10]);
    assert_eq!(tree.host().node(3), tree.path().join("dev/nbd3"));
}

/// A daemon that has run out of descriptors must not take its device for detached.
#[test]
fn what_cannot_be_read_is_not_taken_for_detached() {
    let tree = Tree::with_devices();
    // A file that is there and gives an error.
    tree.file("sys/block/nbd2/pid/x", "").file("sys/block/nbd2/backend/x", "");
    let host = tree.host();
    let detached = |index| (host.is_detached(index), host.is_not_of(index, "uraid:tank"));
    assert_eq!(detached(0), (false, false));
    assert_eq!(detached(2), (false, false));
    assert_eq!(host.attached(2), None);
    assert_eq!(detached(1), (true, true));
    assert_eq!(detached(7), (true, true), "there is no such device");
    assert_eq!(detached(10), (false, true));
    assert!(host.is_not_of(0, "uraid:other"));
}

#[test]
fn without_the_driver_there_are_no_devices_and_it_is_said_to_be_missing() {
    let tree = Tree::new();
    assert!(!tree.host().module_loaded());
    assert!(tree.host().devices().unwrap().is_empty());
    tree.file("sys/module/nbd/refcnt", "0\n");
    assert!(tree.host().module_loaded());
}

#[test]
fn a_device_that_nobody_uses_is_free() {
    let tree = Tree::with_devices();
    tree.file("proc/self/mountinfo", "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
        .file("proc/swaps", "Filename\tType\n/dev/sda2 partition 1 0 -1\n")
        .file("sys/block/loop0/loop/backing_file", "/srv/image\n")
        .link("proc/12/fd/3", "/dev/nbd10")
        .link("proc/12/fd/4", "socket:[7]")
        .file("proc/12/comm", "fio\n");
    let holders = tree.host().holders(0);
    assert!(holders.is_free(), "{holders}");
    assert_eq!(holders.to_string(), "not used by anybody");
    assert_eq!(tree.host().wait_until_free(0, Duration::ZERO), holders);
}

#[test]
fn everybody_who_uses_a_device_or_its_partition_is_named() {
    let tree = Tree::with_devices();
    tree.file(
        "proc/self/mountinfo",
        "30 1 43:1 / /mnt/my\\040data rw - ext4 /dev/nbd0p1 rw\n31 1 0:50 / /b rw - btrfs /dev/nbd0 rw\n",
    )
    .file("proc/1/mountinfo", "99 1 43:1 / /mnt/my\\040data rw - ext4 /dev/nbd0p1 rw\n")
    .file("proc/swaps", "Filename\tType\n/dev/nbd0p1 partition 1 0 -1\n")
    .file("sys/block/nbd0/holders/md5/x", "")
    .file("sys/block/nbd0/nbd0p1/holders/dm-0/x", "")
    .file("sys/block/dm-0/dm/name", "vg-root\n")
    .file("sys/block/loop3/loop/backing_file", "/dev/nbd0\n")
    .file("proc/12/comm", "fio\n")
    .link("proc/12/fd/3", "/dev/nbd0p1")
    .link(&format!("proc/{}/fd/3", std::process::id()), "/dev/nbd0");
    let holders = tree.host().holders(0);
    let mount = |device: &str, point: &str| Mount { device: device.to_owned(), point: point.to_owned() };
    assert_eq!(
        holders,
        Holders {
            mounts: vec![mount("nbd0", "/b"), mount("nbd0p1", "/mnt/my data")],
            swaps: vec!["nbd0p1".to_owned()],
            stacked: vec!["dm-0 (vg-root)".to_owned(), "loop3".to_owned(), "md5".to_owned()],
            openers: vec![Opener { pid: 12, name: "fio".to_owned() }],
            claimed: None,
            all_seen: true,
        }
    );
    assert!(!holders.is_free() && holders.is_used_by_kernel());
    assert_eq!(
        holders.to_string(),
        "mounted on /b; nbd0p1 mounted on /mnt/my data; swapped to (nbd0p1); used by dm-0 (vg-root), loop3, md5; \
         open by fio (pid 12)"
    );
    // nbd1 and nbd10 share the beginning of the name, and nothing else.
    assert!(tree.host().holders(1).is_free());
    assert!(tree.host().holders(10).is_free());
}

#[test]
fn a_claim_that_is_not_seen_is_said_so_and_many_openers_are_counted() {
    let hidden = Holders { claimed: Some(true), ..Holders::default() };
    assert!(hidden.is_used_by_kernel());
    assert!(hidden.to_string().contains("another namespace"));
    let openers = (1..=9).map(|pid| Opener { pid, name: "cat".to_owned() }).collect();
    let told = Holders { openers, ..Holders::default() }.to_string();
    assert!(told.ends_with("cat (pid 6), 3 more"), "{told}");
}

#[test]
fn limits_are_written_and_read_back_and_what_is_refused_is_told() {
    let tree = Tree::with_devices();
    for (file, text) in [
        ("max_hw_sectors_kb", "32768"),
        ("max_sectors_kb", "128"),
        ("read_ahead_kb", "128"),
        ("rotational", "1"),
        ("logical_block_size", "4096"),
        ("write_cache", "write back"),
    ] {
        tree.file(&format!("sys/block/nbd0/queue/{file}"), &format!("{text}\n"));
    }
    let tuned = tree.host().tune(0, &QueueLimits { stripe_bytes: 768 << 10, rotational: false });
    assert!(tuned.refused.is_empty(), "{:?}", tuned.refused);
    let state = tuned.state;
    assert_eq!((state.max_sectors_kb, state.read_ahead_kb), (Some(32256), Some(1536)));
    assert_eq!((state.rotational, state.scheduler), (Some(false), None));
    assert_eq!((state.logical_block_size, state.write_cache.as_deref()), (Some(4096), Some("write back")));
    // nbd1 has no queue directory here: everything is refused, and nothing is made.
    let tuned = tree.host().tune(1, &QueueLimits { stripe_bytes: 1 << 20, rotational: false });
    assert_eq!(tuned.refused.len(), 2);
    assert_eq!(tuned.refused[0].file, "max_sectors_kb");
    assert!(!tree.path().join("sys/block/nbd1/queue").exists());
}

#[test]
fn what_does_not_come_is_waited_for_until_the_deadline() {
    let tree = Tree::with_devices();
    let late = tree.host().wait_for_node(0, Duration::from_millis(1)).unwrap_err();
    assert!(matches!(&late, AttachError::TooLate { .. }));
    assert!(late.to_string().contains("dev/nbd0 to appear"), "{late}");
    assert!(tree.host().wait_until_detached(0, Duration::from_millis(1)).is_err());
    assert!(tree.host().wait_until_detached(1, Duration::ZERO).is_ok());
}

#[test]
fn udev_has_settled_when_its_record_is_new_and_its_queue_gone() {
    let tree = Tree::with_devices();
    let (attached, soon) = (SystemTime::now(), Duration::from_millis(1));
    assert_eq!(tree.host().settle(0, attached, soon).unwrap(), Settled::NoUdev);
    tree.file("run/udev/control", "");
    assert!(tree.host().settle(0, attached, soon).is_err(), "no record");
    tree.file("run/udev/data/b43:0", "I:1\n").file("run/udev/queue", "");
    assert!(tree.host().settle(0, attached, soon).is_err(), "there is more to do");
    fs::remove_file(tree.path().join("run/udev/queue")).unwrap();
    assert_eq!(tree.host().settle(0, attached, soon).unwrap(), Settled::Looked);
    let later = attached + Duration::from_secs(60);
    assert!(tree.host().settle(0, later, soon).is_err(), "the record is of an earlier event");
}
