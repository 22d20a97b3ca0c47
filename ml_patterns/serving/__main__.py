"""`python -m ml_patterns.serving`: the model server of this installation.

Belongs here: reading the few flags. Does not: running it (`run.py`).
"""

import argparse
import sys

from ml_patterns.errors import UserError
from ml_patterns.installation import Installation
from ml_patterns.serving.run import serve
from ml_patterns.serving.settings import ServerSettings


def main() -> None:
    """Reads the flags and serves."""
    parser = argparse.ArgumentParser(prog="python -m ml_patterns.serving", description=__doc__)
    defaults = ServerSettings()
    parser.add_argument("--host", default=defaults.host, help="address to listen on")
    parser.add_argument("--port", type=int, default=defaults.port, help="0: any free port")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the port")
    parser.add_argument("--threads", type=int, default=0, help="of each worker; 0: one per core")
    arguments = parser.parse_args()
    settings = ServerSettings.from_environment(**vars(arguments))
    try:
        serve(settings, Installation.from_environment())
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
