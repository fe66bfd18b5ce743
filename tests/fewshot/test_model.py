"""The classifier embeds, predicts, and survives being saved."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from runcast.fewshot import Examples, FewShotClassifier, Trainer
from runcast.fewshot import hub
from runcast.fewshot.heads import LogisticHead, TorchHead

TEXTS = ["my invoice charge refund", "the parcel late courier", "a password login reset"] * 3
LABELS = ["billing", "delivery", "account"] * 3


def test_encode_has_a_row_for_each_text(model):
    """Several texts give a matrix, one text a vector; both are numpy's."""
    assert model.encode(TEXTS).shape == (9, 16)
    assert model.encode(TEXTS[0]).shape == (16,)
    assert np.allclose(model.encode(TEXTS)[0], model.encode(TEXTS[0]), atol=1e-6)


def test_forward_gives_what_encode_gives(model):
    """Training and inference see the same embeddings."""
    model.eval()
    with torch.no_grad():
        embeddings = model(**model.tokenize(TEXTS)).numpy()
    assert np.allclose(embeddings, model.encode(TEXTS), atol=1e-6)


def test_the_default_prompt_counts_in_training_too(body_dir):
    """A body with a default prompt sees it in `tokenize` as in `encode`."""
    model = FewShotClassifier.from_pretrained(
        body_dir, prompts={"p": "invoice "}, default_prompt_name="p", device="cpu"
    )
    model.eval()
    with torch.no_grad():
        embeddings = model(**model.tokenize(TEXTS)).numpy()
    assert np.allclose(embeddings, model.encode(TEXTS), atol=1e-6)


@pytest.fixture
def instructed(body_dir):
    """A classifier whose body leaves its default prompt out of the pooling, as those of INSTRUCTOR do."""
    prompts = {"p": "invoice parcel login "}
    model = FewShotClassifier.from_pretrained(body_dir, prompts=prompts, default_prompt_name="p", device="cpu")
    model.body.set_pooling_include_prompt(include_prompt=False)
    return model.eval()


