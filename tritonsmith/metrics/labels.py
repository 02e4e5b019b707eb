"""Classes of texts and tags of words: accuracy and F1, and F1 of entities as CoNLL counts them (seqeval)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Encoding

from tritonsmith.datasets import LabelledText, TaggedWords
from tritonsmith.errors import UsageError
from tritonsmith.metrics.model import Model

_STRIDE_SHARE = 4
"""A quarter of a window is read again in the next one, so that every word is tagged with some context."""


def score_texts(model: Model, examples: Sequence[LabelledText]) -> dict[str, float]:
    """Return `accuracy` and `f1` (macro average over the classes) in percent; texts are cut to the model's length."""
    from sklearn.metrics import accuracy_score, f1_score

    golds = [label_id(example.label, model.labels) for example in examples]
    predicted = []
    for example in model.track(examples):
        encoding = model.cut(*example.texts)
        predicted.append(int(model.answer(encoding)["logits"][0].argmax()))
    return {
        "accuracy": 100 * float(accuracy_score(golds, predicted)),
        "f1": 100 * float(f1_score(golds, predicted, average="macro", zero_division=0)),
    }


def score_words(model: Model, examples: Sequence[TaggedWords]) -> dict[str, float]:
    """Return entity `f1`, `precision`, `recall` (seqeval) and `accuracy` of single tags, in percent; IOB2 tags."""
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

    golds = [[model.labels[label_id(tag, model.labels)] for tag in example.tags] for example in examples]
    predicted = [[model.labels[tag] for tag in _tags(model, example)] for example in model.track(examples)]
    figures = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
    return {name: 100 * float(figure(golds, predicted, zero_division=0)) for name, figure in figures.items()} | {
        "accuracy": 100 * float(accuracy_score(golds, predicted))
    }


def _tags(model: Model, example: TaggedWords) -> list[int]:
    """Return the tag of each word: its first token's, in the first window that has it."""
    text, _ = example.texts
    word_of = [index for index, word in enumerate(example.words) for _character in range(len(word) + 1)]
    tags: dict[int, int] = {}
    for window in model.windows(text, model.max_length // _STRIDE_SHARE):
        logits = model.answer(window)["logits"][0]
        for position, word in _first_tokens(window, word_of):
            tags.setdefault(word, int(logits[position].argmax()))
    # A word of characters that the tokenizer drops has no token; it is no entity.
    outside = label_id("O", model.labels) if "O" in model.labels.values() else 0
    return [tags.get(index, outside) for index in range(len(example.words))]


def _first_tokens(window: Encoding, word_of: Sequence[int]) -> list[tuple[int, int]]:
    """Return position and word of the tokens that begin a word within the window."""
    found, previous = [], -1
    for position, (special, (start, end)) in enumerate(zip(window.special_tokens_mask, window.offsets, strict=True)):
        if special or end <= start:
            continue
        # Some tokenizers count the space before a word to it, so its last character tells.
        word = word_of[end - 1]
        if word != previous:
            found.append((position, word))
        previous = word
    return found


def label_id(label: str | int, labels: Mapping[int, str]) -> int:
    """Return the number of a label given by name or number.

    Raises:
        UsageError: the model has no such label.
    """
    if isinstance(label, int) and label in labels:
        return label
    for number, name in labels.items():
        if name == label:
            return number
    known = ", ".join(list(labels.values())[:6])
    raise UsageError(f"--dataset: label {label!r} is none of the model's: {known}{' ...' if len(labels) > 6 else ''}")
