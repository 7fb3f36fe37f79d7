# shellcheck shell=sh
# What `./dev check` and `./dev test` are made of. Sourced by ./dev after say.sh and packages.sh.

passed=0
failed=0

# Runs one named step; a failure is counted and the next step still runs.
step() {
    say "$1"
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        note "FAILED: $*"
    fi
}

check() {
    # shellcheck disable=SC2086
    install_tools $CHECK_TOOLS
    need_cargo
    need_component fmt rustfmt
    need_component clippy clippy
    step "Formatting" cargo fmt --all -- --check
    step "Formatting of the fuzz target" cargo fmt --manifest-path fuzz/Cargo.toml -- --check
    step "Lints (clippy, warnings are errors)" cargo clippy -q --locked --target-dir target --workspace --all-targets -- -D warnings
    step "Documentation (rustdoc, warnings are errors)" \
        env RUSTDOCFLAGS="-D warnings" cargo doc -q --locked --target-dir target --no-deps --workspace
    step "Shell scripts (shellcheck)" check_shell
    step "The rules of the tree" "$(python)" -B tests/tidy/tidy.py
    step "The rules' own test" "$(python)" -B tests/tidy/test_tidy.py
    step "Licences of the dependencies" "$(python)" -B tests/tidy/licences.py
    have cargo-deny && step "cargo deny" cargo deny check bans licenses sources
    finish
}

check_shell() {
    shellcheck -x -a dev tests/demo.sh .ci/run systemd/debian/p*
}

# The Rust tests: nextest when it is there, cargo test otherwise; then the examples in the docs.
rust_tests() {
    if have cargo-nextest; then
        cargo nextest run --locked --target-dir target --workspace --no-fail-fast
    else
        cargo test -q --locked --target-dir target --workspace --no-fail-fast --lib --bins --tests
    fi
}

doc_tests() {
    cargo test -q --locked --target-dir target --workspace --doc
}

run_tests() {
    # shellcheck disable=SC2086
    install_tools $TEST_TOOLS
    build
    build_for_tests
    # What makes the package is built here, as that may take longer than one test is given.
    need_cargo_tool cargo-deb
    logs=$(mktemp -d)
    suite "Unit, property and oracle tests (Rust)" "$logs/rust" rust_tests
    suite "Examples in the documentation (Rust)" "$logs/doc" doc_tests
    suite "Real clients, a real kernel, crashes and bad input (takes some minutes)" "$logs/e2e" \
        as_root "$(python)" -B tests/e2e/run.py
    suite "Arrays that go to and fro between the kernel's md and uraid (a sample)" "$logs/interop" interop --sample
    suite "An administrator's day on a Debian with systemd (takes some minutes)" "$logs/machine" e2e_machine
    rm -rf "$logs"
    finish
}

# Runs one suite, shows its output, and adds the tests it counted to the sum.
suite() {
    say "$1"
    log=$2
    shift 2
    echo 1 >"$log.code"
    { "$@" 2>&1 && echo 0 >"$log.code"; } | tee "$log"
    count "$log"
    if [ "$(cat "$log.code")" -ne 0 ] && [ "$bad" -eq 0 ]; then
        note "FAILED: the suite ended badly without naming a test (did it build?)"
        failed=$((failed + 1))
    fi
}

# Sums up what nextest, cargo test and our own runner say at their end.
count() {
    good=$(summaries "$1" passed)
    bad=$(summaries "$1" failed)
    passed=$((passed + good))
    failed=$((failed + bad))
}

summaries() {
    grep -E '^ *Summary \[|^test result:|^end to end:|^interop:|^machine:' "$1" | grep -oE "[0-9]+ $2" | awk '{ n += $1 } END { print n + 0 }'
}

# The last line, for people and for CI.
finish() {
    printf '\n%s passed, %s failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ]
}
