"""What CODE may be: each form, where it runs by default, and what it gives."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import threading
from typing import Any

import pytest

from ipy_bgtasks.errors import BadInput
from ipy_bgtasks.work import Scope, Work, read


def scope_of(source: str = "", **names: Any) -> Scope:
    """A user's namespace in which the source was run."""
    namespace: dict[str, Any] = {"__name__": "__main__", "asyncio": asyncio, **names}
    exec(source, namespace)
    return Scope(namespace)


def run(work: Work) -> Any:
    """Run the work as a runner would, the awaiting of a late surprise included."""

    async def on_loop() -> Any:
        value = await work.call()
        assert not inspect.isawaitable(value)
        return value

    value = asyncio.run(on_loop()) if work.is_async else work.call()
    if work.store is not None:
        work.store(value)
    return value


FUNCTIONS = """
import functools
events = []
async def fetch(u='a'):
    asyncio.get_running_loop()
    events.append(u)
    return f'page {u}'
def train(model=1):
    events.append(model)
    return model * 2
class Api:
    async def get(self, u='a'):
        return f'got {u}'
    @classmethod
    async def make(cls):
        return cls.__name__
    @staticmethod
    async def ping():
        return 'pong'
    def count(self):
        return 3
    async def __call__(self, n=0):
        return n + 1
class Pending:
    def __init__(self, value=7):
        self.value = value
    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self.value
api = Api()
url = 'u'
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("fetch(url)", "page u"),
        ("fetch('x') ", "page x"),
        ("fetch", "page a"),
        ("asyncio.sleep(0, 'slept')", "slept"),
        ("asyncio.gather(fetch(1), fetch(2))", ["page 1", "page 2"]),
        ("asyncio.shield(fetch(3))", "page 3"),
        ("asyncio.wait_for(fetch(3), 5)", "page 3"),
        ("asyncio.ensure_future(fetch(4))", "page 4"),
        ("asyncio.create_task(fetch(5))", "page 5"),
        ("asyncio.to_thread(train, 4)", 8),
        ("api.get(url)", "got u"),
        ("api.get", "got a"),
        ("api.make()", "Api"),
        ("Api.make", "Api"),
        ("Api.ping()", "pong"),
        ("api.ping", "pong"),
        ("Api.get(api, 1)", "got 1"),
        ("api(4)", 5),
        ("api", 1),
        ("Pending(3)", 3),
        ("Pending", 7),
        ("functools.partial(fetch, url)", "page u"),
        ("functools.partial(fetch, url)()", "page u"),
        ("functools.partial(functools.partial(api.get), url)", "got u"),
        ("lambda: fetch(url)", "page u"),
        ("lambda u=url: fetch(u)", "page u"),
        ("await fetch(url)", "page u"),
        ("len(await fetch(url))", 6),
        ("fetch(await fetch(1))", "page page 1"),
        ("[await fetch(i) for i in range(2)]", ["page 0", "page 1"]),
        ("{i: await fetch(i) for i in range(1)}", {0: "page 0"}),
        ("f'{await fetch(1)}!'.upper()", "PAGE 1!"),
        ("await asyncio.gather(fetch(1))", ["page 1"]),
        ("functools.partial(fetch, await fetch(1))", "page page 1"),
        ("(await fetch('b')).upper", "PAGE B"),
    ],
)
def test_async_expressions_run_on_the_loop(code: str, expected: Any) -> None:
    """What is seen to be awaitable is evaluated inside the loop and awaited."""
    work = read(code, scope_of(FUNCTIONS))
    assert work.is_async
    assert run(work) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("train(4)", 8),
        ("train", 2),
        ("train(2) + train(3)", 10),
        ("lambda: train(9)", 18),
        ("lambda x=4: x", 4),
        ("functools.partial(train, 5)", 10),
        ("functools.partial(max, 5, 7)", 7),
        ("api.count()", 3),
        ("api.count", 3),
        ("Api().count()", 3),
        ("[train, len][0](2)", 4),
        ("[1, 2, 3].copy", [1, 2, 3]),
        ("url.upper", "U"),
        ("str", ""),
        ("print", None),
        ("[train(i) for i in range(3)]", [0, 2, 4]),
        ("train(1) if url else train(2)", 2),
        ("asyncio.run(fetch(2))", "page 2"),
        ("2 ** 10", 1024),
        ("{'a': train(1)}", {"a": 2}),
        ("(train(1), train(2))", (2, 4)),
        ("list(x for x in 'ab')", ["a", "b"]),
        ("any((await fetch(1) for _ in ()) and 'x')", True),
    ],
)
def test_other_expressions_run_in_a_thread(code: str, expected: Any) -> None:
    """Their value is the result."""
    work = read(code, scope_of(FUNCTIONS))
    assert not work.is_async
    if "await" not in code:
        assert run(work) == expected


async def test_awaitable_of_a_thread_is_handed_on() -> None:
    """Where nothing told that the value is awaitable, the runner gets it to await."""
    scope = scope_of(FUNCTIONS + "\ndef start(): return fetch(1)")
    work = read("start()", scope)
    assert not work.is_async
    assert await work.call() == "page 1"


def test_a_call_can_be_made_again() -> None:
    """Each call of an async work gives a fresh coroutine."""
    scope = scope_of(FUNCTIONS)
    work = read("fetch(url)", scope)
    assert [run(work), run(work)] == ["page u"] * 2
    assert scope.namespace["events"] == ["u", "u"]


async def test_a_task_is_adopted() -> None:
    """The work of a task is to wait for it; cancelling it cancels the task."""
    task = asyncio.ensure_future(asyncio.sleep(0, 5))
    work = read("task", scope_of(task=task))
    assert work.is_async
    assert await work.call() == 5
    endless = asyncio.ensure_future(asyncio.Event().wait())
    waiter = asyncio.ensure_future(read("task", scope_of(task=endless)).call())
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless


async def test_a_coroutine_object_and_a_future_are_adopted() -> None:
    """Anything with ``__await__`` will do, also one found by a dotted name."""
    holder = type("Holder", (), {})()
    holder.future = asyncio.get_running_loop().create_future()
    holder.future.set_result("set")
    coroutine = asyncio.sleep(0, "woken")
    scope = scope_of(FUNCTIONS + "\npending = Pending(8)", holder=holder, coroutine=coroutine)
    for code, expected in [("coroutine", "woken"), ("holder.future", "set"), ("pending", 8)]:
        work = read(code, scope)
        assert work.is_async
        assert await work.call() == expected


async def test_a_threads_future_is_adopted() -> None:
    """A ``concurrent.futures.Future`` is waited for without blocking the loop."""
    future: concurrent.futures.Future[str] = concurrent.futures.Future()
    work = read("future", scope_of(future=future))
    assert work.is_async
    waiter = asyncio.ensure_future(work.call())
    await asyncio.sleep(0)
    future.set_result("done")
    assert await waiter == "done"


async def test_explicit_await_says_how_much_to_await() -> None:
    """``await`` of something that gives a task gives the task, as in a cell."""
    scope = scope_of(FUNCTIONS + "\nasync def start(): return asyncio.ensure_future(fetch())")
    task = await read("await start()", scope).call()
    assert isinstance(task, asyncio.Task)
    assert await task == "page a"


async def test_lookups_that_are_code_wait_for_the_run() -> None:
    """A property is read where the job runs, then called if it is a function."""
    source = """
