"""The option words of the magics."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import pytest

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.ipython.options import BG, CANCEL, JOBS, read_all, read_options


@pytest.mark.parametrize(
    ("line", "given", "code"),
    [
        ("f(x)", {}, "f(x)"),
        ("", {}, ""),
        ("-l f()", {"place": "loop"}, "f()"),
        ("--loop --quiet f()", {"place": "loop", "quiet": True}, "f()"),
        ("-qt f()", {"quiet": True, "place": "thread"}, "f()"),
        ("-n load f()", {"name": "load"}, "f()"),
        ("-nload f()", {"name": "load"}, "f()"),
        ("-qn 'two words' f()", {"name": "two words", "quiet": True}, "f()"),
        ('--name="two words" f()', {"name": "two words"}, "f()"),
        ("--timeout 2.5 f()", {"timeout": 2.5}, "f()"),
        ("--timeout=0.5 f()", {"timeout": 0.5}, "f()"),
        ("--after 1,?load,%x f()", {"after": ["1", "?load", "%x"]}, "f()"),
        ("--log 'a file.txt' f()", {"log": "a file.txt"}, "f()"),
        ("-- -1 * f()", {}, "-1 * f()"),
        ("-q -- -x", {"quiet": True}, "-x"),
        ("f(-l) -q", {}, "f(-l) -q"),
        ("- 1", {}, "- 1"),
        ("f({1, 2}, '$x {y}')", {}, "f({1, 2}, '$x {y}')"),
        ("-q   f(  'a  b' )", {"quiet": True}, "f(  'a  b' )"),
        ("-q\nf()\ng()", {"quiet": True}, "f()\ng()"),
    ],
)
def test_options_end_where_code_begins(line: str, given: dict[str, Any], code: str) -> None:
    """The code comes back as typed."""
    options, rest = read_options(line, BG, "%bg")
    assert rest == code
    assert {name: value for name, value in asdict(options).items() if value} == {
        name: value for name, value in given.items() if value
    }


def test_what_was_not_given_is_none_or_false() -> None:
    """And there are no other attributes."""
    options, _ = read_options("f()", BG, "%bg")
    assert (options.quiet, options.timeout, options.name) == (False, None, None)
    with pytest.raises(AttributeError):
        _ = options.nonsense


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-x f()", "%bg has no option -x; it has "),
        ("--nam x f()", "%bg has no option --nam; it has "),
        ("-1 * f()", "`--` ends them: %bg -- -1 …"),
        ("-qx f()", "%bg has no option -qx; it has "),
        ("--timeout x f()", "takes a number of seconds, such as 2.5 or 1h30m, not 'x'"),
        ("--timeout -1 f()", "takes a number of seconds, such as 2.5 or 1h30m, not '-1'"),
        (
            "--timeout nan f()",
            "takes a number of seconds, such as 2.5 or 1h30m, not 'nan'",
        ),
        (
            "--timeout inf f()",
            "takes a number of seconds, such as 2.5 or 1h30m, not 'inf'",
        ),
        ("--timeout", "%bg --timeout needs a value: --timeout S"),
        ("-n", "%bg -n needs a value: -n NAME"),
        ("--log= f()", "%bg --log needs a value: --log FILE"),
        ("--quiet=1 f()", "%bg --quiet takes no value, not '1'"),
    ],
)
def test_a_wrong_option_is_one_line(line: str, message: str) -> None:
    """It names the word and what there is."""
    with pytest.raises(BadInput) as raised:
        read_options(line, BG, "%bg")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("line", "given", "words"),
    [
        ("", [], []),
        ("3 -f", ["force"], ["3"]),
        ("-f 3,4 %x", ["force"], ["3", "4", "%x"]),
        ("?load(a, b) -", [], ["?load(a, b)", "-"]),
        ("all;", [], ["all"]),
        ("%a ?b --force", ["force"], ["%a", "?b"]),
        ("'?two words'", [], ["?two words"]),
    ],
)
def test_magics_without_code_take_options_anywhere(
    line: str, given: list[str], words: list[str]
) -> None:
    """Specs are separated by blanks or commas."""
    options, rest = read_all(line, CANCEL, "%cancel")
    assert rest == words
    assert options.force == ("force" in given)


@pytest.mark.parametrize(("line", "magic"), [("-z", "%jobs"), ("3 --quick", "%cancel")])
def test_there_too_a_wrong_option_is_one_line(line: str, magic: str) -> None:
    """It tells what the magic has."""
    table = JOBS if magic == "%jobs" else CANCEL
    with pytest.raises(BadInput, match=f"{magic} has no option .*; it has -"):
        read_all(line, table, magic)


def test_values_are_expanded_as_after_an_exclamation_mark() -> None:
    """In a loop they mean what they seem to mean; the code is left alone."""
    variables = {"i": 3, "limit": 2.5, "who": "me"}
    line = "-n fold-{i} --log run-{i}-$who --timeout {limit*2} f({i}, '$who')"
    given, code = read_options(line, BG, "%bg", variables)
    assert (given.name, given.log, given.timeout) == ("fold-3", "run-3-me", 5.0)
    assert code == "f({i}, '$who')"


def test_braces_can_hold_blanks_and_be_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is no variable may be one of the environment's, as for a shell."""
    monkeypatch.setenv("BG_TEST_PLACE", "/somewhere")
    given, _ = read_options(
        "-n {{{', '.join(map(str, [1, 2]))}}} --log $BG_TEST_PLACE/log f()", BG, "%bg", {}
    )
    assert given.name == "{1, 2}"
    assert given.log == "/somewhere/log"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--name fold-{k} f()", "%bg --name fold-{k}: NameError: name 'k' is not defined"),
        ("--timeout {1/0} f()", "%bg --timeout {1/0}: ZeroDivisionError: division by zero"),
        ("-n {} f()", "%bg -n {}: "),
        ("--log a{ f()", "%bg --log a{ f(): "),
        ("--timeout {i} f()", "takes a number of seconds, such as 2.5 or 1h30m, not 'x'"),
        ("-n $nowhere f()", "%bg -n $nowhere: "),
    ],
)
def test_what_cannot_be_expanded_is_one_line(line: str, message: str) -> None:
    """It names the option, the value and the reason."""
    with pytest.raises(BadInput, match=re.escape(message)) as raised:
        read_options(line, BG, "%bg", {"i": "x"})
    assert "\n" not in str(raised.value)


def test_an_expression_is_not_expanded() -> None:
    """Its braces are Python's."""
    given, _ = read_options("--on pools[{1: 2}[i]] f()", BG, "%bg", {"i": 1})
    assert given.on == "pools[{1: 2}[i]]"
