"""merge: a peft adapter and its base model to one plain checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.errors import CheckpointError
from tritonsmith.tasks import Task

# peft's TaskType names.
_PEFT_TASKS = {
    "QUESTION_ANS": Task.QUESTION_ANSWERING,
    "SEQ_CLS": Task.TEXT_CLASSIFICATION,
    "TOKEN_CLS": Task.TOKEN_CLASSIFICATION,
    "FEATURE_EXTRACTION": Task.FEATURE_EXTRACTION,
}


def run(inputs: Mapping[str, Path], output: Path, _options: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `inputs["adapter"]` into `inputs["base"]`; the result needs no peft, whose wrapper drops token_type_ids.

    Raises:
        CheckpointError: the adapter's task is not one of ours, or it does not fit its base.
    """
    import transformers
    from peft import PeftModel

    adapter, base = inputs["adapter"], inputs["base"]
    task_type = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get("task_type")
    if task_type not in _PEFT_TASKS:
        raise CheckpointError(
            f"{adapter / 'adapter_config.json'}: task_type {task_type} is not one of {', '.join(_PEFT_TASKS)}"
        )
    auto_class = getattr(transformers, _PEFT_TASKS[task_type].auto_class)
    try:
        model = auto_class.from_pretrained(base, use_safetensors=True)
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{adapter}: does not fit its base {base.name}: {str(error).splitlines()[0]}") from error
    merged.save_pretrained(output)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(output)
    return {"task": _PEFT_TASKS[task_type]}
