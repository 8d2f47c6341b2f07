"""Job specs, as in bash."""

from __future__ import annotations

import pytest
from fakes import FakeClock, FakeRunner, work

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.registry.collection import Registry
from ipy_bgtasks.registry.specs import find, is_spec


@pytest.fixture
def registry() -> Registry:
    """Three jobs: `load(a)`, `load(b)` and `train(model)`."""
    fake = FakeRunner()
    registry = Registry({"loop": fake, "thread": fake}, FakeClock())  # type: ignore[arg-type]
    for name in ("load(a)", "load(b)", "train(model)"):
        registry.launch(work(label=name))
    return registry


@pytest.mark.parametrize(
    ("spec", "number"),
    [
        ("1", 1),
        ("%1", 1),
        (" 2 ", 2),
        ("", 3),
        ("+", 3),
        ("%+", 3),
        ("%%", 3),
        ("%", 3),
        ("-", 2),
        ("%-", 2),
        ("%tr", 3),
        ("%load(b", 2),
        ("?model", 3),
        ("%?(a)", 1),
        ("mine", 2),
        ("many[0]", 1),
        ("many[-1]", 2),
        ("many[i]", 2),
        ("named['a'][0]", 1),
    ],
)
def test_a_spec_names_one_job(registry: Registry, spec: str, number: int) -> None:
    """By number, mark, start or part of its name, or by a variable that holds it, or a list."""
    one, two = registry.get(1).job, registry.get(2).job
    variables = {"mine": two, "train": print, "many": [one, two], "i": 1, "named": {"a": (one,)}}
    assert find(registry, spec, variables).number == number
    assert is_spec(spec, variables)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("7", "no job 7: there are 1, 2 and 3"),
        ("%0", "no job 0: there are 1, 2 and 3"),
        ("%load", "'%load' fits more than one job: 1 (load(a)), 2 (load(b))"),
        ("?load", "'?load' fits more than one job: 1 (load(a)), 2 (load(b))"),
        ("%x", "no job whose name starts with 'x': there are 1, 2 and 3"),
        ("?x", "no job whose name contains 'x': there are 1, 2 and 3"),
        ("other", "'other' is not a job: there are 1, 2 and 3; specs are 3, -, %name or ?text"),
        ("1 2", "'1 2' is not a job: there are 1, 2 and 3; specs are 3, -, %name or ?text"),
        ("²", "'²' is not a job: there are 1, 2 and 3; specs are 3, -, %name or ?text"),
    ],
)
def test_what_names_none_or_several_is_one_line(
    registry: Registry, spec: str, message: str
) -> None:
    """It names the candidates."""
    with pytest.raises(BadInput) as raised:
        find(registry, spec, {"other": 3})
    assert str(raised.value) == message


def test_candidates_are_bounded() -> None:
    """However many jobs there are, the line stays a line."""
    fake = FakeRunner()
    registry = Registry({"loop": fake, "thread": fake}, FakeClock())  # type: ignore[arg-type]
    for spec, message in [
        ("", "no current job: there are none yet"),
        ("-", "no previous job: there are none yet"),
        ("1", "no job 1: there are none yet"),
    ]:
        with pytest.raises(BadInput, match=message):
            find(registry, spec)
    registry.launch(work(label="only"))
    with pytest.raises(BadInput, match="no previous job: there is only 1"):
        find(registry, "-")
    for _ in range(300):
        registry.launch(work(label="many"))
    with pytest.raises(
        BadInput, match=r"no job 999: there are 1, 2, …, 297, 298, 299, 300 and 301"
    ):
        find(registry, "999")
    with pytest.raises(BadInput, match=r"more than one job: 297 \(many\), .* and 295 older"):
        find(registry, "%many")


def test_code_is_no_spec(registry: Registry) -> None:
    """What could be launched is not taken for a job."""
    job = registry.get(1).job
    variables = {"f": print, "job": job, "many": [job, 3]}
    texts = ["f()", "f", "asyncio.sleep(3)", "job.result()", "3 + 4", "-x", "job[0", "many[0] + 1"]
    for text in [*texts, "many[1]", "many[2]", "many[:1]", "many[0](1)", "[job]", "f[0]"]:
        assert not is_spec(text, variables)
    assert is_spec("job", variables)
    assert not is_spec("job")


def test_a_command_is_found_without_its_sign() -> None:
    """`%sleep` is `!sleep 30`, and so is `%!sleep`."""
    fake = FakeRunner()
    registry = Registry({"loop": fake, "thread": fake}, FakeClock())  # type: ignore[arg-type]
    command = registry.launch(work(label="!sleep 30"))
    registry.launch(work(label="asleep()"))
    assert find(registry, "%sleep") is find(registry, "%!sl") is command
