"""Any service that apprise knows: mail, Slack, Teams and some hundred more.

Belongs here: handing a notification over. Does not: when that happens (`passing.py`).

Apprise is an extra (`pip install apprise`). It knows no idempotency key: what was sent but not
noted as sent arrives again, with the same key in its text.
"""

import os

from ml_patterns.branching.channels.passing import patient_caller
from ml_patterns.branching.notify import describe
from ml_patterns.errors import SettingsError
from ml_patterns.registry.records import Notification
from ml_patterns.retry.caller import RetryingCaller

VARIABLE = "ML_PATTERNS_APPRISE"
"""Environment variable with apprise's URLs, separated by spaces: they hold secrets."""


class ChatChannel:
    """Tells every URL of the environment variable.

    Args:
        urls: in apprise's notation, such as `slack://…` or `mailto://…`.

    Raises:
        SettingsError: apprise is not installed, or it does not understand a URL.
    """

    name = "apprise"

    def __init__(self, urls: list[str], caller: RetryingCaller | None = None) -> None:
        try:
            import apprise
        except ImportError as error:
            raise SettingsError(
                f"{VARIABLE} is set, but apprise is not installed: pip install apprise"
            ) from error
        self._caller = caller or patient_caller()
        self._services = apprise.Apprise()
        for position, url in enumerate(urls, start=1):
            if not self._services.add(url):
                raise SettingsError(
                    f"apprise does not understand URL {position} of {VARIABLE}; see its list of "
                    "services"
                )

    @classmethod
    def from_environment(cls) -> "ChatChannel | None":
        """The channel of this environment; None: there is none."""
        urls = os.environ.get(VARIABLE, "").split()
        return cls(urls) if urls else None

    def send(self, notification: Notification) -> None:
        """Sends one message to all of them."""
        self._caller.call(lambda _seconds: self._notify(notification))

    def _notify(self, notification: Notification) -> None:
        who = notification.region or notification.pipeline
        title = f"{who}: {notification.kind.replace('_', ' ')}"
        text = f"{describe(notification)}\n({notification.key})"
        if not self._services.notify(title=title, body=text):
            raise ConnectionError("a service of apprise did not take the message")
