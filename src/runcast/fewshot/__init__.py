"""Few-shot text classification: fine-tune a Sentence Transformer on pairs of texts, then fit a classification head."""

from runcast.errors import missing_extra

try:
    import torch  # noqa: F401 -- first, because transformers' own error doesn't name it

    from runcast.fewshot.arguments import TrainingArguments
    from runcast.fewshot.callbacks import EmbeddingPlotCallback
    from runcast.fewshot.data import Examples
    from runcast.fewshot.distillation import DistillationTrainer
    from runcast.fewshot.model import FewShotClassifier
    from runcast.fewshot.subsets import sample_dataset
    from runcast.fewshot.templates import get_templated_dataset
    from runcast.fewshot.trainer import Trainer
except ModuleNotFoundError as error:
    if (error.name or "").startswith("runcast"):
        raise
    raise missing_extra(f"{error.name or error}, which runcast.fewshot needs,", "train") from error

__all__ = [
    "DistillationTrainer",
    "EmbeddingPlotCallback",
    "Examples",
    "FewShotClassifier",
    "Trainer",
    "TrainingArguments",
    "get_templated_dataset",
    "sample_dataset",
]
