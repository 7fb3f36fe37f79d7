"""The power fails again and again under fio; file systems and contents survive each time."""

from story_day import is_back
from two import are_sound, two_volumes

CORE = False
CUTS = 5


def tell(story):
    """A power cut a boot, at a moment that differs."""
    admin, both = two_volumes(story)
    for number in range(1, CUTS + 1):
        with story.step(f"power cut {number} of {CUTS} under fio: back, contents the same, resynced"):
            admin.load_start(*both)
            for volume in both:
                admin.load_goes_on(volume)
            story.machine.power_cut()
            story.machine.boot()
            admin.new_boot()
            is_back(story, admin, both)
            for volume in both:
                admin.wait_whole(volume)
    are_sound(story, admin, both)
