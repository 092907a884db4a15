"""Everything that can go wrong with a model's files.

WeightsError
├── BundleNotFound       no bundle under this path or id
├── BundleInvalid        bundle.json: a key is missing, unknown or out of range
├── BundleMismatch       the frozen model found is not the one the bundle was made for
├── DamagedFile          truncated, altered, or tensors missing or of the wrong shape
├── CheckpointInvalid    not a checkpoint of the original FROMAGe code
├── ModelUnavailable     a frozen model is neither on disk nor on the hub
├── UnsupportedModel     a language model or vision tower that FROMAGe cannot stand on
├── DeviceUnavailable    a device or dtype that this machine does not have
├── QuantizationUnavailable  a package that quantizes is not installed
├── ParallelUnavailable  a language model cannot be divided among so many processes
├── TrainingDataInvalid  pairs of images and captions that cannot be read
├── TrainingInvalid      a run that cannot start, or go on, as it was asked to
├── EvaluationDataInvalid    files of an evaluation that cannot be read
├── EvaluationUnavailable    a package that scores is not installed
└── HubFailed            the hub refuses, or cannot be reached
"""

import re
from pathlib import Path

_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 300


class WeightsError(Exception):
    """Base of the tree; its text is one line that a user can act on."""


def one_line(error: Exception) -> str:
    """Another library's message, short enough to stand inside one of ours."""
    text = " ".join(_TERMINAL_CODES.sub("", str(error)).split())
    return text[:_LONGEST] or type(error).__name__


class BundleNotFound(WeightsError):
    pass


class BundleInvalid(WeightsError):
    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file


class BundleMismatch(WeightsError):
    """The bundle names one frozen model by hash, and another one was found."""

    def __init__(self, part: str, source: str, expected: str, found: str) -> None:
        super().__init__(
            f"the bundle was made for another {part}: {source} has hash {found}, "
            f"the bundle expects {expected}"
        )
        self.part = part
        self.expected = expected
        self.found = found


class DamagedFile(WeightsError):
    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file


class CheckpointInvalid(WeightsError):
    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file


class ModelUnavailable(WeightsError):
    pass


class UnsupportedModel(WeightsError):
    pass


class DeviceUnavailable(WeightsError):
    pass


class QuantizationUnavailable(WeightsError):
    pass


class ParallelUnavailable(WeightsError):
    pass


class TrainingDataInvalid(WeightsError):
    pass


class TrainingInvalid(WeightsError):
    pass


class EvaluationDataInvalid(WeightsError):
    pass


class EvaluationUnavailable(WeightsError):
    pass


class HubFailed(WeightsError):
    pass
