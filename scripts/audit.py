"""Known vulnerabilities of what is pinned; or that nobody could be asked.

    python scripts/audit.py requirements.lock [--if-reachable] [-- OPTIONS OF PIP-AUDIT]

pip-audit says "no known vulnerabilities" also when the index has no advisories (a mirror, a proxy):
it skips what it cannot find, and ends with 0. So it is asked first about a version that is known to
be vulnerable, and believed only if it knows that.

Exit code 0: nothing is known; 1: something is; 2: the advisories cannot be reached (with
--if-reachable: 0, and the sentence is printed all the same); 3: the file cannot be audited.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

KNOWN_TO_BE_VULNERABLE = "jinja2==3.1.2"  # GHSA-h5c8-rqwp-cp95
TOOL = ("tool", "run", "pip-audit>=2.9,<3")
CLEAN, VULNERABLE, UNREACHABLE, BROKEN = 0, 1, 2, 3


def uv() -> str:
    """The uv of this environment, else that of the machine."""
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.exists() else "uv"


def ask(requirements: Path, options: list[str]) -> tuple[list[dict[str, Any]], str]:
    """What pip-audit says of each dependency, and what it said instead if it could not."""
    command = [uv(), *TOOL, "-r", str(requirements), "--disable-pip", "--no-deps",
               "--format", "json", "--progress-spinner", "off", *options]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        return json.loads(done.stdout)["dependencies"], done.stderr
    except (ValueError, KeyError):
        return [], (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], str(error)


def audit(requirements: Path, options: list[str]) -> tuple[int, str]:
    """The exit code, and what is to be printed."""
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary.txt"
        canary.write_text(KNOWN_TO_BE_VULNERABLE)
        known, why = ask(canary, options)
    if not any(entry.get("vulns") for entry in known):
        why = next((entry["skip_reason"] for entry in known if "skip_reason" in entry), why)
        return UNREACHABLE, (
            f"advisories unreachable: {KNOWN_TO_BE_VULNERABLE} is vulnerable, and nobody knew "
            f"({why.strip() or 'an empty answer'}); nothing was audited"
        )
    found, why = ask(requirements, options)
    if not found:
        return BROKEN, f"{requirements} could not be audited: {why}"
    lines = [
        f"{entry['name']} {entry['version']}: {vulnerability['id']}, fixed in "
        f"{', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for entry in found
        for vulnerability in entry.get("vulns", ())
    ]
    skipped = [f"{entry['name']} was not audited: {entry['skip_reason']}"
               for entry in found if "skip_reason" in entry]  # fmt: skip
    summary = f"{len(found) - len(skipped)} dependencies audited, {len(lines)} vulnerabilities"
    return (VULNERABLE if lines else CLEAN), "\n".join([*skipped, *lines, summary])


def main(arguments: list[str]) -> int:
    """Audits one file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("requirements", type=Path)
    parser.add_argument("--if-reachable", action="store_true")
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    asked = parser.parse_args(arguments[:cut])
    code, text = audit(asked.requirements, arguments[cut + 1 :])
    print(text)
    return CLEAN if asked.if_reachable and code == UNREACHABLE else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
