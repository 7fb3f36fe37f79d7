#!/usr/bin/env python3
"""Every dependency has a licence that deny.toml allows and comes from a source that it allows.

The same question that `cargo deny check licenses sources` answers, for machines without cargo-deny.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def acceptable(expression, allow):
    """Whether an SPDX expression (also the old `A/B`) can be met with allowed licences alone."""
    if not expression:
        return False
    tokens = re.findall(r"[()]|[^\s()/]+|/", expression)
    verdict, rest = alternatives(tokens, allow)
    return verdict and not rest


def alternatives(tokens, allow):
    """`a OR b ...`: one will do."""
    verdict, tokens = conjunction(tokens, allow)
    while tokens and tokens[0] in ("OR", "/"):
        other, tokens = conjunction(tokens[1:], allow)
        verdict = verdict or other
    return verdict, tokens


def conjunction(tokens, allow):
    """`a AND b ...`: all are needed."""
    verdict, tokens = one(tokens, allow)
    while tokens and tokens[0] == "AND":
        other, tokens = one(tokens[1:], allow)
        verdict = verdict and other
    return verdict, tokens


def one(tokens, allow):
    """A licence, with its exception if it has one, or an expression in parentheses."""
    if not tokens:
        return False, []
    if tokens[0] == "(":
        verdict, tokens = alternatives(tokens[1:], allow)
        return verdict, tokens[1:]
    name, tokens = tokens[0], tokens[1:]
    if tokens and tokens[0] == "WITH":
        name, tokens = f"{name} WITH {tokens[1]}", tokens[2:]
    return name in allow, tokens


def main():
    """Entry point."""
    rules = tomllib.loads((REPO / "deny.toml").read_text())
    allow = set(rules["licenses"]["allow"])
    registries = set(rules["sources"]["allow-registry"])
    done = subprocess.run(["cargo", "metadata", "--format-version", "1", "--locked"], cwd=REPO, capture_output=True,
                          text=True, check=False)
    if done.returncode:
        print(f"cargo metadata failed: {done.stderr.strip()}")
        return 1
    bad = []
    packages = json.loads(done.stdout)["packages"]
    for package in packages:
        label = f"{package['name']} {package['version']}"
        if not acceptable(package["license"], allow):
            bad.append(f"{label}: licence `{package['license']}` is not among those that deny.toml allows")
        source = package["source"]
        if source and source.split("+", 1)[-1] not in registries:
            bad.append(f"{label}: source `{source}` is not allowed by deny.toml")
    print("\n".join(bad + [f"licences: {len(packages)} packages, {len(bad)} violations"]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
