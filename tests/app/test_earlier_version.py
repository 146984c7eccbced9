"""A workspace that version 0.1 has written continues: `workspace_of_0_1` is one, whose search was killed in trial 4."""

import json
import shutil
from pathlib import Path

import pytest

from mloptimizer.app.assembly import run_request
from mloptimizer.app.search_request import SearchRequest
from mloptimizer.core.nouns import Outcome, Phase
from mloptimizer.store.workspace import Workspace


def epochs(workspace: Workspace, number: int) -> list[dict[str, float]]:
    lines = (workspace.trial("digits", number) / "epochs.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_a_search_that_an_earlier_version_began_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "old")
    shutil.copytree(Path(__file__).parent / "workspace_of_0_1", workspace.root)
    before = {path: path.read_bytes() for path in workspace.metrics.glob("digits/trial_0000[0-3]/*.json*")}
    made = epochs(workspace, 4)
    assert len(before) == 12 and len(made) == 4

    request = SearchRequest(workspace, study="digits", assignments={"trials": 6, "workers": 1})
    summary = run_request(request)
    assert summary.exploration[Outcome.COMPLETED] == 6
    assert epochs(workspace, 4)[:4] == made and len(epochs(workspace, 4)) == 30
    assert {path: path.read_bytes() for path in before} == before
    assert summary.winner_phase is Phase.HALL_OF_FAME and summary.is_tested
