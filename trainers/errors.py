"""What can go wrong with a run through a user's call or data."""


class TrainError(ValueError):
    """Anything a user can cause here."""

    exit_code = 1


class RunError(TrainError):
    """A run folder that is not what the call expects."""

    exit_code = 2


class CheckpointError(TrainError):
    """A checkpoint that is missing, damaged or of another model."""