def test_a_prompt_that_is_not_pooled_is_not_pooled_in_training_either(instructed, make_args, train_data):
    """`forward`, and what the trainer predicts and fits the head on, are the embeddings of `encode`."""
    with torch.no_grad():
        embeddings = instructed(**instructed.tokenize(TEXTS)).numpy()
    assert np.allclose(embeddings, instructed.encode(TEXTS), atol=1e-6)
    instructed.body.set_pooling_include_prompt(include_prompt=True)
    assert not np.allclose(embeddings, instructed.encode(TEXTS), atol=1e-2)
    instructed.body.set_pooling_include_prompt(include_prompt=False)
    trainer = Trainer(instructed, make_args(max_steps=2, sampling_strategy="unique"), train_data)
    trainer.train()
    trainer.evaluation_loop(trainer.get_test_dataloader(Examples(TEXTS)), "Prediction")
    seen = trainer._embeddings.recall(instructed, TEXTS)
    assert np.allclose(seen, instructed.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("labels", [LABELS, [0, 1, 2] * 3, [True, False, True] * 3])
def test_predictions_are_labels_of_the_training_data(model, labels):
    """Whatever the labels are, predictions are such labels, and probabilities add up to one."""
    model.fit_head(TEXTS, labels)
    assert model.predict(TEXTS).tolist() == labels
    assert model.predict(TEXTS[0]) == labels[0]
    assert model.predict_proba(TEXTS).shape == (9, len(set(labels)))
    assert np.allclose(model.predict_proba(TEXTS).sum(axis=1), 1)


@pytest.mark.parametrize("head", ["logistic", "torch"])
def test_a_saved_classifier_predicts_the_same(model, body_dir, head, tmp_path):
    """Body, head and labels come back from a folder without any pickle in it."""
    model = FewShotClassifier(SentenceTransformer(str(body_dir), device="cpu"), head)
    model.fit_head(TEXTS, LABELS)
    model.save_pretrained(tmp_path / "saved")
    loaded = FewShotClassifier.from_pretrained(tmp_path / "saved", device="cpu")
    assert loaded.labels == ["account", "billing", "delivery"]
    assert loaded.head.kind == head
    assert (loaded.predict_proba(TEXTS) == model.predict_proba(TEXTS)).all()
    suffixes = {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".bin", ".pt", ".joblib"}


def test_a_saved_classifier_is_a_sentence_transformer_too(model, tmp_path):
    """Plain sentence-transformers loads the folder, as the body."""
    model.save_pretrained(tmp_path / "saved")
    body = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.allclose(body.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


# What a text is about, and its last word, say which labels it has: an untrained body's embeddings are little more than sums of
# words, so nothing else can be told apart.
SEVERAL = [f"{text} {word}" for text in TEXTS[:3] for word in ("now", "late", "reset", "my")]
ROWS = [[int(about == 0), int(word == 1), int(about == 1)] for about in range(3) for word in range(4)]
NAMES = [[name for name, yes in zip(("late", "billing", "account"), row, strict=True) if yes] for row in ROWS]


SETS = [set(names) for names in NAMES]


@pytest.mark.parametrize("labels", [NAMES, SETS, ROWS, np.array(ROWS), torch.tensor(ROWS)])
@pytest.mark.parametrize("strategy", [None, "classifier-chain"])
def test_several_labels_come_back_in_the_form_in_which_they_were_given(body_dir, labels, strategy, tmp_path):
    """Lists of names give lists of names, rows give rows; also for one text, and after being saved."""
    model = FewShotClassifier.from_pretrained(body_dir, multi_target_strategy=strategy, device="cpu")
    model.fit_head(SEVERAL, labels, C=1e6)
    names = any(labels is given for given in (NAMES, SETS))
    assert model.labels == (["account", "billing", "late"] if names else [0, 1, 2])
    predicted = model.predict(SEVERAL)
    if names:
        assert [sorted(found) for found in predicted] == [sorted(given) for given in labels]
        assert model.predict(SEVERAL[1]) == predicted[1]
    else:
        assert predicted.tolist() == np.asarray(labels).tolist()
        assert model.predict(SEVERAL[1]).tolist() == predicted[1].tolist()
    assert model.predict_proba(SEVERAL).shape == (12, len(model.labels))
    model.save_pretrained(tmp_path)
    loaded = FewShotClassifier.from_pretrained(tmp_path, device="cpu")
    assert loaded.predict(SEVERAL).tolist() == predicted.tolist()
    assert loaded.head.multi_target_strategy == strategy


def test_rows_can_have_names(body_dir):
    """With labels given, a row has a place for each of them; predictions are rows still."""
    model = FewShotClassifier.from_pretrained(body_dir, labels=["bill", "parcel", "late"], device="cpu")
    model.fit_head(SEVERAL, ROWS)
    assert model.labels == ["bill", "parcel", "late"]
    assert model.predict(SEVERAL[:2]).shape == (2, 3)
    with pytest.raises(ValueError, match="rows of 2 labels; the classifier knows 3"):
        model.class_indices([[0, 1]])


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        (LABELS, [["billing"]] * 9, "a list of names a text; the classifier was trained on one label a text"),
        (
            [["a"], ["b"], []] * 3,
            ["a", "b", "b"] * 3,
            "one label a text; the classifier was trained on a list of names",
        ),
    ],
)
def test_one_label_and_several_do_not_mix(model, first, then, message):
    """A classifier for one label a text takes no lists, and the other way round."""
    model.fit_head(TEXTS, first)
    with pytest.raises(ValueError, match=message):
        model.class_indices(then)
    with pytest.raises(ValueError, match=message):
        model.fit_head(TEXTS, then)


def test_a_strategy_needs_several_labels(body_dir):
    """Asking for a strategy and giving one label a text is an error before anything is fitted."""
    model = FewShotClassifier.from_pretrained(body_dir, multi_target_strategy="one-vs-rest", device="cpu")
    with pytest.raises(ValueError, match="multi_target_strategy is 'one-vs-rest', but each text has one label"):
        model.fit_head(TEXTS, LABELS)


def test_a_saved_head_stays_when_a_strategy_is_given(model, tmp_path):
    """Loading with the strategy of the training again doesn't lose the head; asking for a new head does."""
    model.fit_head(SEVERAL, ROWS)
    model.save_pretrained(tmp_path)
    again = FewShotClassifier.from_pretrained(tmp_path, multi_target_strategy="one-vs-rest", device="cpu")
    assert np.array_equal(again.predict_proba(SEVERAL), model.predict_proba(SEVERAL))
    assert not FewShotClassifier.from_pretrained(tmp_path, head="torch", device="cpu").head.is_fitted
    with pytest.raises(ValueError, match="was fitted with another; for a new head pass head='logistic' too"):
        FewShotClassifier.from_pretrained(tmp_path, multi_target_strategy="classifier-chain", device="cpu")
    chain = {"head": "logistic", "multi_target_strategy": "classifier-chain"}
    assert not FewShotClassifier.from_pretrained(tmp_path, **chain, device="cpu").head.is_fitted


