# shellcheck shell=sh
# Which tool comes from which package, and how to get what is missing. Sourced after say.sh.

# tool:package, Debian's and Ubuntu's names. A tool that moved between releases stands here once a
# package; those that a release does not know are passed over. `py-nbd` is the Python module nbd.
BUILD_TOOLS="cc:gcc ld:binutils"
DEMO_TOOLS="python3:python3 nbdfuse:libnbd-bin nbdfuse:nbdfuse nbdinfo:libnbd-bin fusermount3:fuse3 losetup:mount mount:mount
    mkfs.ext4:e2fsprogs fsck.ext4:e2fsprogs"
CHECK_TOOLS="python3:python3 shellcheck:shellcheck"
PACKAGE_TOOLS="dpkg-deb:dpkg dpkg-shlibdeps:dpkg-dev strip:binutils git:git"
BENCH_TOOLS="python3:python3 fio:fio qemu-nbd:qemu-utils nbdkit:nbdkit"
TEST_TOOLS="$DEMO_TOOLS $BENCH_TOOLS nbdcopy:libnbd-bin py-nbd:python3-libnbd qemu-io:qemu-utils
    py-prometheus_client:python3-prometheus-client mdadm:mdadm linux.uml:user-mode-linux modprobe:kmod zstd:zstd mkfs.xfs:xfsprogs xfs_repair:xfsprogs cmp:diffutils sfdisk:fdisk
    $PACKAGE_TOOLS systemd-analyze:systemd udevadm:udev man:man-db mandoc:mandoc bash:bash zsh:zsh fish:fish
    openssl:openssl setpriv:util-linux taskset:util-linux mkswap:util-linux swapon:mount dmsetup:dmsetup nbdinfo:libnbd-bin qemu-img:qemu-utils nbdsh:python3-libnbd nbddump:libnbd-bin
    nbd-client:nbd-client ip:iproute2"
INTEROP_TOOLS="python3:python3 py-nbd:python3-libnbd linux.uml:user-mode-linux modprobe:kmod mdadm:mdadm taskset:util-linux losetup:mount
    py-fusepy:python3-fusepy fusermount:fuse3"
MACHINE_TOOLS="python3:python3 linux.uml:user-mode-linux mmdebstrap:mmdebstrap mkfs.ext4:e2fsprogs mdadm:mdadm
    setpriv:util-linux taskset:util-linux dpkg-deb:dpkg"

# The Python for which the distribution's modules are installed.
python() {
    if [ -x /usr/bin/python3 ]; then echo /usr/bin/python3; else echo python3; fi
}

# Whether a tool of the tables above is there.
present() {
    case $1 in
        py-*) "$(python)" -c "import ${1#py-}" >/dev/null 2>&1 ;;
        *) have "$1" ;;
    esac
}

# The packages of those entries whose tool is missing, each once.
missing_packages() {
    for entry in "$@"; do
        present "${entry%%:*}" || echo "${entry##*:}"
    done | sort -u
}

# Installs what is missing of the given entries.
install_tools() {
    packages=$(missing_packages "$@")
    [ -z "$packages" ] && return 0
    names=$(echo "$packages" | tr '\n' ' ')
    have apt-get || die "please install these (Debian's package names): $names"
    say "Installing what is missing: $names"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
    for package in $packages; do
        [ -n "$(apt-cache madison "$package" 2>/dev/null)" ] || continue
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$package" || true
    done
    for entry in "$@"; do
        present "${entry%%:*}" || note "${entry%%:*} is still missing; what needs it will fail and say so"
    done
}

# Rust: cargo itself, and the components that a verb needs.
need_cargo() {
    [ -f "$HOME/.cargo/env" ] && PATH="$HOME/.cargo/bin:$PATH"
    have cargo || die "cargo is missing: install Rust from https://rustup.rs, then run this again"
    # shellcheck disable=SC2086
    install_tools $BUILD_TOOLS
}

need_component() {
    cargo "$1" --version >/dev/null 2>&1 && return 0
    have rustup || die "cargo $1 is missing: install your distribution's package for it, or use rustup"
    say "Adding the Rust component $2"
    rustup component add "$2"
}

# A program that cargo builds.
need_cargo_tool() {
    have "$1" && return 0
    say "Building $1 (once)"
    cargo install --locked "$1"
}
