"""Few-shot text classification: fine-tune a Sentence Transformer on pairs of texts, then fit a classification head."""

try:
    from runcast.fewshot.arguments import TrainingArguments
    from runcast.fewshot.callbacks import EmbeddingPlotCallback
    from runcast.fewshot.data import Examples
    from runcast.fewshot.model import FewShotClassifier
    from runcast.fewshot.trainer import Trainer
except ModuleNotFoundError as error:
    if (error.name or "").startswith("runcast"):
        raise
    raise ImportError(
        f'runcast.fewshot needs {error.name}, which is not installed: pip install "runcast[train]"', name=error.name
    ) from error

__all__ = ["EmbeddingPlotCallback", "Examples", "FewShotClassifier", "Trainer", "TrainingArguments"]
