"""The HTTP service around an engine, as one would write it with FastAPI: text in and answer out, tensors in and tensors out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from tritonsmith.baselines.engines import Served
from tritonsmith.inputs import Feed
from tritonsmith.metrics.embeddings import embed
from tritonsmith.metrics.extractive import QuestionAnswerer
from tritonsmith.tasks import Task

MAX_BODY_BYTES = 2**20
_MAX_CHARACTERS = 200_000
_MAX_QUESTION = 2_000
_MAX_BATCH = 64

Text = Annotated[str, Field(min_length=1, max_length=_MAX_CHARACTERS)]
Rows = Annotated[list[Annotated[list[int], Field(min_length=1)]], Field(min_length=1, max_length=_MAX_BATCH)]


class QuestionRequest(BaseModel):
    """A question about a context."""

    question: Annotated[str, Field(min_length=1, max_length=_MAX_QUESTION)]
    context: Text


class SpanAnswer(BaseModel):
    """`context[start:end] == answer`; empty where no span was found."""

    answer: str
    start: int
    end: int
    score: float


class TextRequest(BaseModel):
    """A text."""

    text: Text


class Classes(BaseModel):
    """The probability of each class, the likeliest first."""

    labels: list[str]
    scores: list[float]


class Tags(BaseModel):
    """The tag of each token, with its characters in the text."""

    tags: list[tuple[str, int, int]]


class Embedding(BaseModel):
    """The mean of the tokens' vectors."""

    embedding: list[float]


class TensorRequest(BaseModel):
    """Token ids [batch, sequence]; without masks every token counts."""

    input_ids: Rows
    attention_mask: Rows | None = None
    token_type_ids: Rows | None = None


class TensorAnswer(BaseModel):
    """The model's outputs by name."""

    outputs: dict[str, Any]


class Health(BaseModel):
    """What answers here."""

    engine: str
    source: str
    task: str


def create_app(served: Served) -> FastAPI:
    """Return the service; `/docs` shows its interface, `/health` runs a real inference."""
    app = FastAPI(title=f"tritonsmith baseline: {served.engine}", description=f"{served.task} by {served.source}")
    app.add_middleware(BodyLimit)
    _add_text_endpoint(app, served)

    @app.post("/infer")
    def infer(request: TensorRequest) -> TensorAnswer:
        outputs = _run(served, _feed(served, request))
        return TensorAnswer(outputs={name: array.tolist() for name, array in outputs.items()})

    @app.get("/health")
    def health() -> Health:
        _run(served, _feed(served, TensorRequest(input_ids=[[1] * 8])))
        return Health(engine=served.engine, source=served.source, task=served.task)

    return app


def _add_text_endpoint(app: FastAPI, served: Served) -> None:
    """Add `/predict` in the form of the model's task; fill-mask has tensors only."""
    model = served.model
    if served.task is Task.QUESTION_ANSWERING:
        answerer = QuestionAnswerer(model)

        @app.post("/predict")
        def answer(request: QuestionRequest) -> SpanAnswer:
            found = answerer.answer(request.question, request.context)
            score = found.score if found.text else 0.0
            return SpanAnswer(answer=found.text, start=found.start, end=found.end, score=score)

    elif served.task is Task.TEXT_CLASSIFICATION:

        @app.post("/predict")
        def classify(request: TextRequest) -> Classes:
            logits = model.answer(model.cut(request.text))["logits"][0].astype(np.float64)
            scores = np.exp(logits - logits.max())
            scores /= scores.sum()
            order = np.argsort(-scores)
            return Classes(labels=[model.labels[int(n)] for n in order], scores=scores[order].tolist())

    elif served.task is Task.TOKEN_CLASSIFICATION:

        @app.post("/predict")
        def tag(request: TextRequest) -> Tags:
            encoding = model.cut(request.text)
            best = model.answer(encoding)["logits"][0].argmax(axis=-1)
            triples = zip(best, encoding.offsets, encoding.special_tokens_mask, strict=True)
            return Tags(tags=[(model.labels[int(n)], start, end) for n, (start, end), special in triples if not special])

    elif served.task is Task.FEATURE_EXTRACTION:

        @app.post("/predict")
        def vector(request: TextRequest) -> Embedding:
            return Embedding(embedding=embed(model, request.text).tolist())


def _feed(served: Served, request: TensorRequest) -> Feed:
    """Return the request as the engine's inputs.

    Raises:
        HTTPException: 422, rows of unequal length, or longer than the model takes.
    """
    length = len(request.input_ids[0])
    if length > served.model.max_length:
        raise HTTPException(422, f"input_ids: {length} tokens, the model takes at most {served.model.max_length}")
    rows = {
        "input_ids": request.input_ids,
        "attention_mask": request.attention_mask or [[1] * length] * len(request.input_ids),
        "token_type_ids": request.token_type_ids or [[0] * length] * len(request.input_ids),
    }
    for name, given in rows.items():
        if len(given) != len(request.input_ids) or any(len(row) != length for row in given):
            raise HTTPException(422, f"{name}: expected {len(request.input_ids)} rows of {length} numbers")
    return {name: np.array(rows[name], dtype=np.int64) for name in served.model.input_names}


def _run(served: Served, feed: Feed) -> Feed:
    """Run the engine; ids that the model does not have are the client's fault."""
    ids = feed["input_ids"]
    if ids.min() < 0 or ids.max() >= served.vocabulary:
        message = f"input_ids: found {int(ids.min())} to {int(ids.max())}, expected 0 to {served.vocabulary - 1}"
        raise HTTPException(422, message)
    return served.model.predict(feed)


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class BodyLimit:
    """Refuse bodies over MAX_BODY_BYTES with 413, by what is said of their length and by what really comes."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its body read first."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            chunks.append(message.get("body", b""))
            size, more = size + len(chunks[-1]), message.get("more_body", False)
            if size > MAX_BODY_BYTES:
                detail = {"detail": f"body: over {MAX_BODY_BYTES} bytes"}
                await JSONResponse(detail, 413, headers={"connection": "close"})(scope, receive, send)
                return
        waiting = [{"type": "http.request", "body": b"".join(chunks), "more_body": False}]

        async def replay() -> MutableMapping[str, Any]:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, replay, send)
