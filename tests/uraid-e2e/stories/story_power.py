"""The power fails again and again under fio; file systems and contents survive each time."""

from lab.admin import Admin, Volume
from story_day import install, is_back, start

CORE = False
CUTS = 5


def tell(story):
    """A power cut a boot, at a moment that differs."""
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
    for number in range(1, CUTS + 1):
        with story.step(f"power cut {number} of {CUTS} under fio: back, contents the same, resynced"):
            admin.load_start(*both)
            for volume in both:
                admin.load_goes_on(volume)
            machine.power_cut()
            machine.boot()
            admin.new_boot()
            is_back(story, admin, both)
            for volume in both:
                admin.wait_whole(volume)
    with story.step("both file systems are sound"):
        for volume in both:
            check = {"ext4": "e2fsck -fn", "xfs": "xfs_repair -n"}[volume.fs]
            admin.sh(f"umount {volume.mount} && {check} {volume.link}", seconds=300)