@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_texts_can_be_predicted(model, count):
    """No text gives no prediction; a generator is as good as a list."""
    model.fit_head(TEXTS, LABELS)
    assert model.predict_proba(text for text in TEXTS[:count]).shape == (count, 3)
    assert model.predict(text for text in TEXTS[:count]).tolist() == LABELS[:count]


def test_batches_and_long_texts_do_not_matter(model):
    """Whatever the batch size, predictions are the same; a text of 10,000 characters is cut by the tokenizer."""
    model.fit_head(TEXTS, LABELS)
    texts = [*TEXTS, "my invoice charge refund " * 400]
    whole = model.predict_proba(texts)
    assert np.allclose(model.predict_proba(texts, batch_size=2), whole, atol=1e-6)
    assert model.predict(texts[-1]) == "billing"


def test_what_is_no_text_is_refused(model):
    """The message has the place."""
    model.fit_head(TEXTS, LABELS)
    with pytest.raises(TypeError, match=r"text 1 is None \(NoneType\); expected a string"):
        model.predict(["a", None])


def test_one_example_a_class_is_enough_for_a_head(model):
    """The head fits three texts of three classes."""
    model.fit_head(TEXTS[:3], LABELS[:3])
    assert model.predict(TEXTS[:3]).tolist() == LABELS[:3]


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_the_dtype_can_be_chosen(body_dir, model, dtype):
    """Parameters are of that type, and predictions much the same."""
    small = FewShotClassifier.from_pretrained(body_dir, dtype=dtype, device="cpu")
    assert {parameter.dtype for parameter in small.parameters()} == {getattr(torch, str(dtype).removeprefix("torch."))}
    model.fit_head(TEXTS, LABELS)
    small.fit_head(TEXTS, LABELS)
    assert np.allclose(small.predict_proba(TEXTS), model.predict_proba(TEXTS), atol=0.05)


@pytest.mark.parametrize("dtype", ["int8", "float99", "nn"])
def test_an_unknown_dtype_is_refused(body_dir, dtype):
    """Only types of numbers with a point can be chosen."""
    with pytest.raises(ValueError, match="expected one of float32, bfloat16, float16"):
        FewShotClassifier.from_pretrained(body_dir, dtype=dtype)


