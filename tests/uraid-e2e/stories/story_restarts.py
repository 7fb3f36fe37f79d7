"""Restarts and crashes of the daemon in turns, many times in a row, under fio verify on ext4 and xfs."""

from lab.admin import Admin, Volume
from story_day import again, install, start, told

CORE = False
# A load ends in between so that fio has compared all that was written, and the file systems are looked at.
AT_ONCE = 10


def tell(story):
    """--restarts times on each of two volumes."""
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
    done = 0
    while done < story.options.restarts:
        last = min(done + AT_ONCE, story.options.restarts)
        with story.step(f"restart and kill -9 in turns under fio, {done + 1} to {last} of {story.options.restarts}") as remark:
            admin.load_start(*both)
            for number in range(done, last):
                for volume in both:
                    again(story, admin, volume, "kill -9" if number % 2 else "systemctl restart")
            remark.append(told(admin.load_end(*both)))
            admin.no_trouble(*both)
        done = last
    with story.step("both file systems are sound, contents the same"):
        for volume in both:
            story.check(admin.digest(f"{volume.mount}/kept.bin") == volume.kept, f"{volume.mount}/kept.bin changed")
            admin.wait_whole(volume)
            check = {"ext4": "e2fsck -fn", "xfs": "xfs_repair -n"}[volume.fs]
            admin.sh(f"umount {volume.mount} && {check} {volume.link}", seconds=300)
