"""Ctrl-C and SIGTERM end a command at any moment: one line, status 130, nothing left over."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from interrupted import LONG, ROOT, inputs_into, interrupted

START = """
    import os, signal, sys, threading, time
    from fluidserve.ending import finished, install
    from serving import unfinished

    def interrupt(how=signal.SIGINT):
        os.kill(os.getpid(), how)

    install()
"""


def heard_again():
    """Let a process hear what whoever runs the tests has it ignore, as nohup does."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def ended(script, folder, *, before="exec ", timeout=20):
    """Run a script that may be interrupted, and return how it ended."""
    (folder / "script.py").write_text(textwrap.dedent(START) + textwrap.dedent(script))
    began = time.perf_counter()
    done = subprocess.run(
        ["sh", "-c", f"{before}{sys.executable} script.py"], cwd=folder, capture_output=True,
        text=True, timeout=timeout, env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=heard_again,
    )  # fmt: skip
    return done, time.perf_counter() - began


ENDINGS = {
    "python": """
        interrupt()
        time.sleep(20)
        """,
    "sigterm": """
        interrupt(signal.SIGTERM)
        time.sleep(20)
        """,
    "sighup": """
        interrupt(signal.SIGHUP)
        time.sleep(20)
        """,
    "an exception handler that swallows everything": """
        while True:
            try:
                interrupt()
                time.sleep(20)
            except BaseException:
                pass
        """,
    "a callback of C, as LLVM's into Numba": """
        import ctypes

        @ctypes.CFUNCTYPE(None)
        def compiler():
            interrupt()
            time.sleep(20)

        compiler()
        """,
    "a finalizer": """
        class Late:
            def __del__(self):
                interrupt()
                time.sleep(20)

        Late()
        """,
    "a second Ctrl-C while the first undoes": """
        def again():
            interrupt()
            time.sleep(0.1)

        with unfinished.undone(again):
            interrupt()
            time.sleep(20)
        """,
    "an action that fails": """
        with unfinished.undone(lambda: 1 / 0):
            interrupt()
            time.sleep(20)
        """,
    "a lock that nobody gives back": """
        lock = threading.Lock()
        lock.acquire()
        threading.Timer(0.2, interrupt).start()
        lock.acquire()
        """,
}


@pytest.mark.parametrize("script", ENDINGS.values(), ids=ENDINGS)
def test_an_interrupt_is_heard_whatever_python_does(tmp_path, script):
    done, seconds = ended(script, tmp_path)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "fluidserve: interrupted\n"
    assert seconds < 5


def test_an_end_waits_for_what_is_put_in_its_place_and_undoes_the_rest(tmp_path):
    script = """
        def undo(name):
            return lambda: print("undone", name, flush=True)

        with unfinished.undone(undo("first")), unfinished.undone(undo("second")):
            with unfinished.undone(undo("over")):
                pass
            with unfinished.told(lambda: "3 of 4 are kept"), unfinished.told(lambda: ""):
                with unfinished.whole():
                    with unfinished.whole():
                        interrupt()
                    for _ in range(100):
                        time.sleep(0.001)
                    print("put", flush=True)
                print("too late", flush=True)
    """
    done, _ = ended(script, tmp_path)
    assert done.stdout == "put\nundone second\nundone first\n"
    assert done.stderr == "fluidserve: interrupted; 3 of 4 are kept\n"
    assert done.returncode == 130


@pytest.mark.parametrize(
    "script",
    [
        "with unfinished.whole():\n    interrupt()\n    time.sleep(20)",
        "with unfinished.undone(lambda: time.sleep(20)):\n    interrupt()\n    time.sleep(20)",
    ],
    ids=["a disk that does not answer", "an action that hangs"],
)
def test_what_hangs_holds_an_end_up_for_no_more_than_two_seconds(tmp_path, script):
    (tmp_path / "half").touch()
    script = "\nwith unfinished.undone(lambda: os.unlink('half')):\n" + textwrap.indent(
        script, "    "
    )
    done, seconds = ended(script, tmp_path)
    assert done.returncode == 130 and done.stderr == "fluidserve: interrupted\n"
    assert seconds < 2 + 1  # and the start of Python


def test_a_signal_that_is_ignored_stays_ignored_and_the_end_of_the_work_is_the_end(tmp_path):
    script = """
        interrupt(signal.SIGHUP)
        print("done", flush=True)
        finished()
        interrupt()
        interrupt(signal.SIGTERM)
    """
    done, _ = ended(script, tmp_path, before="trap '' HUP; exec ")  # as nohup does
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.slow
def test_an_interrupt_ends_compiled_code_that_runs(tmp_path):
    """A handler of Python runs between two of its steps only: never, in this loop."""
    script = """
        from serving.compilation import compiled

        @compiled
        def endless(start):
            while start < 2.0:
                start = 1.0 + 0.5 * start / 2.0
            return start

        print("go", flush=True)
        endless(3.0)
        threading.Timer(0.5, interrupt).start()
        with unfinished.undone(lambda: print("undone", flush=True)):
            endless(0.0)
    """
    done, _ = ended(script, tmp_path, timeout=60)
    assert (done.returncode, done.stderr) == (130, "fluidserve: interrupted\n")
    assert done.stdout == "go\nundone\n"


def test_the_command_can_be_interrupted_before_anything_slow_is_imported():
    """Python tells of an interrupt by a traceback until then: it is some milliseconds."""
    code = """
        import sys
        before = set(sys.modules)
        import fluidserve.ending
        fluidserve.ending.install = lambda: sys.exit(" ".join(set(sys.modules) - before))
        import fluidserve.__main__
        fluidserve.__main__.main()
    """
    done = subprocess.run(
        [sys.executable, "-S", "-c", textwrap.dedent(code)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    heavy = {"click", "pathlib", "ast", "typing", "numpy", "serving", "inspect", "threading"}
    loaded = set(done.stderr.split())
    assert "fluidserve.ending" in loaded and not heavy & loaded, loaded


@pytest.mark.slow
def test_a_dozen_interrupts_at_random_moments_end_clean(tmp_path):
    """``benchmarks/interrupts.py`` does the same by the hundred."""
    inputs_into(tmp_path)
    chance = random.Random(11)
    faults = {}
    for number, name in enumerate(
        [*list(LONG)[chance.randrange(2) :: 2], "compare-short", "sweep"]
    ):
        how = (signal.SIGINT, signal.SIGTERM)[number % 2]
        after = 1.5 * chance.random() ** 2
        end = interrupted(LONG[name], after, tmp_path, how, group=chance.random() < 0.7)
        if end.faults:
            faults[name, round(after, 3), how.name] = end.faults
    assert not faults