reads = []
class Lazy:
    @property
    def job(self):
        reads.append(1)
        return lambda: 'called'
    @property
    def value(self):
        return 'as it is'
    @property
    def coming(self):
        return asyncio.sleep(0, 'awaited')
lazy = Lazy()
"""
    scope = scope_of(source)
    work = read("lazy.job", scope)
    assert not work.is_async
    assert scope.namespace["reads"] == []
    assert work.call() == "called"
    assert read("lazy.value", scope).call() == "as it is"
    assert await read("lazy.coming", scope).call() == "awaited"


def test_nothing_runs_while_reading() -> None:
    """Not even the arguments of a partial, a default or an index."""
    scope = scope_of(FUNCTIONS)
    for code in (
        "train(train(1))",
        "functools.partial(train, train(1))",
        "lambda x=train(1): x",
        "events[train(1)] = train(2)",
        "train(1); train(2)",
        "import functools; train(1)",
    ):
        read(code, scope)
    assert scope.namespace["events"] == []


@pytest.mark.parametrize("code", ["train(4)", "train", "fetch('x')", "x = train(4)"])
def test_the_call_is_a_partial_of_a_function(code: str) -> None:
    """So that a runner can send function and arguments elsewhere."""
    work = read(code, scope_of(FUNCTIONS))
    assert isinstance(work.call, functools.partial)
    assert inspect.isfunction(work.call.func)
    assert inspect.iscoroutinefunction(work.call) == work.is_async
    assert not work.call.args
    assert set(work.call.keywords) <= {"train", "fetch"}


def test_reading_leaves_no_name_behind() -> None:
    """The namespace has after reading what it had before."""
    scope = scope_of(FUNCTIONS)
    before = dict(scope.namespace)
    for code in ("train(4)", "x = train(4)", "a, b = train(4), 1", "fetch", "y = 1; y", "1 + 1"):
        read(code, scope)
    assert scope.namespace == before


def test_reading_works_in_any_thread() -> None:
    """No loop and no main thread is needed."""
    scope = scope_of(FUNCTIONS)
    found: list[Work] = []
    thread = threading.Thread(target=lambda: found.append(read("asyncio.gather(fetch(1))", scope)))
    thread.start()
    thread.join()
    assert run(found[0]) == ["page 1"]


def test_label_is_one_short_line() -> None:
    """The code as typed stays whole; the label is at most 60 characters."""
    scope = scope_of(FUNCTIONS)
    code = "train(\n    4,\n)"
    work = read(code, scope)
    assert (work.code, work.label) == (code, "train( 4, )")
    long = read("train(" + "1 + " * 40 + "1)", scope)
    assert len(long.label) == 60
    assert long.label.endswith("…")
    assert long.label.startswith("train(1 + 1 + ")


def test_transformed_code_is_read_as_python() -> None:
    """IPython syntax is translated only where the text is not Python as it stands."""
    seen = []

    def transform(text: str) -> str:
        seen.append(text)
        return text.replace("%double ", "train(") + ")"

    scope = Scope(scope_of(FUNCTIONS).namespace, transform=transform)
    assert run(read("train(1)", scope)) == 2
    assert seen == []
    work = read("x = %double 21", scope)
    assert run(work) == 42
    assert (work.code, work.assigns) == ("x = %double 21", {"x"})


def test_tree_transformers_apply() -> None:
    """What the user's AST transformers make of the code is what runs."""
    import ast

    class Ten(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.Constant:
            return ast.copy_location(ast.Constant(10), node)

    scope = Scope(scope_of(FUNCTIONS).namespace, transform_ast=Ten().visit)
    assert run(read("train(1)", scope)) == 20
    assert run(read("train(1); train(2)", scope)) == 20


@pytest.mark.parametrize("code", ["", "   ", "\n", "# only a comment"])
def test_no_code_is_refused(code: str) -> None:
    """One line says what would work."""
    for cell in (False, True):
        with pytest.raises(BadInput, match=r"no code to run: give a call") as caught:
            read(code, scope_of(), cell=cell)
        assert "\n" not in str(caught.value)
