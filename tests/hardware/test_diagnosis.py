"""Every rule on a recorded log, near its limits, and on healthy ones; see tests/traces/README.md."""

from math import nan
from pathlib import Path

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.hardware.analysis.diagnosis import IDLE_BETWEEN, RULES, Condition, Rule, describe_change, find
from mloptimizer.hardware.analysis.evidence import EVIDENCE_WORDS, gather_evidence
from mloptimizer.hardware.analysis.trace import read_trace

TRACES = Path(__file__).parents[1] / "traces"
DOCS = Path(__file__).parents[2] / "docs" / "hardware.md"
RECORDED = {
    "compile-bound": "compile_bound",
    "input-bound": "input_bound",
    "launch-bound": "launch_bound",
    "memory-bound": "memory_bound",
    "throttled": "throttled",
    "batch too small": "batch_too_small",
    "imbalance between GPUs": "imbalance",
    "CPU oversubscribed": "cpu_oversubscribed",
}


def found_in(trace: str) -> list[str]:
    return [finding.rule.name for finding in find(gather_evidence(read_trace(TRACES / f"{trace}.csv")))]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_holds_of_its_recorded_log_and_tells_its_figures(rule: Rule) -> None:
    evidence = gather_evidence(read_trace(TRACES / f"{RECORDED[rule.name]}.csv"))
    findings = {finding.rule.name: finding.evidence for finding in find(evidence)}
    for condition in rule.when:
        assert EVIDENCE_WORDS[condition.figure].format(evidence[condition.figure]) in findings[rule.name]


@pytest.mark.parametrize("trace", [RECORDED[rule.name] for rule in RULES if rule.name != "compile-bound"])
def test_nothing_else_is_found_in_a_log_of_one_trouble(trace: str) -> None:
    assert len(found_in(trace)) == 1


def test_other_trials_on_its_cores_are_no_other_programs(tmp_path: Path) -> None:
    header, *rows = (TRACES / "cpu_oversubscribed.csv").read_text().splitlines()
    for trials, found in ((1, ["CPU oversubscribed"]), (2, [])):
        lines = [f"{header},trials_on_cores", *(f"{row},{trials}" for row in rows)]
        (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
        assert [finding.rule.name for finding in find(gather_evidence(read_trace(tmp_path / "log.csv")))] == found


@pytest.mark.parametrize("trace", ["healthy_cpu", "healthy_gpu"])
def test_nothing_is_found_in_a_healthy_log(trace: str) -> None:
    assert found_in(trace) == []


@pytest.mark.parametrize("rule", [*RULES, IDLE_BETWEEN], ids=lambda rule: rule.name)
def test_a_rule_holds_at_its_limits_and_not_beyond_any_of_them(rule: Rule) -> None:
    at = {condition.figure: float(condition.limit) for condition in rule.when}
    assert find(at, [rule])
    for condition in rule.when:
        beyond = condition.limit * (0.99 if condition.sign == "≥" else 1.01)
        assert not find({**at, condition.figure: beyond}, [rule])
        assert not find({**at, condition.figure: nan}, [rule])
        assert not find({name: value for name, value in at.items() if name != condition.figure}, [rule])


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


def test_every_figure_of_a_rule_has_words() -> None:
    named = {figure for rule in (*RULES, IDLE_BETWEEN) for figure in (*(c.figure for c in rule.when), *rule.also)}
    assert named == EVIDENCE_WORDS.keys()


def test_the_docs_have_the_table_of_rules() -> None:
    rows = ["| finding | what it means | when | what to change |", "|---|---|---|---|"]
    for rule in (*RULES, IDLE_BETWEEN):
        when = " and ".join(f"`{each.figure}` {each.sign} {each.limit:g}" for each in rule.when)
        rows.append(f"| {rule.name} | {rule.meaning} | {when} | {'; '.join(map(describe_change, rule.changes))} |")
    assert "\n".join(rows) + "\n" in DOCS.read_text(encoding="utf-8")
