#!/usr/bin/env python3
"""Every rule of tidy.py and licences.py finds what it is there to find."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import licences  # noqa: E402
import tidy  # noqa: E402


def hits(rule, name, text):
    """How many violations a rule finds in a text."""
    return len(list(rule(name, text.splitlines())))


class Rules(unittest.TestCase):
    """One test a rule: a planted violation, and its innocent neighbour."""

    def test_core_decides(self):
        for line in ("use std::fs;", "let t = Instant::now();", "use std::collections::HashMap;", "std::thread::spawn(f);"):
            self.assertEqual(hits(tidy.core_decides, "core/a/src/x.rs", line), 1, line)
            self.assertEqual(hits(tidy.core_decides, "daemon/a/src/x.rs", line), 0, line)
        self.assertEqual(hits(tidy.core_decides, "core/a/src/x.rs", "// no HashMap: its order is random"), 0)
        self.assertEqual(hits(tidy.core_decides, "core/a/src/x.rs", "#[cfg(test)]\nuse std::fs;"), 0)

    def test_safe_crates(self):
        self.assertEqual(hits(tidy.safe_crates, "core/a/src/lib.rs", "//! x"), 1)
        self.assertEqual(hits(tidy.safe_crates, "config/src/lib.rs", "#![forbid(unsafe_code)]"), 0)
        self.assertEqual(hits(tidy.safe_crates, "engines/a/src/lib.rs", "//! x"), 0)

    def test_long_files(self):
        self.assertEqual(hits(tidy.long_files, "x", "a\n" * 1001), 1)
        self.assertEqual(hits(tidy.long_files, "x", "a\n" * 1000), 0)

    def test_machine_paths(self):
        self.assertEqual(hits(tidy.no_machine_paths, "x", "see /" + "home/somebody/x"), 1)
        self.assertEqual(hits(tidy.no_machine_paths, "x", "target/release"), 0)

    def test_unfinished_notes(self):
        self.assertEqual(hits(tidy.no_unfinished_notes, "x.rs", "a(); // TO" + "DO later"), 1)

    def test_definitions(self):
        for text in ("pub struct Item;", "    pub(crate) fn Item<'a>(x: u8)", "enum X {\n    Item {\n", "    Item,\n", "    pub Item: u8,"):
            self.assertTrue(tidy.defines(text, "X::Item"), text)
        for text in ("// Item", "    let x = Item;", "    self.Item();", "pub struct Items;"):
            self.assertFalse(tidy.defines(text, "Item"), text)

    def test_concept_table(self):
        files = {"a/x.rs": "pub struct Item;\n#[test]\nfn it_works() {}\n#[test]\n#[cfg(unix)]\nfn here_too() {}\nfn no_test() {}"}

        def row(number, item="`a/x.rs:Item`", test="`a/x.rs:it_works`"):
            return f"| {number} | a concept | {item} | {test} |"

        def found(lines):
            return [what for _, what in tidy.concept_table(lines, files.get)]
        table = [row(number) for number in tidy.CONCEPTS]
        self.assertEqual(found(["| row | concept | item | test |", "|---|---|---|---|", *table]), [])
        self.assertEqual(found([*table[:-1], row(67, "history", "`a/x.rs:it_works`, `a/x.rs:here_too`")]), [])
        for bad in (row(67, item="`a/x.rs:Other`"), row(67, item="`a/y.rs:Item`"), row(67, test="`a/x.rs:it_work`"),
                    row(67, test="`a/x.rs:no_test`"), row(67, test="`b.rs:it_works`"), row(67, test="by eye"),
                    row(66), row(68), row(67) + " more |"):
            self.assertTrue(found([*table[:-1], bad]), bad)
        self.assertEqual(found(table[:-1]), ["row 67 of the concepts is missing"])

    def test_promise_table(self):
        files = {"test_a.py": "def test_it(t):\n    pass\n", "core/a/src/x.rs": "#[test]\nfn it_works() {}\nfn no_test() {}"}

        def row(name, tests="`test_a.py:test_it`"):
            return f"| {name} | a promise | {tests} |"

        def found(lines):
            return [what for _, what in tidy.promise_table(lines, files.get)]
        table = [row(name) for name in tidy.PROMISES]
        self.assertEqual(found(["| row | promise | tests |", "|---|---|---|", *table]), [])
        self.assertEqual(found([*table[:-1], row("W15", "`core/a/src/x.rs:it_works`, `test_a.py:test_it`")]), [])
        for bad in (row("W15", "`test_a.py:test_other`"), row("W15", "`test_b.py:test_it`"), row("W15", "by eye"), row("W14"), row("W16"),
                    row("W15", "`core/a/src/x.rs:no_test`"), row("W15") + " more |"):
            self.assertTrue(found([*table[:-1], bad]), bad)
        self.assertEqual(found(table[:-1]), ["row W15 of the promises is missing"])

    def test_dependency_arrows(self):
        def package(name, home, *needs):
            return {"name": name, "manifest_path": f"/r/{home}/{name}/Cargo.toml", "dependencies": [{"name": n} for n in needs]}
        good = [package("c", "core"), package("e", "engines"), package("d", "daemon", "c", "e")]
        bad = [package("c", "core", "e", "tokio"), package("e", "engines", "c"), package("d", "daemon")]
        self.assertEqual(list(tidy.dependency_violations(good, Path("/r"))), [])
        self.assertEqual(len(list(tidy.dependency_violations(bad, Path("/r")))), 3)

    def test_licences(self):
        allow = {"MIT", "Apache-2.0", "BSD-3-Clause"}
        for good in ("MIT", "MIT OR GPL-3.0", "Apache-2.0/MIT", "(MIT OR Apache-2.0) AND BSD-3-Clause", "Apache-2.0 WITH LLVM-exception OR MIT"):
            self.assertTrue(licences.acceptable(good, allow), good)
        for bad in ("GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND MPL-2.0", "", None):
            self.assertFalse(licences.acceptable(bad, allow), bad)


if __name__ == "__main__":
    unittest.main(verbosity=0)
