"""Starts ``conpet`` commands that are to be killed, as often and as cheaply as a test wants.

It imports conpet once and forks a process for each command, so that a start costs no import. It
reads orders from standard input and answers on standard output, one JSON document a line:

    {"start": {"arguments": [...], "out": FILE, "err": FILE, "fault": FAULT, "room": BYTES,
               "humble": BOOL}}
    -> {"pid": N}
    {"wait": N}  -> {"code": the exit code, or minus the signal that ended it}
    {"pause": N} -> {"stopped": whether SIGSTOP holds it still, or it has ended}
    {"poll": N}  -> {"ended": whether it has ended}; its exit code may still be asked for

A fault makes one call go wrong; the product knows nothing of it:

    target    "module:name" or "module:Class.name" of the function
    call      which of its calls, from 1
    argument  only calls with this text in one of their arguments are counted
    when      "before" it, "after" it, or "torn": after it, the file that it wrote a byte too short
    signal    the name of the signal that the process gets; absent: the call raises RuntimeError

``room`` is the size in bytes that no file may exceed: the kernel refuses the rest. A ``humble``
command obeys the rights of files even where root runs it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

LIMIT = 300  # seconds that a command may live, many times what it needs


def serve() -> None:
    """Obey until standard input ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    for line in sys.stdin:
        order, answer = json.loads(line), {}
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        elif "poll" in order:
            how = os.WEXITED | os.WNOHANG | os.WNOWAIT
            answer = {"ended": os.waitid(os.P_PID, order["poll"], how) is not None}
        elif "pause" in order:
            found = os.waitid(os.P_PID, order["pause"], os.WEXITED | os.WSTOPPED | os.WNOWAIT)
            answer = {"stopped": found is not None and found.si_code == os.CLD_STOPPED}
        else:
            pid = os.fork()
            if pid == 0:
                live(**order["start"])
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


def live(
    arguments: list[str],
    out: str,
    err: str,
    fault: Mapping[str, Any] | None,
    room: int | None,
    humble: bool,
) -> None:
    """Be one command, from the redirection of its output to its exit."""
    from conpet.cli import main

    for number, path in ((0, os.devnull), (1, out), (2, err)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    signal.alarm(LIMIT)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the driver
    code: Any = 0
    try:
        if fault is not None:
            plant(**fault)
        if room is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing fails with EFBIG instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        if humble:
            drop_capabilities()
        main(arguments)
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def drop_capabilities() -> None:
    """Give up what root may do beyond an owner of files (capset, see ``man 2 capget``)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capset(header, nothing) != 0:
        raise OSError("capset failed")


def plant(
    target: str,
    call: int = 1,
    argument: str = "",
    when: str = "before",
    signal_name: str | None = None,
) -> None:
    """Replace ``target`` by itself with the fault."""
    module, _, path = target.partition(":")
    *outer, name = path.split(".")
    owner: Any = import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, name)
    seen = 0

    def strike() -> None:
        if signal_name is None:
            raise RuntimeError(f"a fault in {target}")
        os.kill(os.getpid(), signal.Signals[signal_name])

    @wraps(original)
    def faulty(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        words = [str(value) for value in (*args, *kwargs.values()) if isinstance(value, str | Path)]
        meant = not argument or any(argument in word for word in words)
        seen += meant
        mine = meant and seen == call
        if mine and when == "before":
            strike()
        result = original(*args, **kwargs)
        if mine and when == "torn":
            file = next(a for a in args if isinstance(a, Path))
            os.truncate(file, file.stat().st_size - 1)
        if mine and when != "before":
            strike()
        return result

    setattr(owner, name, faulty)


if __name__ == "__main__":
    import_module("conpet.api")  # and with it all that a command imports, once
    serve()
