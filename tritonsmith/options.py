"""What a user asks of a build, and what can be seen to be wrong with it before any work is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tritonsmith.errors import UsageError
from tritonsmith.paths import cache_folder
from tritonsmith.recipes import FUSE_LEVELS, PRECISIONS, parse_recipe
from tritonsmith.releases import EMBEDDED, find_release

MIN_MAX_LENGTH = 16
"""In tokens; verification compares lengths from 8 up to the maximum."""


@dataclass(frozen=True)
class BuildOptions:
    """What a user asks of a build; the fields are `tools/build_repo.py`'s options."""

    model: str
    name: str | None = None
    task: str = "auto"
    device: str = "cpu"
    precision: str | None = None
    """fp32 if neither it nor a recipe is given; a recipe has a precision of its own."""
    recipe: str | None = None
    repository: Path = Path("model_repository")
    max_batch_size: int | None = None
    """None: 8, but 0 for OpenVINO, whose backend pads or refuses smaller batches."""
    instances: int = 1
    max_length: int = 384
    dynamic_batching: bool | None = None
    """None: on for a GPU, off for a CPU, where batching costs latency and brings nothing."""
    max_queue_delay_microseconds: int = 0
    num_versions: int = 1
    intra_op_thread_count: int = 0
    dataset: Path | None = None
    """Examples of the task in the format of `tritonsmith.datasets`: the metric that gates the build is computed on them."""
    dataset_limit: int | None = None
    max_metric_drop: str = "1%"
    """How much of the checkpoint's metric an artifact may lose: a share of it, or points."""
    mixed_precision: bool = True
    """Leave the nodes that lose most in floating point where INT8 does not pass otherwise."""
    fuse_level: str = "all"
    calibration: Path | None = None
    """Examples that a static quantiser learns the range of activations from; None: the packaged texts."""
    triton: str = EMBEDDED
    trust_remote_code: bool = False
    cache: Path = field(default_factory=cache_folder)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages to run, in their order."""
        return parse_recipe(self.recipe) if self.recipe is not None else PRECISIONS[self.device][self.precision or "fp32"]

    @property
    def batches_dynamically(self) -> bool:
        """Whether config.pbtxt asks for the dynamic batcher."""
        if self.dynamic_batching is None:
            return self.device == "gpu" and self.batch_limit > 0
        return self.dynamic_batching

    @property
    def batch_limit(self) -> int:
        """The `max_batch_size` of config.pbtxt."""
        if self.max_batch_size is None:
            return 0 if "openvino" in self.stages else 8
        return self.max_batch_size


def check_options(options: BuildOptions) -> None:
    """Raise UsageError for the first option that cannot be right."""
    _check_recipe(options)
    _check_batching(options)
    if options.max_length < MIN_MAX_LENGTH:
        raise UsageError(f"--max-length {options.max_length}: expected {MIN_MAX_LENGTH} tokens or more")
    for option, value, least in (
        ("--num-versions", options.num_versions, 1),
        ("--intra-op-thread-count", options.intra_op_thread_count, 0),
        ("--max-queue-delay", options.max_queue_delay_microseconds, 0),
    ):
        if value < least:
            raise UsageError(f"{option} {value}: expected {least} or more")
    if options.repository.exists() and not options.repository.is_dir():
        raise UsageError(f"--repository {options.repository}: is a file; expected a folder")
    find_release(options.triton)


def _check_recipe(options: BuildOptions) -> None:
    if options.precision is not None and options.recipe is not None:
        raise UsageError("--precision: goes without --recipe, which has a precision of its own")
    if options.device not in PRECISIONS:
        raise UsageError(f"--device {options.device}: unknown; expected one of {', '.join(PRECISIONS)}")
    if options.precision is not None and options.precision not in PRECISIONS[options.device]:
        raise UsageError(f"--precision {options.precision}: unknown; expected one of {', '.join(PRECISIONS[options.device])}")
    if options.fuse_level not in FUSE_LEVELS:
        raise UsageError(f"--fuse-level {options.fuse_level}: unknown; expected one of {', '.join(FUSE_LEVELS)}")
    if options.device == "gpu" and options.stages[-1] in ("int8-dynamic", "openvino"):
        raise UsageError(
            f"--recipe {options.recipe}: {options.stages[-1]} runs on the CPU only; use fp16 or int8-static with --device gpu"
        )


def _check_batching(options: BuildOptions) -> None:
    if "openvino" in options.stages and options.batch_limit > 0:
        raise UsageError(
            f"--max-batch-size {options.max_batch_size}: Triton's openvino backend pads or refuses smaller batches; "
            "leave it at 0, where a request carries any batch in its dims"
        )
    if options.dynamic_batching and options.batch_limit == 0:
        raise UsageError("--dynamic-batching: needs --max-batch-size of at least 1, found 0")
