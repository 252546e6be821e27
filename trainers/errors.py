"""What can go wrong with a run through a user's call or data."""


class TrainError(ValueError):
    """Anything a user can cause here."""

    exit_code = 1


class RunError(TrainError):
    """A run folder that is not what the call expects."""

    exit_code = 2


class CheckpointError(TrainError):
    """A checkpoint that is missing, damaged or of another model."""


class OtherProcessError(TrainError):
    """Another process of the run has failed, and says why; this one has nothing to add."""

    def __init__(self, exit_code: int = 1):
        super().__init__("another process of this run has failed")
        self.exit_code = exit_code

    def format_message(self) -> str:
        """What the command line prints: nothing."""
        return ""
