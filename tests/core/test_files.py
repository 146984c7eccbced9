import json
from pathlib import Path

import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.core.files import (
    append_line,
    line_of_json,
    read_json,
    read_json_lines,
    write_json,
    write_readme,
    write_text,
)


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    for value in ({"a": 1}, {"a": [2, "ü"]}):
        write_json(path, value)
        assert read_json(path) == value
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}}', "\x00"])
def test_a_damaged_json_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"a.json: .*Restore it or remove it") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_a_missing_json_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a.json: No such file"):
        read_json(tmp_path / "a.json")


def test_a_folder_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(UsageError, match="File exists|Not a directory"):
        write_text(tmp_path / "a" / "b", "text")


def test_a_torn_last_line_neither_hides_others_nor_swallows_the_next(tmp_path: Path) -> None:
    path = tmp_path / "epochs.jsonl"
    append_line(path, '{"epoch": 1}')
    with path.open("a") as file:
        file.write('{"epoch": 2, "lo')
    append_line(path, '{"epoch": 3}')
    assert list(read_json_lines(path)) == [{"epoch": 1}, {"epoch": 3}]


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert list(read_json_lines(tmp_path / "none.jsonl")) == []


def test_nan_and_infinities_become_null() -> None:
    assert json.loads(line_of_json({"a": float("inf"), "b": 0.5})) == {"a": None, "b": 0.5}


@pytest.mark.parametrize(("there", "stays"), [(None, False), ("# Logs\nold columns\n", False), ("# My notes\n", True)])
def test_a_readme_is_renewed_unless_it_is_a_persons_own(tmp_path: Path, there: str | None, stays: bool) -> None:
    path = tmp_path / "folder" / "README.md"
    if there is not None:
        write_text(path, there)
    write_readme(path, "# Logs\nnew columns\n")
    assert path.read_text() == (there if stays else "# Logs\nnew columns\n")
