"""A file of settings is read, never run: what it may hold, what is refused, and how fast."""

import math
import time

import pytest

from mloptimizer.config.plain_python import read_assignments
from mloptimizer.core.errors import UsageError


def values(source: bytes) -> dict[str, object]:
    return {name: value for name, (value, _) in read_assignments(source, "file.py").items()}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-(2 + 3) * 4 // 3 % 5", -(2 + 3) * 4 // 3 % 5),
        ("+2 ** -2 / 0.5", 0.5),
        ("1e-3", 0.001),
        ("True", True),
        ("None", None),
        ("'a' 'b' + \"c\"", "abc"),
        ("('a', 'b') + ('c',)", ("a", "b", "c")),
        ("[1, [2.5]] + []", [1, [2.5]]),
        ("_own * 2", 14),
        ("(1,\n  2)", (1, 2)),
        (r"'\d'", r"\d"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_plain_values_and_arithmetic_on_them_are_read(text: str, value: object) -> None:
    assert values(f'"""About."""\n_own = 7  # mine\nx = {text}\n'.encode()) == {"x": value}


def test_annotated_repeated_and_joined_assignments_count_and_the_last_of_them_wins() -> None:
    assert values(b"a: int = 1\nb = c = a + 1\na = a + 5\n'a text'\n") == {"a": 6, "b": 2, "c": 2}
    assert read_assignments(b"\n\na = 1\na = 2", "file.py") == {"a": (2, 4)}


def test_a_byte_order_mark_another_encoding_and_other_line_ends_are_read() -> None:
    assert values(b"\xef\xbb\xbfx = 1") == {"x": 1}
    assert values("# -*- coding: latin-1 -*-\r\nx = 'f\xfcr'\r\n".encode("latin-1")) == {"x": "f\xfcr"}


@pytest.mark.parametrize(
    "text",
    [
        *("import os", "from os import path", "print(1)", "x = open('file.py')", "x = y", "x = x", "x = os.sep"),
        *("if True:\n    x = 1", "for x in (1,):\n    pass", "while 1: pass", "def f(): pass", "class A: pass"),
        *(
            "x = f'{1}'",
            "x = f'a'",
            "x = {'a': 1}",
            "x = {1}",
            "x = [y for y in (1,)]",
            "x = lambda: 1",
            "x = (y := 1)",
        ),
        *("x = 1 < 2", "x = 1 if 1 else 2", "x = True or False", "x = not 1", "x = ~1", "x = 1 << 9", "x = (1, 2)[0]"),
        *("x += 1", "x, y = 1, 2", "x[0] = 1", "x.y = 1", "x: int", "del x", "pass", "3", "x = [*()]", "assert 1"),
        *(
            "x = 'a' * 2",
            "x = 'a' % 2",
            "x = 'a' + 1",
            "x = (1,) + [1]",
            "x = (1,) * 2",
            "x = -'a'",
            "x = b'a'",
            "x = 1j",
        ),
        *("x = ...", "x = (-1) ** 0.5", "x = 1 / 0", "x = 0 ** -1", "x = 2.0 ** 10000", "x = 1 % 0.0", "with x: pass"),
    ],
)
def test_anything_else_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"^file\.py, line 2: [^\n]+\. Possible: NAME = VALUE [^\n]+$"):
        values(b"_fine = 1\n" + text.encode())


def test_a_refused_file_has_no_effect(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"line 1: this \(call\)"):
        values(b"x = print('run')")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "source",
    [
        *(b"x = 9**9**9", b"x = 10**5000", b"x = 2**1000 * 2**1000", b"x = 'a' * 10**9", b"x = -10**10**10"),
        b"a0 = 2\n" + b"\n".join(b"a%d = a%d * a%d" % (n + 1, n, n) for n in range(60)),
        b"a0 = 'aaaa'\n" + b"\n".join(b"a%d = a%d + a%d" % (n + 1, n, n) for n in range(60)),
        *(b"x = " + sign * 100_000 + b"1" for sign in (b"-", b"1+", b"(", b"[")),
        *(b"x = 9" + b"9" * 5000, b"x = 1\0", b"\xff\xfex\0=\0", b"# coding: nothing\nx = 1", b"x = '\xff'", b"x ="),
    ],
)
def test_huge_deep_or_undecodable_input_is_refused_quickly_in_one_line(source: bytes) -> None:
    begun = time.perf_counter()
    with pytest.raises(UsageError, match=r"^file\.py[^\n]+\. [^\n]+$"):
        values(source)
    assert time.perf_counter() - begun < 5


def test_overflow_gives_infinity_which_no_setting_accepts() -> None:
    assert values(b"x = 1e308 * 10") == {"x": math.inf}
