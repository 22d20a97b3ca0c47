"""The audit says vulnerable, clean, or that nobody could be asked: never clean for unreachable.

pip-audit is real; the advisories are a server on loopback that speaks OSV's protocol.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from ml_patterns_tests.loopback import serving

SCRIPT = Path(__file__).parents[2] / "scripts" / "audit.py"
CANARY = "jinja2"

pytestmark = pytest.mark.slow


@dataclass
class Advisories:
    """Knows that these packages are vulnerable, in any version."""

    vulnerable: set[str] = field(default_factory=set)
    url: str = ""


@pytest.fixture
def advisories() -> Iterator[Advisories]:
    known = Advisories()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            name = json.loads(body)["package"]["name"]
            advisory = {
                "id": f"TEST-{name}", "summary": "for the test", "details": "", "aliases": [],
                "affected": [
                    {
                        "package": {"name": name, "ecosystem": "PyPI"},
                        "ranges": [
                            {
                                "type": "ECOSYSTEM",
                                "events": [{"introduced": "0"}, {"fixed": "99.0"}],
                            }
                        ],
                    }
                ],
            }  # fmt: skip
            answer = json.dumps({"vulns": [advisory]} if name in known.vulnerable else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with serving(Handler) as url:
        known.url = f"{url}/v1/query"
        yield known


@pytest.fixture(scope="module", autouse=True)
def _tool() -> None:
    """pip-audit itself comes from the package index."""
    beside = Path(sys.executable).parent / "uv"
    command = [str(beside) if beside.exists() else "uv", "tool", "run", "pip-audit>=2.9,<3"]
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=False, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired):
        pytest.skip("uv cannot be run here: no pip-audit")
    if done.returncode != 0:
        pytest.skip("pip-audit cannot be had from the package index here")


def audit(
    folder: Path, url: str, *options: str, pinned: tuple[str, ...] = ("idna==3.10", "six==1.17.0")
) -> subprocess.CompletedProcess[str]:
    """The script on pinned dependencies, with hashes as in the project's own file."""
    requirements = folder / "requirements.lock"
    requirements.write_text("".join(f"{pin} --hash=sha256:{'a' * 64}\n" for pin in pinned))
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(requirements), *options,
         "--", "--vulnerability-service", "osv", "--osv-url", url],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


def test_what_is_vulnerable_fails(tmp_path: Path, advisories: Advisories) -> None:
    advisories.vulnerable = {CANARY, "six"}
    for options in ((), ("--if-reachable",)):
        done = audit(tmp_path, advisories.url, *options)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "six 1.17.0: TEST-six, fixed in 99.0" in done.stdout
        assert "2 dependencies audited, 1 vulnerabilities" in done.stdout


def test_what_is_clean_passes(tmp_path: Path, advisories: Advisories) -> None:
    advisories.vulnerable = {CANARY}
    done = audit(tmp_path, advisories.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 dependencies audited, 0 vulnerabilities" in done.stdout


@pytest.mark.parametrize("service", ["knows nothing", "is down"])
def test_who_cannot_be_asked_is_said_to_be_unreachable(
    tmp_path: Path, advisories: Advisories, service: str
) -> None:
    """A mirror without advisories answers "no known vulnerabilities" to everything."""
    url = advisories.url if service == "knows nothing" else "http://127.0.0.1:9/v1/query"
    done = audit(tmp_path, url)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "advisories unreachable: jinja2==3.1.2 is vulnerable, and nobody knew" in done.stdout
    done = audit(tmp_path, url, "--if-reachable")
    assert done.returncode == 0
    assert "nothing was audited" in done.stdout


def test_a_file_that_cannot_be_read_is_no_clean_one(tmp_path: Path, advisories: Advisories) -> None:
    advisories.vulnerable = {CANARY}
    done = audit(tmp_path, advisories.url, "--if-reachable", pinned=("idna",))
    assert done.returncode == 3, done.stdout + done.stderr
    assert "could not be audited" in done.stdout


def test_everything_that_the_project_pins_is_asked_about(advisories: Advisories) -> None:
    """Markers, extras and hashes of the project's own file are read."""
    advisories.vulnerable = {CANARY}
    pinned = SCRIPT.parents[1] / "requirements.lock"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(pinned),
         "--", "--vulnerability-service", "osv", "--osv-url", advisories.url],
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    # Jinja2 is pinned, too; to this server every version of it is vulnerable.
    assert done.returncode == 1, done.stdout + done.stderr
    audited = int(done.stdout.splitlines()[-1].split()[0])
    assert audited >= 100
    assert done.stdout.count("TEST-") == 1
