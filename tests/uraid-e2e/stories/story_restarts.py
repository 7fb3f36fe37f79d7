"""Restarts and crashes of the daemon in turns, many times in a row, under fio verify on ext4 and xfs."""

from story_day import again, told
from two import are_sound, two_volumes

CORE = False
# A load ends in between so that fio has compared all that was written, and the file systems are looked at.
AT_ONCE = 10


def tell(story):
    """--restarts times on each of two volumes."""
    admin, both = two_volumes(story)
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
    are_sound(story, admin, both)
