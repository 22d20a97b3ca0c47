"""The channels that an installation has set up.

Belongs here: finding them in the environment. Does not: what they are (`jira.py`, `chat.py`).
"""

import logging
from collections.abc import Iterator

from ml_patterns.branching.channels.chat import ChatChannel
from ml_patterns.branching.channels.jira import JiraChannel, JiraSettings
from ml_patterns.branching.channels.passing import Channel
from ml_patterns.errors import SettingsError
from ml_patterns.registry.registry import Registry

_log = logging.getLogger(__name__)


def configured_channels(registry: Registry) -> Iterator[Channel]:
    """Each channel that is set up; one that is set up wrongly is logged and keeps nobody back."""
    try:
        jira = JiraSettings.from_environment()
        if jira is not None:
            yield JiraChannel(jira, registry)
    except SettingsError as error:
        _log.error("Jira is not told: %s", error)
    try:
        chat = ChatChannel.from_environment()
        if chat is not None:
            yield chat
    except SettingsError as error:
        _log.error("apprise is not told: %s", error)
