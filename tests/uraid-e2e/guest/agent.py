#!/usr/bin/env python3
"""Runs shell jobs that come in on a serial line and sends back what they print and their exit code.

    agent.py TTY

A job is a line with a number of bytes, then that many bytes of bash. The answer is any number of
`out N` lines, each followed by N bytes of output as it appears, and one line `exit CODE`. After the
start comes `ready BOOT_ID`. Jobs run one at a time; what a job leaves in the background lives on.
"""

import os
import select
import subprocess
import sys
import time
import tty

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}


def send(line, head, payload=b""):
    """One frame, whole."""
    data = head.encode() + b"\n" + payload
    while data:
        data = data[os.write(line, data):]


def run(line, script):
    """One job, from its text to its exit code."""
    ours, theirs = os.pipe()
    job = subprocess.Popen(["/bin/bash", "-c", script], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
                           env=ENVIRONMENT, cwd="/", start_new_session=True)
    os.close(theirs)
    ended = False
    while True:
        # When the job has ended, what is still in the pipe is its own; what comes later is of those it left behind.
        readable = select.select([ours], [], [], 0 if ended else 0.02)[0]
        data = os.read(ours, 4096) if readable else b""
        if data:
            send(line, f"out {len(data)}", data)
        elif ended:
            break
        elif readable:
            job.wait()
        ended = job.poll() is not None
    os.close(ours)
    send(line, f"exit {job.returncode}")


def main():
    """Serves the line until the machine goes down."""
    # The line comes with a terminal's habits; jobs are bytes.
    line = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot:
        send(line, f"ready {boot.read().strip()} {time.monotonic():.1f}")
    jobs = os.fdopen(os.dup(line), "rb")
    while True:
        head = jobs.readline()
        if not head.strip().isdigit():
            continue
        run(line, jobs.read(int(head)).decode())


if __name__ == "__main__":
    main()
