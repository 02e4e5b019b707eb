"""What a user asks of a build, and what can be seen to be wrong with it before any work is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tritonsmith.errors import UsageError
from tritonsmith.paths import cache_folder
from tritonsmith.recipes import FUSE_LEVELS, PRECISIONS, parse_recipe
from tritonsmith.releases import EMBEDDED, find_release
from tritonsmith.repository.describe import ConfigOptions, check_config, served_lengths

MIN_MAX_LENGTH = 16
"""In tokens; verification compares lengths from 8 up to the maximum."""


@dataclass(frozen=True)
class BuildOptions(ConfigOptions):
    """What a user asks of a build; the fields are `tools/build_repo.py`'s options."""

    model: str
    name: str | None = None
    task: str = "auto"
    precision: str | None = None
    """The preset's (fp32) if neither it nor a recipe is given; a recipe has a precision of its own."""
    recipe: str | None = None
    repository: Path = Path("model_repository")
    max_length: int = 384
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
        if self.recipe is not None:
            return parse_recipe(self.recipe)
        recipes = self.loaded_preset.recipes
        own = {precision: parse_recipe(recipe) for precision, recipe in recipes.items()}
        return {**PRECISIONS[self.device], **own}[self.served_precision]

    @property
    def served_precision(self) -> str:
        """The precision that is asked for, where no recipe says it."""
        return self.precision or self.loaded_preset.precision

    @property
    def backend(self) -> str:
        """The Triton backend of what the recipe makes."""
        return "openvino" if self.stages[-1] == "openvino" else "onnxruntime"


def check_options(options: BuildOptions) -> None:
    """Raise UsageError for the first option that cannot be right."""
    _check_recipe(options)
    _check_openvino(options)
    if options.instances is not None and options.instances < 1:
        raise UsageError(f"--instances {options.instances}: expected 1 or more")
    if options.max_length < MIN_MAX_LENGTH:
        raise UsageError(f"--max-length {options.max_length}: expected {MIN_MAX_LENGTH} tokens or more")
    for option, value, least in (
        ("--num-versions", options.num_versions, 1),
        ("--intra-op-thread-count", options.intra_op_thread_count, 0),
        ("--max-queue-delay", options.max_queue_delay_microseconds, 0),
        ("--max-batch-size", options.max_batch_size, 0),
    ):
        if value is not None and value < least:
            raise UsageError(f"{option} {value}: expected {least} or more")
    if options.repository.exists() and not options.repository.is_dir():
        raise UsageError(f"--repository {options.repository}: is a file; expected a folder")
    find_release(options.triton)
    served_lengths(options, options.max_length)
    check_config(options, options.backend)


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


def _check_openvino(options: BuildOptions) -> None:
    if options.backend == "openvino" and options.max_batch_size:
        raise UsageError(
            f"--max-batch-size {options.max_batch_size}: Triton's openvino backend pads or refuses smaller batches; "
            "leave it at 0, where a request carries any batch in its dims"
        )
