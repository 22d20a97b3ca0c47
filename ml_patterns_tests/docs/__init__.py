"""The documentation is followed as a reader would; `runner.py` says how a page is read."""

from ml_patterns_tests.docs.runner import (
    Block,
    Command,
    Session,
    blocks,
    commands,
    follow,
    matches,
    session,
)

__all__ = ["Block", "Command", "Session", "blocks", "commands", "follow", "matches", "session"]
