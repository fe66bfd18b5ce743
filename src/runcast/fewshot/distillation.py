"""Distillation: a small student learns from a teacher what it makes of texts that nobody labelled.

The teacher embeds each training text once, and says its label. In the contrastive phase the similarity of two texts shall
become for the student what it is for the teacher; then the student's head is fitted on the teacher's labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from runcast.fewshot.arguments import TrainingArguments
from runcast.fewshot.data import Examples, examples
from runcast.fewshot.losses import Loss, Pairs, loss_name
from runcast.fewshot.metrics import Metric
from runcast.fewshot.model import FewShotClassifier
from runcast.fewshot.reporting import Callback
from runcast.fewshot.trainer import Trainer


class DistillationTrainer(Trainer):
    """Trains a student to agree with a teacher; only texts are needed.

    The teacher stays as it is. It embeds and labels the training texts once, when the trainer is made; labels that these may
    have don't count. An epoch has batches of texts, with all pairs in each; with another `sampling_strategy` than ``batch`` it has
    every pair of texts once, or, if `args.num_iterations` is set, so many pairs a text. ``train_accuracy`` is how often the
    student says what the teacher says; ``eval_loss`` is as in `Trainer`, by the labels of the evaluation data.

    Example:
        ```python
        trainer = DistillationTrainer(teacher, FewShotClassifier.from_pretrained(small), train_dataset=texts)
        trainer.train()
        ```

    Args:
        teacher_model: A trained classifier.
        student_model: The classifier to train; either this or `model_init`.
        args: The options; by default `TrainingArguments()`. The loss is ``cosine``.
        train_dataset: Texts; a list of them, or any dataset with a column ``text``.
        eval_dataset: Labelled texts, or several datasets by name.
        model_init: Makes the student, as in `Trainer`.
        metric: As in `Trainer`; likewise the other arguments.

    Raises:
        TypeError: The teacher or the student is no `FewShotClassifier`; or as in `Trainer`.
        ValueError: The teacher isn't trained, or says the same of all texts; another loss than ``cosine``; or as in `Trainer`.
    """

    def __init__(
        self,
        teacher_model: FewShotClassifier,
        student_model: FewShotClassifier | None = None,
        args: TrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        model_init: Callable[..., FewShotClassifier] | None = None,
        metric: Metric = "accuracy",
        metric_kwargs: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] | None = None,
        column_mapping: Mapping[str, str] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        if not isinstance(teacher_model, FewShotClassifier):
            raise TypeError(f"teacher_model is a {type(teacher_model).__name__}; expected a FewShotClassifier")
        if not teacher_model.head.is_fitted:
            raise ValueError("the teacher isn't trained: train it, or load a trained one")
        args = args if args is not None else TrainingArguments()
        if isinstance(args, TrainingArguments):
            if args.loss not in (None, "cosine"):
                raise ValueError(
                    f"loss is {loss_name(args.loss)!r}; distillation compares similarities, so it needs 'cosine'"
                )
            args = copy.copy(args)  # the user's own stay as they are
            args.loss = "cosine"
        self.teacher_model = teacher_model
        labelled = None
        if train_dataset is not None:
            data = examples(train_dataset, "train_dataset", column_mapping, need_labels=False)
            show = not (isinstance(args, TrainingArguments) and args.disable_tqdm) and len(data) > 1000
            embeddings = teacher_model.encode(data.texts, show_progress_bar=show)
            self._taught = functional.normalize(torch.as_tensor(np.asarray(embeddings), dtype=torch.float32))
            labelled = _labelled(teacher_model, data, embeddings)
        super().__init__(
            student_model,
            args,
            labelled,
            eval_dataset,
            model_init,
            metric,
            metric_kwargs,
            callbacks,
            column_mapping,
            optimizers,
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of pairs, or of texts; in place of their labels come the teacher's embeddings of them."""
        self._loss = _TeacherLoss(self.args.chosen_loss)
        alike = np.zeros(len(self._train_examples()), dtype=np.int64)
        strategy = "batch" if self.args.sampling_strategy == "batch" else "unique"
        return self._train_dataloader(alike, self._taught, strategy)

    def _bind_labels(self, model: Any) -> None:
        if isinstance(model, FewShotClassifier) and model.labels is None:
            # Also those that the teacher says of none of these texts.
            model.labels = list(self.teacher_model.labels or ())
        super()._bind_labels(model)


class _TeacherLoss(Loss):
    """The squared difference of the student's cosine similarity and the teacher's."""

    def __call__(self, embeddings: Tensor, labels: Tensor, pairs: Pairs | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            embeddings: The student's, shape (n, d).
            labels: The teacher's, of length 1, shape (n, D).
            pairs: Which rows to compare; by default each with each. Their targets don't count.
        """
        unit = functional.normalize(embeddings.float())
        if pairs is None:
            left, right = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
        else:
            left, right = pairs.left, pairs.right
        student, teacher = ((rows[left] * rows[right]).sum(dim=1) for rows in (unit, labels))
        return self.of_similarity(student, teacher).mean()


def _labelled(teacher: FewShotClassifier, data: Examples, embeddings: Any) -> Examples:
    """The texts, with what the teacher says of them."""
    labels = teacher.names(teacher.head.predict(embeddings))
    found = Examples(data.texts, labels, data.name)
    if len(set(found.required_labels())) < 2:
        raise ValueError(
            f"the teacher says {found.required_labels()[0]!r} of all texts in {data.name}; a student can learn nothing from "
            "that: add other texts"
        )
    return found
