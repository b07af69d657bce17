"""What is printed stays on its line and leaves the terminal as it was."""

import pytest

from system import screen

ODD = {
    "colour": ("\x1b[31mred", "\\x1b[31mred"),
    "new line": ("a\nb\r\u2028c", "a\\nb\\r\\u2028c"),
    "bidi": ("a\u202egpj.exe", "a\\u202egpj.exe"),
    "surrogate": ("\udcff", "\\udcff"),
    "plain": ("é 日本 a\\b 'c'", "é 日本 a\\b 'c'"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_complaint_is_one_printable_line_whatever_names_are_in_it(capsys, name):
    odd, shown = ODD[name]
    screen.complain(ValueError(f"{odd}.jpg: bad; {'x' * 300}"))
    assert capsys.readouterr().err == f"main.py: {shown}.jpg: bad; {'x' * 300}\n"