def test_a_backend_that_is_not_installed_says_what_to_install(body_dir, monkeypatch):
    """Without Optimum, the ONNX backend is an error with the pip line, and what does without it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'optimum-onnx\[onnxruntime\]'.*export_onnx"):
        FewShotClassifier.from_pretrained(body_dir, backend="onnx")


def test_embeddings_can_be_normalized(body_dir, model, tmp_path):
    """`normalize_embeddings` holds in prediction, in training, and in what is saved, also for plain sentence-transformers."""
    unit = FewShotClassifier.from_pretrained(body_dir, normalize_embeddings=True, device="cpu")
    expected = model.encode(TEXTS, normalize_embeddings=True)
    assert np.allclose(unit.encode(TEXTS), expected, atol=1e-6)
    unit.save_pretrained(tmp_path)
    assert np.allclose(SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS), expected, atol=1e-6)
    again = FewShotClassifier.from_pretrained(tmp_path, normalize_embeddings=True, device="cpu")
    assert len(again.body) == len(unit.body)


def test_embeddings_can_be_cut_short(body_dir):
    """`truncate_dim` holds in training as in prediction."""
    short = FewShotClassifier.from_pretrained(body_dir, truncate_dim=4, device="cpu")
    embeddings = short(**short.tokenize(TEXTS)).detach().numpy()
    assert embeddings.shape == (len(TEXTS), 4)
    assert np.allclose(embeddings, short.encode(TEXTS), atol=1e-6)


# -- damaged folders -----------------------------------------------------------------------------------------------------

FILES = [
    "1_Pooling/config.json",
    "classifier.json",
    "config.json",
    "config_sentence_transformers.json",
    "head.safetensors",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.fixture
def saved(model, tmp_path):
    """The folder of a fitted classifier."""
    model.fit_head(TEXTS, LABELS)
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_every_file_of_a_saved_classifier_is_known(saved):
    """The list that the tests of damage go through is complete."""
    found = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert found - set(FILES) <= {"README.md", "special_tokens_map.json"}
    assert {"classifier.json", "head.safetensors", "model.safetensors"} <= found


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "wrong"])
def test_a_damaged_folder_is_an_error_that_names_the_file(saved, name, damage):
    """A file that is missing, cut, empty or another one never gives another model: the error says which it is."""
    path = saved / name
    if damage == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "wrong": b"{}"}[damage])
    with pytest.raises(OSError, match="damaged") as error:
        FewShotClassifier.from_pretrained(saved, device="cpu")
    assert name in str(error.value)


def test_one_bit_is_enough_to_be_damaged(saved):
    """Weights that are sound as a file, and not those that were saved, are an error too."""
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"model\.safetensors is not as it was saved; save or copy the model again"):
        FewShotClassifier.from_pretrained(saved, device="cpu")


def test_a_file_can_be_changed_on_purpose(saved):
    """Taken out of the list in classifier.json, a file may say what it likes, if only it is sound."""
    path, config = saved / "sentence_bert_config.json", json.loads((saved / "classifier.json").read_text())
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_seq_length": 7}))
    del config["files"]["sentence_bert_config.json"], config["files"]["model.safetensors"]
    (saved / "classifier.json").write_text(json.dumps(config))
    assert FewShotClassifier.from_pretrained(saved, device="cpu").body.max_seq_length == 7
    (saved / "model.safetensors").write_bytes(b"")
    with pytest.raises(OSError, match=r"model\.safetensors is damaged"):
        FewShotClassifier.from_pretrained(saved, device="cpu")


@pytest.mark.parametrize(
    ("vocabulary", "said"), [(None, "knows no words"), ("", "tokenizer fails"), ("[PAD]\nmoney\n", "tokenizer fails")]
)
def test_a_tokenizer_without_its_file_is_said(body_dir, tmp_path, vocabulary, said):
    """Transformers would make one that takes every word for the unknown one, and train on that."""
    folder = tmp_path / "bert"
    shutil.copytree(body_dir, folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    path = folder / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nmoney\n")
    FewShotClassifier.from_pretrained(folder, device="cpu")
    path.unlink() if vocabulary is None else path.write_text(vocabulary)
    with pytest.raises(OSError, match=rf"bert holds no model .*{said}.*vocab.txt"):
        FewShotClassifier.from_pretrained(folder, device="cpu")


def test_a_body_that_was_saved_over_the_classifier_is_said(saved, body_dir):
    """The head belongs to the body that it was saved with, and to no other."""
    body = SentenceTransformer(str(body_dir), device="cpu")
    with torch.no_grad():
        next(body.parameters()).add_(1)
    body.save_pretrained(str(saved))
    with pytest.raises(OSError, match=r"model\.safetensors.* is not as it was saved"):
        FewShotClassifier.from_pretrained(saved, device="cpu")


def test_whoever_dies_while_saving_leaves_no_mixture(saved, model, monkeypatch):
    """When half of a new model is in a folder, it is a damaged one, not the new body with the older head."""
    moved = []

    def replace(path, target):
        if moved:
            raise KeyboardInterrupt
        moved.append(os.replace(path, target))

    monkeypatch.setattr("pathlib.Path.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(saved)
    monkeypatch.undo()
    assert moved
    assert not FewShotClassifier.from_pretrained(saved, device="cpu").head.is_fitted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "forest"}, r"a head 'forest', and here is none of that kind \(logistic, torch\): import"),
        ({"labels": ["a"]}, "3 classes, and 1 labels"),
        ({"labels": 5}, "Expected `array | null`"),
        ({"link": "tanh"}, "Invalid enum value 'tanh'"),
        ({"format": 99}, "has format 99; this version of runcast reads up to 2: upgrade it"),
    ],
)
def test_a_configuration_that_says_something_else_is_refused(saved, change, message):
    """So are kinds, labels and versions that can't be."""
    path = saved / "classifier.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(OSError, match=message):
        FewShotClassifier.from_pretrained(saved, device="cpu")


