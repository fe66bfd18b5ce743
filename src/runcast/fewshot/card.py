"""The model card: the README of a saved classifier, for people and for the Hugging Face hub.

A classifier carries its `Card`. A trainer writes down there what it did; which trackers have the run is looked up when the
card is written, since they may learn of it later. What a loaded classifier's README said stays, until it is trained again.
"""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from runcast.delivery import states
from runcast.fewshot import folder
from runcast.fewshot.data import Examples
from runcast.fewshot.hub import repo_id, saved_file
from runcast.fewshot.metrics import is_number
from runcast.frameworks.transformers import translate
from runcast.redact import redact_text

if TYPE_CHECKING:
    from runcast.fewshot.model import FewShotClassifier
    from runcast.fewshot.trainer import Trainer
    from runcast.frameworks.transformers import ReportingCallback

_NAME = "Few-shot text classifier"
_TAGS = ["runcast", "few-shot", "sentence-transformers", "text-classification"]
_EXAMPLES = 3
_LABELS = 100  # that have examples; a card of thousands would be a dataset
_CHARACTERS = 200
_ARGUMENTS = (
    *("loss", "margin", "sampling_strategy", "classes_per_batch", "examples_per_class", "num_iterations", "max_pairs"),
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "weight_decay", "optim", "max_grad_norm"),
    *("seed", "fp16", "bf16", "load_best_model_at_end", "metric_for_best_model", "head_params"),
)
_PACKAGES = ("runcast", "sentence-transformers", "transformers", "torch", "scikit-learn", "datasets", "tokenizers")
_STAYS = ("base_model", "language", "license", "license_name", "license_link", "model_name")
_SPEEDS = ("runtime", "samples_per_second", "steps_per_second")
# What starts anything in Markdown, HTML or on the hub; inside a table, so nothing that counts at a line's begin only.
_SPECIAL = str.maketrans({char: f"&#{ord(char)};" for char in "\\`*_{}[]<>&|!~$:@#^="})


@dataclass(frozen=True)
class Data:
    """What there was to train on.

    Attributes:
        size: How many texts.
        counts: By label, as text, how many texts have it.
        examples: By label, the first texts.
    """

    size: int
    counts: dict[str, int]
    examples: dict[str, list[str]]


@dataclass(frozen=True)
class Training:
    """How a classifier came about.

    Attributes:
        data: What it was trained on.
        taught: Whether the labels are those that a teacher said.
        evaluated: How many texts each evaluation dataset has, by name.
        step: How many steps were made.
        arguments: The training arguments, as JSON values.
        results: Of the evaluation that counts, by slash path.
        run: The id of the run; None if nothing was reported.
        run_dir: Its folder.
        versions: Of the packages that did it.
    """

    data: Data
    taught: bool
    evaluated: dict[str, int]
    step: int
    arguments: dict[str, Any]
    results: dict[str, float]
    run: str | None
    run_dir: Path | None
    versions: dict[str, str]


@dataclass(frozen=True)
class Card:
    """What a classifier's card is made of.

    Attributes:
        base_model: The name of the body on the hub; None if it came from elsewhere.
        text: The README that the classifier was loaded with.
        training: How it was trained since.
        metadata: More of the card's metadata, ``license`` say.
    """

    base_model: str | None = None
    text: str | None = None
    training: Training | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


# -- what a card says --------------------------------------------------------------------------------------------------


def loaded(name: str, source: str, options: Mapping[str, Any]) -> Card:
    """The card of a model that was just loaded.

    Args:
        name: What the user called it.
        source: Where it was found: a folder, or a name on the hub.
        options: Those of `SentenceTransformer`.
    """
    readme = None
    if saved_file(source, folder.CONFIG_FILE, options) is not None:
        readme = saved_file(source, "README.md", options)
    if readme is None:
        return Card(base_model=None if Path(name).is_dir() else repo_id(name))
    text = readme.read_text("utf-8", errors="replace")
    kept = _kept(text)
    return Card(kept.pop("base_model", None), text, metadata=kept)


