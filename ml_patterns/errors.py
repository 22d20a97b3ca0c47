"""What can go wrong, as one small family.

Belongs here: the errors that this project raises on purpose. Does not: deciding which failures of
others are transient (`retry/classify.py`).

Every `UserError` is one sentence that names the file, row, setting or region at fault and the
remedy; the command line prints it without a stack trace.
"""


class MLPatternsError(Exception):
    """Base of everything that this project raises on purpose."""


class UserError(MLPatternsError):
    """A mistake that the user can mend: one sentence, no stack trace."""


class SettingsError(UserError):
    """A setting is missing, unknown or contradicts another."""


class SourceFileError(UserError):
    """A landed file cannot be read as events; the sentence names the file."""


class FileNotDeliveredError(SourceFileError):
    """Nothing may be wrong with the file: it vanished, or its store did not deliver it."""


class TransformError(UserError):
    """`aggregates.sql` or `features.sql` failed or returned something unusable."""


class WarehouseBusyError(UserError):
    """Another process held the warehouse file longer than we were willing to wait."""


class NothingToTrainError(UserError):
    """A region was asked for that has no features yet."""


class ConflictError(MLPatternsError):
    """Somebody else won a compare-and-set; nothing was written, nothing is lost."""


class StaleDecisionError(ConflictError):
    """A decision no longer fits what it was made about; the sentence names what changed."""


class ArtifactError(MLPatternsError):
    """An artifact is missing, altered or unreadable."""
