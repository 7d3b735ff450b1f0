"""Whether every test function of an earlier commit is still there: ``python -m ...regression.claims REVISION``."""

import argparse
import ast
import subprocess

from tests.benchmarks import ROOT


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True).stdout


def claims(revision: str) -> set[str]:
    """The test functions of a commit, as pytest names them but for their cases; those that test classes inherit, too."""
    paths = [path for path in git("ls-tree", "-r", "--name-only", revision, "tests").splitlines() if path.endswith(".py")]
    found = set()
    for path in paths:
        nodes = ast.walk(ast.parse(git("show", f"{revision}:{path}")))
        names = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
        found |= {f"{path}::{name}" for name in names if name.startswith("test_")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision")
    revision = parser.parse_args().revision
    before, now = claims(revision), claims("HEAD")
    names = {_name(claim) for claim in now}
    moved = {claim for claim in before - now if _name(claim) in names}
    print(f"{len(before)} test functions at {revision}, {len(now)} now; {len(moved)} lie in another file; these have gone:")
    print(*sorted(before - now - moved), sep="\n")


def _name(claim: str) -> str:
    return claim.partition("::")[2]


if __name__ == "__main__":
    main()
