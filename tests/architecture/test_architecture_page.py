"""docs/architecture.md says what the code is: its tables are drawn from it."""

import configparser

from tests.architecture.draw import PACKAGE, PAGE, ROOT, WAY, render_page


def test_the_page_is_as_the_code_is() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert render_page(text) == text, "draw it anew: python -m tests.architecture.draw"


def test_from_the_command_to_a_trained_epoch_and_back_it_takes_at_most_ten_files() -> None:
    assert len({file for file, _, _ in WAY}) <= 10
    assert WAY[0][0].startswith("cli/") and WAY[-1][0].startswith("cli/")
    assert any(file.startswith("training/") for file, _, _ in WAY)


def test_the_wheel_brings_every_room() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    rooms = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    assert set(config["options"]["packages"].split()) == {*rooms, "mloptimizer.search_spaces"}
