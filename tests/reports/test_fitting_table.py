import pytest

from mloptimizer.reports.terminal.fitting_table import FittingTable
from tests.reports.study_files import text_of


def table(extras: int = 0) -> FittingTable:
    made = FittingTable("name", extras=extras)
    made.add_numbers("images/s", "val accuracy", "time")
    made.add_words("state", "optimizer")
    made.add_row("inception", "123456", "0.9876", "1 min 15 s", "failed: out of memory", "rmsprop")
    return made


@pytest.mark.parametrize("width", range(24, 90))
def test_no_word_or_number_breaks_at_any_width(width: int) -> None:
    text = text_of(table(), width)
    assert max(map(len, text.splitlines())) <= width
    shown, _, missing = " ".join(text.replace("─", "").split()).partition("A wider terminal also shows: ")
    for title, cell in (
        ("images/s", "123456"),
        ("accuracy", "0.9876"),
        ("time", "1 min 15 s"),
        ("optimizer", "rmsprop"),
    ):
        assert (title in shown) == (cell in shown) == (title not in missing)
    words = set(shown.split())
    assert words <= set(text_of(table(), 200).split())


def test_extra_columns_are_dropped_without_naming_them() -> None:
    assert "wider" not in text_of(table(extras=1), 60)
    assert "optimizer" not in text_of(table(extras=1), 60)
    assert "wider" in text_of(table(extras=1), 40)
