#!/usr/bin/env python3
"""The tree checks its own rules. Prints one line a violation, `path:line: what`, and ends with 1 if any.

The rules and their reasons are in docs/ARCHITECTURE.md ("What a directory may do").
"""

import json
import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
LINES_MAX = 1000
CRATES = ("core", "engines", "daemon", "config")

# What decides may not act: no clock, file, socket, thread or randomly seeded map.
NOT_IN_CORE = re.compile(
    r"\bstd::(net|fs|thread|process|env)\b|\bstd::time::(Instant|SystemTime)\b|\b(Instant|SystemTime)::now\b"
    r"|\bstd::os::|\bHashMap\b|\bHashSet\b|\bRandomState\b|\btokio::|\blibc::|\bnix::")

# Paths of somebody's machine; written in two parts so that this file does not contain them.
MACHINE_PATH = re.compile("/" + r"(?:home/[a-z]|Users/[A-Z]|root/|work/|tmp/brief)")


def tracked(root):
    """Every text file of the tree: what git knows, and what it would add."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
                            capture_output=True, check=True).stdout.decode().split("\0")
    for name in listed:
        path = root / name
        if name and path.is_file() and path.suffix not in (".zst", ".lock"):
            try:
                yield name, path.read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError:
                yield name, []


def without_tests(lines):
    """The lines of a Rust file up to its test module; tests may measure and use what they like."""
    for number, line in enumerate(lines, 1):
        if re.match(r"\s*#\[cfg\(test\)\]", line):
            return
        yield number, line


def long_files(name, lines):
    """A file that nobody reads in one sitting is split."""
    # Test vectors are data that nobody reads from top to bottom.
    if len(lines) > LINES_MAX and "/vectors/" not in name:
        yield 1, f"{len(lines)} lines, at most {LINES_MAX}: split it"


def core_decides(name, lines):
    """core/ takes bytes and events and gives bytes and actions, nothing else."""
    if not re.match(r"core/[^/]+/src/.*\.rs$", name):
        return
    for number, line in without_tests(lines):
        found = NOT_IN_CORE.search(line.split("//")[0])
        if found:
            yield number, f"`{found.group()}` in core: what decides may not act, and must be the same in every run"


def safe_crates(name, lines):
    """core/ and config/ forbid unsafe in their root."""
    if re.match(r"(core/[^/]+|config)/src/lib\.rs$", name) and "#![forbid(unsafe_code)]" not in "\n".join(lines):
        yield 1, "lacks #![forbid(unsafe_code)]"


def no_machine_paths(name, lines):
    """Nothing in the tree depends on where somebody keeps it."""
    for number, line in enumerate(lines, 1):
        if name != "tests/tidy/test_tidy.py" and MACHINE_PATH.search(line):
            yield number, f"a path of one machine: {line.strip()[:80]}"


def no_unfinished_notes(name, lines):
    """A doubt is an issue number, not a note in passing."""
    for number, line in enumerate(lines, 1):
        if name.endswith((".rs", ".sh")) and re.search(r"//.*\b(TODO|FIXME|XXX)\b", line):
            yield number, "an unfinished note: open an issue and name it"


FILE_RULES = [long_files, core_decides, safe_crates, no_machine_paths, no_unfinished_notes]


def dead_links(root, files):
    """Links between our documents lead somewhere."""
    for name, lines in files:
        if not name.endswith(".md"):
            continue
        for number, line in enumerate(lines, 1):
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", line):
                if "://" not in target and not (root / name).parent.joinpath(target).exists():
                    yield f"{name}:{number}: link to `{target}`, which does not exist"


CONCEPT_TABLE = "docs/chain-engine.md"
CONCEPTS = range(1, 68)
REFERENCE = re.compile(r"`([\w./-]+\.rs):([\w:]+)`")


def defines(text, item):
    """Whether a Rust file defines an item of this name: anything with a keyword, a field or a variant."""
    name = item.split(":")[-1]
    return re.search(rf"(?m)^\s*(?:pub(?:\(\w+\))? )?(?:(?:const|unsafe|async|fn|struct|enum|trait|type|mod|static) )*"
                     rf"{name}\s*(?:[<({{:,;=]|$)", text)


def concept_table(lines, read):
    """The table of concepts is true: each row is there once, its items are in the files that it names, and
    it names tests, which are there, too. Paths are relative to engines/. `read` gives a file's text or None."""
    rows = {}
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or not cells[0].isdigit():
            continue
        row = int(cells[0])
        if row in rows or row not in CONCEPTS:
            yield number, f"row {row} of the concepts, a second time or not one of them"
        rows[row] = number
        if len(cells) != 4:
            yield number, f"row {row} has {len(cells)} cells, not number, concept, item and test"
            continue
        for path, item in REFERENCE.findall(cells[2]):
            text = read(path)
            if text is None or not defines(text, item):
                yield number, f"row {row}: no `{item}` in engines/{path}"
        tests = REFERENCE.findall(cells[3])
        if not tests:
            yield number, f"row {row} names no test"
        for path, test in tests:
            text = read(path)
            if text is None or not re.search(rf"#\[test\]\s+(?:#\[[^\n]*\]\s+)*fn {test}\(", text):
                yield number, f"row {row}: no test `{test}` in engines/{path}"
    for row in CONCEPTS:
        if row not in rows:
            yield 1, f"row {row} of the concepts is missing"


