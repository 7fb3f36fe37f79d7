# shellcheck shell=sh
# How the scripts speak, and how they run things as root. Sourced, not run.

# A step, in words.
say() { printf '\n==> %s\n' "$*"; }

# A detail below a step.
note() { printf '    %s\n' "$*"; }

# The end, with the reason and what to do about it.
die() {
    printf '\nerror: %s\n' "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo -E env "PATH=$PATH" "$@"
    else
        die "this step needs root (mounting, loop devices): run it as root, or install sudo"
    fi
}

# Debian keeps mkfs, mount's helpers and losetup where users do not look.
PATH="$PATH:/usr/sbin:/sbin"
export PATH
