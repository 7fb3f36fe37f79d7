"""The laboratory: a Debian image, the machine that runs it, and the verbs of its administrator."""