def test_a_folder_of_the_first_format_loads(saved, model):
    """What older versions saved predicts the same."""
    config = {"format": 1, "head": "logistic", "labels": ["account", "billing", "delivery"]}
    (saved / "classifier.json").write_text(json.dumps(config))
    loaded = FewShotClassifier.from_pretrained(saved, device="cpu")
    assert np.array_equal(loaded.predict_proba(TEXTS), model.predict_proba(TEXTS))


def test_saving_leaves_other_files_alone(model, tmp_path):
    """What else is in the folder stays there, and needn't be there for loading."""
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "state.json").write_text("{}")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "checkpoint-1" / "state.json").exists()
    assert not list(tmp_path.glob(".saving-*"))
    (tmp_path / "notes.json").unlink()
    (tmp_path / "checkpoint-1" / "state.json").unlink()
    assert FewShotClassifier.from_pretrained(tmp_path, device="cpu").labels is None


def test_saving_an_unfitted_classifier_leaves_no_older_head(model, tmp_path):
    """A folder never holds a head that belongs to another body."""
    model.fit_head(TEXTS, LABELS)
    model.save_pretrained(tmp_path)
    unfitted = FewShotClassifier(model.body)
    unfitted.save_pretrained(tmp_path)
    assert not FewShotClassifier.from_pretrained(tmp_path, device="cpu").head.is_fitted
    assert json.loads((tmp_path / "classifier.json").read_text())["labels"] is None


def test_a_head_fits_its_body_and_labels(model, body_dir):
    """A fitted head with other labels, or on other embeddings, is refused when the classifier is made."""
    head = LogisticHead()
    head.fit(np.eye(8), [0, 1, 2, 0, 1, 2, 0, 1], 3)
    with pytest.raises(ValueError, match="embeddings of 8 dimensions; those of the body have 16"):
        FewShotClassifier(model.body, head)
    model.fit_head(TEXTS, LABELS)
    with pytest.raises(ValueError, match="the head was fitted on 3 classes; expected as many"):
        FewShotClassifier(model.body, model.head, labels=["a", "b"])


def test_what_could_not_be_fitted_leaves_the_labels_alone(model):
    """After data with a single class, other data can be given."""
    with pytest.raises(ValueError, match="at least two classes, found 1"):
        model.fit_head(TEXTS[:2], ["billing", "billing"])
    assert model.labels is None
    model.fit_head(TEXTS, LABELS)
    assert model.predict(TEXTS).tolist() == LABELS


@pytest.mark.parametrize("device", ["abacus", "cuda:99", 3.5])
def test_a_device_that_is_not_there_is_said(body_dir, device):
    """The message has the device, and doesn't blame the model."""
    with pytest.raises(ValueError, match="device is .*, which can't be used here"):
        FewShotClassifier.from_pretrained(body_dir, device=device)


def test_integer_labels_count_as_positions_in_names(body_dir):
    """With names given, integer labels of the training data mean positions, and predictions are names."""
    model = FewShotClassifier.from_pretrained(body_dir, labels=["bill", "parcel", "login"], device="cpu")
    model.fit_head(TEXTS, [0, 1, 2] * 3)
    assert model.predict(TEXTS[:3]).tolist() == ["bill", "parcel", "login"]


def test_a_class_without_examples_is_never_predicted(body_dir):
    """A label that training lacks keeps its place, with probability 0."""
    model = FewShotClassifier.from_pretrained(
        body_dir, labels=["account", "billing", "delivery", "other"], device="cpu"
    )
    model.fit_head(TEXTS, LABELS)
    assert (model.predict_proba(TEXTS)[:, 3] == 0).all()


def test_predicting_without_a_head_says_what_to_do(model):
    """An unfitted classifier says how to fit it."""
    with pytest.raises(RuntimeError, match="isn't fitted: call Trainer.train"):
        model.predict(TEXTS)


def test_unknown_labels_are_named(model):
    """A label that the classifier doesn't know is in the message, beside those it knows."""
    model.fit_head(TEXTS, LABELS)
    with pytest.raises(ValueError, match=r"doesn't know: \['other'\]; it knows \['account', 'billing', 'delivery'\]"):
        model.fit_head(["x"], ["other"])


def test_fitting_a_head_leaves_the_random_state_alone(model):
    """Neither torch's nor numpy's global random numbers move when a head is fitted."""
    embeddings = model.encode(TEXTS)
    for head in (LogisticHead(), TorchHead()):
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        head.fit(embeddings, [0, 1, 2] * 3, 3)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()


