"""Profiles of the fuzzed properties, and what `make soak-fuzz` reports of each of them.

FUZZ=short, the default, tries a few examples, the same ones each time; FUZZ=soak tries FUZZ_EXAMPLES new ones. A soak
of some properties alone, as after a fault was mended (ARGS="-k NAME"), puts its rows in the place of theirs.
"""

import json
import os
import time
from pathlib import Path

import bounds
import pytest
from hypothesis import HealthCheck, Phase, settings

SOAK = os.environ.get("FUZZ", "short") == "soak"
RESULTS = Path(os.environ.get("FUZZ_RESULTS", Path(__file__).parents[2] / "docs/lab/results/soak-fuzz.json"))
COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}  # bounds.py has the deadline
settings.register_profile("fuzz-short", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("fuzz-soak", max_examples=int(os.environ.get("FUZZ_EXAMPLES", 100_000)), print_blob=True,
                          phases=[Phase.explicit, Phase.generate, Phase.shrink], **COMMON)
settings.load_profile("fuzz-soak" if SOAK else "fuzz-short")
ROWS, ROW = [], "fuzz"  # what was found, and the name by which a test's report carries it


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder that examples write to, one after another."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    name, began, failure = getattr(item, "originalname", item.name), time.perf_counter(), None
    before = bounds.EXAMPLES[name]
    try:
        return (yield)
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"[:300]
        raise
    finally:
        if Path(__file__).parent in item.path.parents and (failure or hasattr(item.obj, "hypothesis")):
            row = {"target": f"{item.path.stem}::{item.name}", "on": time.strftime("%Y-%m-%d %H:%M"),
                   "examples": bounds.EXAMPLES[name] - before, "seconds": round(time.perf_counter() - began, 1),
                   "failure": failure}
            item.user_properties.append((ROW, row))  # travels to the process that reports, where there are several


def pytest_runtest_logreport(report):
    rows = [row for name, row in report.user_properties if name == ROW]
    if SOAK and report.when == "call" and rows and "PYTEST_XDIST_WORKER" not in os.environ:
        ROWS.extend(rows)
        _write()
        for row in rows:
            print(f"\n{row['target']}: {row['examples']:,} examples, {row['seconds']} s, "
                  f"{'FAILED ' + row['failure'].splitlines()[0] if row['failure'] else 'no failure'}")


def _write():
    """All rows so far, of the properties that were soaked now: a soak that is stopped leaves what it has found."""
    from latdiff.evaluation.report import machine

    before = json.loads(RESULTS.read_text(encoding="utf-8"))["targets"] if RESULTS.exists() else []
    rows = [*{row["target"]: row for row in [*before, *ROWS]}.values()]
    found = {"machine": machine(), "examples": sum(row["examples"] for row in rows),
             "minutes": round(sum(row["seconds"] for row in rows) / 60, 1),
             "failures": sum(row["failure"] is not None for row in rows),
             "targets": sorted(rows, key=lambda row: row["target"])}
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
