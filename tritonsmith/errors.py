"""Everything that can go wrong by a user's doing or a machine's, as one small tree.

    TritonsmithError                 exit code 1: the job failed
    ├── UsageError                   exit code 2: the arguments cannot be right (also a ValueError)
    ├── CheckpointError              the source model cannot be used
    ├── StageError                   a transformation failed
    ├── VerificationError            an artifact answers differently from its checkpoint
    ├── RepositoryError              the model repository cannot be read or written
    ├── RuntimeUnavailableError      Triton cannot be run here
    ├── ServerError                  Triton started wrongly, stopped or does not answer
    │   ├── UnreachableError         nobody listens at the address
    │   └── UnknownModelError        the server does not serve that model
    └── RequestError                 the server refused one request

Every message is one line: which file or option, what was found, what was expected, what to do. The tools print it and exit
with `exit_code`; nothing else in the package ends the process.
"""


class TritonsmithError(Exception):
    """A failure that the user is told about in one line."""

    exit_code = 1


class UsageError(TritonsmithError, ValueError):
    """An argument that cannot be right, whatever the state of the machine."""

    exit_code = 2


class CheckpointError(TritonsmithError):
    """The source model cannot be fetched, read or used."""


class StageError(TritonsmithError):
    """A stage failed; the message names the stage and its log."""


class VerificationError(TritonsmithError):
    """An artifact's answers differ from its checkpoint's by more than the tolerance."""


class RepositoryError(TritonsmithError):
    """The model repository cannot be read or written as asked."""


class RuntimeUnavailableError(TritonsmithError):
    """The asked-for Triton runtime cannot run on this machine."""


class ServerError(TritonsmithError):
    """Triton did not start, stopped, or does not answer as it must."""


class UnreachableError(ServerError):
    """Nobody listens at the address."""


class UnknownModelError(ServerError):
    """The server does not serve the model asked for."""


class RequestError(TritonsmithError):
    """The server refused one request; `status` is its code (`INVALID_ARGUMENT`, `400`, ...)."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status
