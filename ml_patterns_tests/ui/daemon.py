"""`python -m ml_patterns_tests.ui.daemon run -w workspace.yaml`: Dagster's daemon, impatient.

It looks after backfills every second instead of every thirty; nothing else is changed.
"""

import dagster._daemon.controller as controller
from dagster._daemon.cli import main

if __name__ == "__main__":
    # Dagster has no setting for it; should the name move, backfills only take longer.
    vars(controller)["DEFAULT_DAEMON_INTERVAL_SECONDS"] = 1
    main()