def training_of(trainer: Trainer, reporting: ReportingCallback | None) -> Training:
    """What a trainer did to its classifier so far, and the callback that reported it."""
    model, args, state = trainer.model, trainer.args, trainer.state
    train, evaluation = trainer.train_dataset, trainer.eval_dataset
    parts = evaluation if isinstance(evaluation, dict) else {"eval": evaluation} if evaluation is not None else {}
    run = None if reporting is None else reporting.run
    best = state.best_global_step if args.load_best_model_at_end else None
    arguments = args.to_dict()
    if args.sampling_strategy != "batch":
        del arguments["classes_per_batch"], arguments["examples_per_class"]
    return Training(
        data=data_of(model, cast("Examples", train)),
        taught=hasattr(trainer, "teacher_model"),
        evaluated={name: len(cast("Examples", part)) for name, part in parts.items()},
        step=state.global_step,
        arguments={name: arguments[name] for name in _ARGUMENTS if _is_set(arguments.get(name))},
        results=results(state.log_history, best),
        run=None if run is None or run.dir is None else run.id,
        run_dir=None if run is None else run.dir,
        versions=versions(),
    )


def data_of(model: FewShotClassifier, examples: Examples) -> Data:
    """What a card says of training data."""
    classes = model.class_indices(examples.required_labels(), examples.name)
    labels = [str(label) for label in model.labels or ()]
    counts = dict.fromkeys(labels, 0)
    some: dict[str, list[str]] = {label: [] for label in labels}
    for text, found in zip(examples.texts, classes, strict=True):
        for place in [found] if classes.ndim == 1 else np.flatnonzero(found):
            label = labels[place]
            counts[label] += 1
            if len(some[label]) < _EXAMPLES:
                some[label].append(text)
    return Data(len(examples), counts, some)


def results(history: Sequence[Mapping[str, Any]], best_step: int | None) -> dict[str, float]:
    """The figures of the evaluation that counts, by slash path: the last after training; else the best; else the last.

    Args:
        history: What the trainer logged, `TrainerState.log_history`.
        best_step: The step of the model that was loaded in the end; None: it is the last.
    """
    ended = max((place for place, entry in enumerate(history) if "train_runtime" in entry), default=None)
    evaluations = [(place, entry["step"], _figures(entry)) for place, entry in enumerate(history) if _figures(entry)]
    after = [figures for place, _, figures in evaluations if ended is not None and place > ended]
    if not after:
        steps = [step for _, step, _ in evaluations]
        wanted = best_step if ended is not None and best_step in steps else max(steps, default=None)
        after = [figures for _, step, figures in evaluations if step == wanted]
    return {name: value for figures in after for name, value in figures.items()}


def versions() -> dict[str, str]:
    """The versions of what trains."""
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


# -- how it says it ----------------------------------------------------------------------------------------------------


def render(model: FewShotClassifier) -> str:
    """The README: metadata for the hub, then Markdown."""
    card = model.card
    if card.training is None and card.text is not None and model.head.is_fitted:
        return card.text
    data = ModelCardData(
        **{
            "library_name": "sentence-transformers",
            "pipeline_tag": "text-classification",
            "base_model": card.base_model,
            "model_name": _NAME,
            **_evaluated(card.training),
            **card.metadata,
            "tags": list(dict.fromkeys([*_TAGS, *_as_list(card.metadata.get("tags"))])),
        }
    )
    sections = [f"# {escape(str(data.model_name))}", _INTRODUCTION, *_description(model)]
    if card.training is not None:
        sections += _trained(card.training)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"))


_INTRODUCTION = """\
A Sentence Transformer that was fine-tuned on pairs of texts, and a classification head on its embeddings.

```python
from runcast.fewshot import FewShotClassifier

model = FewShotClassifier.from_pretrained("<this repository or folder>")
model.predict(["a text"])
```"""


def escape(text: str) -> str:
    """A text as it is, in a line of Markdown: no character in it means anything there. Long ones are cut."""
    line = "".join(char for char in re.sub(r"\s+", " ", text).strip() if char.isprintable())
    short = line if len(line) <= _CHARACTERS else line[: _CHARACTERS - 1].rstrip() + "…"
    return short.translate(_SPECIAL)