def test_a_logistic_head_is_scikit_learns(model):
    """Probabilities are those of scikit-learn's own model, for two classes and for more."""
    from sklearn.linear_model import LogisticRegression

    embeddings = model.encode(TEXTS).astype(np.float64)
    for classes in ([0, 1, 2] * 3, [0, 1, 1] * 3):
        head = LogisticHead()
        head.fit(embeddings, classes, max(classes) + 1, C=3.0)
        expected = LogisticRegression(C=3.0, max_iter=1000).fit(embeddings, classes).predict_proba(embeddings)
        assert np.allclose(head.predict_proba(embeddings), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]], [0], 1), ValueError, "at least two classes, found 1"),
        (([[np.nan], [1.0]], [0, 1], 2), ValueError, "NaN or infinity: training diverged"),
    ],
)
def test_heads_refuse_what_they_cannot_fit(arguments, error, message):
    """A single class, and embeddings of a diverged training, are errors that say so."""
    with pytest.raises(error, match=message):
        LogisticHead().fit(*arguments)


def test_an_unknown_head_or_option_is_named(model):
    """A misspelt head comes with the nearest one, a wrong option with the head's name."""
    with pytest.raises(ValueError, match=r"head is 'logistics'; expected one of logistic, torch \(logistic\?\)"):
        FewShotClassifier(model.body, "logistics")
    with pytest.raises(TypeError, match="head 'torch' doesn't take head_params"):
        TorchHead().fit([[0.0], [1.0]], [0, 1], 2, layers=3)


def test_a_model_that_is_nowhere_fails_at_once_and_says_how_to_get_one(monkeypatch):
    """Without a folder and without the hub, the error names the model and what to pass instead."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="'no-such/model' is no local folder, and the Hugging Face hub didn't deliver it"):
        FewShotClassifier.from_pretrained("no-such/model")


def test_a_packaged_model_is_found_by_its_name(monkeypatch, tmp_path):
    """all-MiniLM-L6-v2 resolves to the folder of the package that carries it, and to the hub's name without it."""
    (tmp_path / "tiny_package" / "model").mkdir(parents=True)
    (tmp_path / "tiny_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(hub, "PACKAGED", {"all-minilm-l6-v2": "tiny_package"})
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        assert hub.resolve_model(name) == str(tmp_path / "tiny_package" / "model")
    monkeypatch.setattr(hub, "PACKAGED", {"all-minilm-l6-v2": "no_such_package"})
    assert hub.resolve_model("all-MiniLM-L6-v2") == "all-MiniLM-L6-v2"


def test_labels_may_be_an_array(body_dir, model, tmp_path):
    """Whatever holds them, they are plain values."""
    found = FewShotClassifier.from_pretrained(body_dir, labels=np.array([3, 1]), device="cpu")
    assert found.labels == [3, 1] and type(found.labels[0]) is int
    model.fit_head(TEXTS, LABELS)
    model.save_pretrained(tmp_path / "saved")
    renamed = FewShotClassifier.from_pretrained(tmp_path / "saved", labels=np.array(["a", "b", "c"]), device="cpu")
    assert renamed.labels == ["a", "b", "c"]


@pytest.mark.parametrize("table", [pd.DataFrame({"text": TEXTS}), {"text": TEXTS}])
def test_a_table_is_no_list_of_texts(model, table):
    """Its columns' names aren't predicted in its place."""
    model.fit_head(TEXTS, LABELS)
    for method in (model.predict, model.predict_proba, model.encode):
        with pytest.raises(TypeError, match=r"texts are a (DataFrame|dict); expected strings: pass its column"):
            method(table)
    assert model.predict(pd.Series(TEXTS)).tolist() == LABELS


def test_half_a_character_is_refused(model):
    """A lone surrogate is told in texts to predict and in labels; whole characters beyond 16 bits are fine."""
    model.fit_head(TEXTS, LABELS)
    with pytest.raises(ValueError, match=r"text 1: 'my \\ud83d' has a lone surrogate"):
        model.predict(["my invoice", "my \ud83d"])
    with pytest.raises(ValueError, match="labels: .* has a lone surrogate"):
        FewShotClassifier(model.body, labels=["a", "b\udc00"])
    assert model.predict("my 🙂") in LABELS
