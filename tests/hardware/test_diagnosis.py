"""Every rule on a recorded log, near its limits, and on healthy ones; see tests/traces/README.md."""

import re
from math import nan
from pathlib import Path

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.hardware.analysis.diagnosis import (
    IDLE_BETWEEN,
    RULES,
    Condition,
    Rule,
    describe_change,
    find,
    present_values,
)
from mloptimizer.hardware.analysis.evidence import EVIDENCE_TEXTS, gather_evidence
from mloptimizer.hardware.analysis.trace import read_trace

TRACES = Path(__file__).parents[1] / "traces"
DOCS = Path(__file__).parents[2] / "docs" / "hardware.md"
RECORDED = {  # each rule's log, and facts of its evidence
    "compile-bound": ("compile_bound", ["85"]),
    "input-bound": ("input_bound", ["29"]),
    "launch-bound": ("launch_bound", ["71", "21", "6", "5.4"]),
    "memory-bound": ("memory_bound", ["96", "88", "84"]),
    "throttled": ("throttled", ["100", "61", "87", "61"]),
    "batch too small": ("batch_too_small", ["22", "4", "1", "10.9"]),
    "imbalance between GPUs": ("imbalance", ["2", "45"]),
    "CPU oversubscribed": ("cpu_oversubscribed", ["95", "31"]),
}
AT_LEAST, AT_MOST = 0.99, 1.01  # times a limit is beyond it
LIMITS = {
    "compile-bound": {"compile_percent": (33, AT_LEAST)},
    "input-bound": {"data_wait_percent": (20, AT_LEAST)},
    "launch-bound": {
        "gpu_utilization_percent": (50, AT_LEAST),
        "gpu_power_percent": (40, AT_MOST),
        "gpu_memory_utilization_percent": (20, AT_MOST),
        "step_ms": (20, AT_MOST),
    },
    "memory-bound": {"gpu_utilization_percent": (70, AT_LEAST), "memory_to_kernels_percent": (70, AT_LEAST)},
    "throttled": {"throttled_percent": (20, AT_LEAST), "sm_clock_percent": (90, AT_MOST)},
    "batch too small": {
        "gpu_utilization_percent": (50, AT_MOST),
        "gpu_memory_percent": (50, AT_MOST),
        "data_wait_percent": (5, AT_MOST),
    },
    "imbalance between GPUs": {"gpus": (2, AT_LEAST), "gpu_spread_percent": (20, AT_LEAST)},
    "CPU oversubscribed": {"slot_busy_percent": (90, AT_LEAST), "others_percent": (25, AT_LEAST)},
    "idle between trials": {"idle_between_percent": (15, AT_LEAST)},
}


def found_in(trace: str) -> list[str]:
    return [finding.rule.name for finding in find(gather_evidence(read_trace(TRACES / f"{trace}.csv")))]


def test_every_rule_has_its_log_and_its_limits_here() -> None:
    assert [rule.name for rule in RULES] == list(RECORDED)
    assert [*RECORDED, IDLE_BETWEEN.name] == list(LIMITS)


@pytest.mark.parametrize("name", RECORDED)
def test_a_rule_holds_for_its_recorded_log_and_gives_its_numbers(name: str) -> None:
    trace, facts = RECORDED[name]
    findings = {
        finding.rule.name: finding.evidence for finding in find(gather_evidence(read_trace(TRACES / f"{trace}.csv")))
    }
    assert re.findall(r"\d+(?:\.\d+)?", findings[name]) == facts


@pytest.mark.parametrize("trace", [trace for name, (trace, _) in RECORDED.items() if name != "compile-bound"])
def test_nothing_else_is_found_in_a_log_with_one_problem(trace: str) -> None:
    assert len(found_in(trace)) == 1


def test_other_trials_on_its_cores_are_not_other_programs(tmp_path: Path) -> None:
    header, *rows = (TRACES / "cpu_oversubscribed.csv").read_text().splitlines()
    for trials, found in ((1, ["CPU oversubscribed"]), (2, [])):
        lines = [f"{header},trials_on_cores", *(f"{row},{trials}" for row in rows)]
        (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
        assert [finding.rule.name for finding in find(gather_evidence(read_trace(tmp_path / "log.csv")))] == found


def test_changes_already_made_are_not_advised() -> None:
    at = {metric: float(limit) for metric, (limit, _) in LIMITS["input-bound"].items()}
    for present in ({}, {"data_on_device": "on"}, {"data_on_device": "auto"}):
        (finding,) = find(at, present=present)
        advised = {change.setting for change in finding.changes}
        assert ("data_on_device" in advised) is (present.get("data_on_device") != "on")
    compiling = {"compile_percent": 90.0}
    assert find(compiling, present={"xla": "on"})
    assert not find(compiling, present={"xla": "off"})
    assert not find(compiling, present=present_values({"xla": "auto"}, {"XLA": "off"}))


def test_a_trial_that_failed_at_once_is_no_evidence(tmp_path: Path) -> None:
    header, first, *rows = (TRACES / "cpu_oversubscribed.csv").read_text().splitlines()
    (tmp_path / "log.csv").write_text("\n".join([header, first, rows[0]]) + "\n")
    assert find(gather_evidence(read_trace(tmp_path / "log.csv"))) == []


@pytest.mark.parametrize("trace", ["healthy_cpu", "healthy_gpu"])
def test_nothing_is_found_in_a_healthy_log(trace: str) -> None:
    assert found_in(trace) == []


@pytest.mark.parametrize("rule", [*RULES, IDLE_BETWEEN], ids=lambda rule: rule.name)
def test_a_rule_holds_at_its_limits_and_not_beyond_any_of_them(rule: Rule) -> None:
    at = {metric: float(limit) for metric, (limit, _) in LIMITS[rule.name].items()}
    assert find(at, [rule])
    for metric, (limit, beyond) in LIMITS[rule.name].items():
        assert not find({**at, metric: limit * beyond}, [rule])
        assert not find({**at, metric: nan}, [rule])
        assert not find({name: value for name, value in at.items() if name != metric}, [rule])


def test_an_empty_log_has_no_finding() -> None:
    assert find({}) == []
    assert not Condition("gpus", "≤", 2).holds({})


@pytest.mark.parametrize("rule", [*RULES, IDLE_BETWEEN], ids=lambda rule: rule.name)
def test_the_settings_to_change_exist_and_take_the_value(rule: Rule) -> None:
    assert rule.changes
    for change in rule.changes:
        assert change.setting in Settings.model_fields
        if change.value is not None:
            Settings(**{change.setting: change.value})


def test_every_metric_of_a_rule_has_a_text() -> None:
    named = {metric for rule in (*RULES, IDLE_BETWEEN) for metric in (*(c.metric for c in rule.when), *rule.also)}
    assert named == EVIDENCE_TEXTS.keys()


def test_the_docs_have_the_table_of_rules() -> None:
    rows = ["| finding | what it means | when | what to change |", "|---|---|---|---|"]
    for rule in (*RULES, IDLE_BETWEEN):
        when = " and ".join(f"`{each.metric}` {each.sign} {each.limit:g}" for each in rule.when)
        rows.append(f"| {rule.name} | {rule.meaning} | {when} | {'; '.join(map(describe_change, rule.changes))} |")
    assert "\n".join(rows) + "\n" in DOCS.read_text(encoding="utf-8")