def _description(model: FewShotClassifier) -> list[str]:
    body, head = model.body, model.head
    dimensions = body.get_embedding_dimension()
    rows = {
        "Body": "" if model.card.base_model is None else escape(model.card.base_model),
        "Embeddings": f"{dimensions} dimensions" if dimensions else "",
        "Longest text": f"{body.max_seq_length} tokens" if body.max_seq_length else "",
        "Head": f"{head.kind}, {'several labels a text' if head.multi_label else 'one label a text'}",
    }
    facts = "\n".join(f"- {name}: {value}" for name, value in rows.items() if value)
    if model.labels is None or not head.is_fitted:
        return ["## Model", facts, "The head is not fitted yet."]
    return ["## Model", facts, "Labels: " + ", ".join(escape(str(label)) for label in model.labels)]


def _trained(training: Training) -> list[str]:
    data = training.data
    rows = [
        (label, str(count), "<br>".join(map(escape, data.examples.get(label, ()))))
        for label, count in list(data.counts.items())[:_LABELS]
    ]
    rest = len(data.counts) - len(rows)
    sizes = [f"{data.size} training texts" + (", labelled by a teacher" if training.taught else "")]
    for name, size in training.evaluated.items():
        sizes.append(f"{size} evaluation texts" + ("" if name == "eval" else f" in {escape(name)}"))
    sections = [
        "## Data",
        ", ".join(sizes) + ".",
        _table(("label", "texts", "examples"), [(escape(label), *others) for label, *others in rows]),
        *([f"And {rest} more labels."] if rest else []),
    ]
    if training.results:
        figures = [(escape(name), f"{value:.4g}") for name, value in training.results.items()]
        sections += ["## Results", _table(("figure", "value"), figures)]
    arguments = "\n".join(f"- {name}: {escape(_json(value))}" for name, value in training.arguments.items())
    sections += ["## Training", f"{training.step} steps, with", arguments, *_where(training)]
    packages = "\n".join(f"- {name} {number}" for name, number in training.versions.items())
    return [*sections, "## Versions", packages]


def _where(training: Training) -> list[str]:
    """Which trackers have the run, and where: an address on the net, or an id; no local path or command."""
    if training.run is None:
        return []
    rows = []
    for state in states(training.run_dir) if training.run_dir is not None and training.run_dir.is_dir() else []:
        if state.native is None or state.name == "console":
            continue
        url = re.sub(r"[<>|\s]", "", redact_text(state.native.url or ""))
        if url.startswith(("https://", "http://")):
            where = f"<{url}>"
        else:
            is_path = "/" in state.native.id or "\\" in state.native.id
            where = f"run {escape(training.run if is_path else state.native.id)}"
        rows.append((escape(state.name), where))
    table = [_table(("tracker", "run"), rows)] if rows else []
    return ["## Run", f"The training is run {escape(training.run)}.", *table]


def _evaluated(training: Training | None) -> dict[str, Any]:
    """The results as the hub wants them."""
    figures = []
    for name, value in training.results.items() if training is not None else ():
        data, metric = name.rsplit("/", 1)
        if math.isfinite(value) and not metric.endswith("loss"):
            figures.append((data, metric, value))
    return {
        "metrics": sorted({metric for _, metric, _ in figures}) or None,
        "eval_results": [
            EvalResult(
                task_type="text-classification",
                dataset_type="unknown",
                dataset_name=data,
                metric_type=metric,
                metric_value=value,
            )
            for data, metric, value in figures
        ]
        or None,
    }


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _figures(entry: Mapping[str, Any]) -> dict[str, float]:
    values, _ = translate(entry)
    return {
        name: float(value)
        for name, value in values.items()
        if not name.startswith("train/") and not name.endswith(_SPEEDS) and is_number(value)
    }


def _is_set(value: Any) -> bool:
    return value is not None and value is not False and value != -1  # as in max_steps


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _kept(text: str) -> dict[str, Any]:
    """Of a README's metadata, what stays true when the classifier is trained on."""
    try:
        data = ModelCard(text, ignore_metadata_errors=True).data
    except Exception:  # whatever YAML has to say of what people wrote
        return {}
    return {name: data.get(name) for name in _STAYS if data.get(name) is not None}
