"""100,000 short jobs through one kernel: is memory flat after the first `max_finished`?

    python tests/stress/memory.py [JOBS]

Prints the kernel's resident memory and the sizes of the maps in which jobs leave traces, after
every tenth part.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "kernel"))

from kernels import Kernel

SETUP = """
import asyncio, gc, linecache, os, sys
async def quick(i): return i
def call(i): return [i]
def fail(i): raise ValueError(i)
ip = get_ipython()
core = ip._ipy_bgtasks_core
def measure():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1])
    compiled = len(ip.compile._filename_map), len(linecache.cache), len(core.sources._held)
    print(pages * 4096 // 1024, "kB;", *compiled, "maps;", len(gc.get_objects()), "objects")
async def many(kind, start, count):
    for i in range(start, start + count):
        ip.run_line_magic("bg", f"-q {kind}({i});")
        if i % 64 == 0:
            quick = [job for job in core.registry.alive() if job.quiet]  # without this one
            await asyncio.wait([settled(job) for job in quick] or [pause()])
def settled(job):
    async def settle():
        try:
            await job
        except Exception:
            pass
    return asyncio.create_task(settle())
def pause():
    return asyncio.create_task(asyncio.sleep(0))
"""


def main(jobs: int) -> None:
    """Run the jobs in ten parts, a third of each kind."""
    with tempfile.TemporaryDirectory() as home:
        kernel = Kernel(Path(home))
        try:
            kernel.load()
            kernel.ok(SETUP)
            part = jobs // 30
            for n in range(10):
                for kind in ("quick", "call", "fail"):
                    # In a job: what one cell launches is kept as one.
                    kernel.ok(f"%fg many({kind!r}, {n * part}, {part})", timeout=600)
                print(f"{(n + 1) * part * 3:7} jobs:", kernel.ok("measure()").stdout, end="")
        finally:
            kernel.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
