"""Makes the heads in this folder with SetFit 1.2 itself: `pip install setfit==1.2.0`, then `python make.py BODY_FOLDER`.

BODY_FOLDER holds the tiny Sentence Transformer of the tests' fixture `body_dir`. Each head is trained by SetFit on top of it,
and saved by SetFit; beside the files is what SetFit predicts for some embeddings.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from setfit import SetFitModel

HERE = Path(__file__).parent
TEXTS = [
    "invoice charge refund",
    "money payment card",
    "parcel late courier",
    "address door",
    "password login",
    "email locked",
]
UNSEEN = ["refund payment", "courier tracking package", "profile user", "my invoice is late", "login charge", "door"]
WORDS = ["billing", "billing", "delivery", "delivery", "account", "account"]
NUMBERS = [2, 2, 1, 1, 0, 0]
ROWS = [[1, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1]]
KINDS = {
    "words": (WORDS, {}, {}),
    "numbers": (NUMBERS, {"labels": ["account", "delivery", "billing"]}, {}),
    "two_classes": ([0, 0, 1, 1, 1, 1], {}, {}),
    "normalized": (WORDS, {"normalize_embeddings": True}, {}),
    "one_vs_rest": (ROWS, {"multi_target_strategy": "one-vs-rest"}, {}),
    "multi_output": (ROWS, {"multi_target_strategy": "multi-output"}, {}),
    "classifier_chain": (ROWS, {"multi_target_strategy": "classifier-chain"}, {}),
    "torch": (
        NUMBERS,
        {"use_differentiable_head": True, "head_params": {"out_features": 3, "temperature": 0.5}},
        {"num_epochs": 20},
    ),
    "torch_rows": (
        ROWS,
        {"use_differentiable_head": True, "multi_target_strategy": "one-vs-rest", "head_params": {"out_features": 3}},
        {"num_epochs": 20},
    ),
}


def main(body: str) -> None:
    """Writes a folder a kind of head."""
    for name, (labels, options, training) in KINDS.items():
        torch.manual_seed(0)
        np.random.seed(0)
        model = SetFitModel.from_pretrained(body, device="cpu", **options)
        model.fit(TEXTS, labels, **{"num_epochs": 1, "batch_size": 2, "head_learning_rate": 0.1, **training})
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            loaded = SetFitModel.from_pretrained(folder, device="cpu")
            probabilities = np.asarray(loaded.predict_proba(UNSEEN, as_numpy=True), dtype=float)
            predicted = loaded.predict(UNSEEN, as_numpy=True)
            target = HERE / name
            target.mkdir(exist_ok=True)
            for file in ("config_setfit.json", "model_head.pkl"):
                shutil.copy(Path(folder) / file, target / file)
        expected = {
            "embeddings": np.asarray(loaded.encode(UNSEEN), dtype=float).tolist(),
            "predictions": predicted if isinstance(predicted, list) else np.asarray(predicted).tolist(),
            "probabilities": probabilities.tolist(),
        }
        (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
