"""`python -m ml_patterns` is `ml-patterns`.

Belongs here: how the command's process starts and ends. Does not: the commands (`cli.py`).
"""

import atexit
import os
import sys
import threading

from ml_patterns.collecting import load_first
from ml_patterns.interrupts import EXIT_CODE


def main() -> None:
    """Runs the command that was typed, and leaves as soon as it is done.

    Importing Dagster makes a million objects that live as long as the process. Python would search
    them for garbage dozens of times, and free them one by one at the end: a fifth of the time of a
    short command. So it is not searched while it loads, and the process ends like mypy's: threads
    waited for, exit handlers run, everything written, memory left to the operating system.
    """
    code: object = 1
    try:
        load_first()
        from ml_patterns.cli import app

        app()
    except SystemExit as ending:
        code = ending.code
    except KeyboardInterrupt:  # before a command began
        code = EXIT_CODE
    except BaseException:
        sys.excepthook(*sys.exc_info())
    _end(code)


def _end(code: object) -> None:
    """What the interpreter does at its end, but for taking itself apart."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # such as a pipe that nobody reads any longer
            code = code or 1
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
