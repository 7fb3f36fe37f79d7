"""The matrix: the same arrays under the Linux kernel's md and under uraid, in turns. See ../README.md."""
