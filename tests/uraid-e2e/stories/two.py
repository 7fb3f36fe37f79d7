"""What stories of two volumes that are tried hard begin and end with."""

from lab.admin import Admin, Volume
from story_day import install, start

CHECKS = {"ext4": "e2fsck -fn", "xfs": "xfs_repair -n"}


def two_volumes(story):
    """A machine with RAID 6 and ext4 on `tank`, RAID 5 and xfs on `pool`, mounted, with something to keep and a load
    that can be started. Returns the administrator and both volumes."""
    machine = story.machine
    tank = Volume("tank", 6, [machine.add_disk(f"tank{i}", 128) for i in range(5)], "ext4")
    pool = Volume("pool", 5, [machine.add_disk(f"pool{i}", 200) for i in range(3)], "xfs")
    both = (tank, pool)
    admin = Admin(story)
    with story.step("the machine boots"):
        machine.boot()
    install(story, admin)
    start(story, admin, both)
    with story.step("mkfs ext4 and xfs"):
        for volume in both:
            admin.mkfs(volume)
            volume.kept = admin.put(volume, "kept.bin", 8)
        admin.load_ready()
    return admin, both


def are_sound(story, admin, volumes):
    """What was to be kept is there, parity is whole, and the file systems are sound."""
    with story.step("both file systems are sound, contents the same"):
        for volume in volumes:
            story.check(admin.digest(f"{volume.mount}/kept.bin") == volume.kept, f"{volume.mount}/kept.bin changed")
            admin.wait_whole(volume)
            admin.sh(f"umount {volume.mount} && {CHECKS[volume.fs]} {volume.link}", seconds=300)