def concept_violations(root, files):
    """What is wrong with the table of concepts."""
    lines = dict(files).get(CONCEPT_TABLE)
    if lines is None:
        yield f"{CONCEPT_TABLE}:1: is not there"
        return

    def read(path):
        file = root / "engines" / path
        return file.read_text(encoding="utf-8") if file.is_file() else None
    for number, what in concept_table(lines, read):
        yield f"{CONCEPT_TABLE}:{number}: {what}"


PROMISE_TABLE = "docs/nbd.md"
# Items of the handshake, of the transmission, and what servers commonly get wrong.
PROMISES = [f"{kind}{number}" for kind, count in (("H", 17), ("T", 24), ("W", 15)) for number in range(1, count + 1)]
TEST_OF = re.compile(r"`([\w./-]+\.(?:py|rs)):(\w+)`")


def promise_table(lines, read):
    """The table of NBD promises is true: each row is there once and names tests that exist. Python files are
    relative to tests/e2e, Rust files to the root. `read` gives a file's text or None."""
    rows = set()
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or not re.fullmatch(r"[HTW]\d+", cells[0]):
            continue
        if cells[0] in rows or cells[0] not in PROMISES:
            yield number, f"row {cells[0]} of the promises, a second time or not one of them"
        rows.add(cells[0])
        tests = TEST_OF.findall(cells[-1])
        if len(cells) != 3 or not tests:
            yield number, f"row {cells[0]} is not row, promise and tests"
        for path, test in tests:
            text = read(path)
            pattern = rf"(?m)^def {test}\(" if path.endswith(".py") else rf"#\[test\]\s+(?:#\[[^\n]*\]\s+)*fn {test}\("
            if text is None or not re.search(pattern, text):
                yield number, f"row {cells[0]}: no test `{test}` in {path}"
    for row in PROMISES:
        if row not in rows:
            yield 1, f"row {row} of the promises is missing"


def promise_violations(root, files):
    """What is wrong with the table of promises."""
    lines = dict(files).get(PROMISE_TABLE)
    if lines is None:
        yield f"{PROMISE_TABLE}:1: is not there"
        return

    def read(path):
        file = root / ("tests/e2e" if path.endswith(".py") else "") / path
        return file.read_text(encoding="utf-8") if file.is_file() else None
    for number, what in promise_table(lines, read):
        yield f"{PROMISE_TABLE}:{number}: {what}"


def directory_of(package, root):
    """The top-level directory of a workspace package."""
    return Path(package["manifest_path"]).relative_to(root).parts[0]


def dependency_violations(packages, root):
    """Arrows between the directories only point down: see the table in docs/ARCHITECTURE.md."""
    allowed = {"core": {"core"}, "engines": {"engines"}, "config": {"config", "core"}, "daemon": set(CRATES)}
    homes = {p["name"]: directory_of(p, root) for p in packages}
    for package in packages:
        home = homes[package["name"]]
        for dependency in package["dependencies"]:
            target = homes.get(dependency["name"])
            if target and home in allowed and target not in allowed[home]:
                yield f"{package['name']} ({home}/) depends on {dependency['name']} ({target}/)"
            if home == "core" and dependency["name"] in ("tokio", "libc", "nix", "io-uring", "rand"):
                yield f"{package['name']} (core/) depends on {dependency['name']}, which acts"


def metadata(root):
    """cargo's view of the workspace members."""
    done = subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"], cwd=root,
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"cargo metadata failed: {done.stderr.strip()}")
    return json.loads(done.stdout)["packages"]


def violations(root):
    """Every violation of the rules that need only the files."""
    files = list(tracked(root))
    for name, lines in files:
        for rule in FILE_RULES:
            for number, what in rule(name, lines):
                yield f"{name}:{number}: {what}"
    yield from dead_links(root, files)
    yield from concept_violations(root, files)
    yield from promise_violations(root, files)


def main():
    """Entry point."""
    found = [*violations(REPO), *dependency_violations(metadata(REPO), REPO)]
    for line in found:
        print(line)
    print(f"tidy: {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
