"""Tiny randomly initialised checkpoints by architecture, with a tokenizer for the packaged texts."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tritonsmith.inputs import passages
from tritonsmith.tasks import Task

MAX_LENGTH = 64
ARCHITECTURES = {
    "bert": Task.QUESTION_ANSWERING,
    "distilbert": Task.TEXT_CLASSIFICATION,
    "roberta": Task.TOKEN_CLASSIFICATION,
    "mpnet": Task.FEATURE_EXTRACTION,
    "deberta-v2": Task.FILL_MASK,
}
_CLASSES = {
    "bert": ("BertConfig", "BertForQuestionAnswering"),
    "distilbert": ("DistilBertConfig", "DistilBertForSequenceClassification"),
    "roberta": ("RobertaConfig", "RobertaForTokenClassification"),
    "mpnet": ("MPNetConfig", "MPNetModel"),
    "deberta-v2": ("DebertaV2Config", "DebertaV2ForMaskedLM"),
}
_COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_LENGTH,
}
_OWN: dict[str, dict[str, Any]] = {
    "bert": _COMMON,
    "distilbert": {"dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 64, "max_position_embeddings": MAX_LENGTH},
    # These embed positions from padding_idx + 1 = 1 on here, because the pad token is 0.
    "roberta": _COMMON | {"type_vocab_size": 1, "max_position_embeddings": MAX_LENGTH + 1, "num_labels": 5},
    "mpnet": _COMMON | {"max_position_embeddings": MAX_LENGTH + 2},
    "deberta-v2": _COMMON
    | {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "type_vocab_size": 0,
        "position_buckets": 16,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    },
}


def make(folder: Path, architecture: str, seed: int = 0) -> Path:
    """Write a checkpoint of `architecture` to `folder`, the same in every run; its answers differ clearly from text to text."""
    import torch
    import transformers

    tokenizer = make_tokenizer()
    config_name, model_name = _CLASSES[architecture]
    config = getattr(transformers, config_name)(
        vocab_size=len(tokenizer), initializer_range=0.2, pad_token_id=0, **_OWN[architecture]
    )
    torch.manual_seed(seed)
    getattr(transformers, model_name)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer(vocab_size: int = 500) -> Any:
    """Return a fast WordPiece tokenizer as BERT's, its vocabulary the characters and commonest words of the packaged texts.

    The library's trainer breaks ties at random; a test's model must be the same in every run.
    """
    import transformers

    texts = [normalizers.BertNormalizer().normalize_str(passage["text"]) for passage in passages()]
    splitter = pre_tokenizers.BertPreTokenizer()
    words = collections.Counter(word for text in texts for word, _span in splitter.pre_tokenize_str(text))
    characters = sorted({character for word in words for character in word})
    common = sorted((word for word in words if len(word) > 1), key=lambda word: (-words[word], word))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    entries = [*special, *characters, *(f"##{character}" for character in characters), *common][:vocab_size]
    tokenizer = Tokenizer(models.WordPiece({entry: number for number, entry in enumerate(entries)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=MAX_LENGTH,
    )
