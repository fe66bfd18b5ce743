"""The model card says what was done, to people and to the hub, and nothing that is nobody's business."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from runcast import NativeRun
from runcast.fewshot import FewShotClassifier, Trainer
from runcast.fewshot.card import escape


@pytest.fixture
def trainer(model, make_args, train_data, eval_data):
    """A trainer that has trained and evaluated, reporting to TensorBoard."""
    args = make_args(report_to="tensorboard", seed=0, head_params={"C": 2.0}, learning_rate=1e-2)
    trainer = Trainer(model, args, train_data, eval_data, metric="f1")
    trainer.train()
    return trainer


def test_the_metadata_is_what_the_hub_wants(trainer, tmp_path):
    """Library, task, tags, and the results of the last evaluation as a model index that the hub's client reads back."""
    metrics = trainer.evaluate()
    trainer.save_model(str(tmp_path / "saved"))
    data = ModelCard.load(tmp_path / "saved" / "README.md").data
    expected = {"library_name": "sentence-transformers", "pipeline_tag": "text-classification"}
    assert expected.items() <= data.to_dict().items()
    assert {"runcast", "few-shot"} <= set(data.tags)
    assert data.metrics == ["accuracy", "f1"]
    found = {result.metric_type: (result.dataset_name, result.metric_value) for result in data.eval_results}
    assert found == {"accuracy": ("eval", metrics["eval_accuracy"]), "f1": ("eval", metrics["eval_f1"])}
    assert "base_model" not in data.to_dict()  # it came from a folder, which is no name on the hub


def test_the_text_names_data_options_results_and_versions(trainer):
    """Sizes, labels with a few of their texts, what was set, how it went, and with which packages."""
    import sentence_transformers

    metrics = trainer.evaluate()
    card = trainer.model.model_card()
    assert "24 training texts, 24 evaluation texts." in card
    assert "| billing | 8 | my invoice charge refund<br>the invoice charge refund<br>my money payment card |" in card
    assert "4 steps, with" in card
    assert "- learning_rate: 0.01" in card
    assert html.escape('{"C": 2.0}', quote=False) in html.unescape(card)
    assert "- seed: 0" in card
    assert f"| eval/accuracy | {metrics['eval_accuracy']:.4g} |" in card
    assert f"| eval/loss | {metrics['eval_loss']:.4g} |" in card
    assert f"- sentence-transformers {sentence_transformers.__version__}" in card


def test_the_best_models_results_are_those_of_its_step(make_args, model, train_data, eval_data):
    """After training, the card has the figures of the model that was loaded in the end."""
    args = make_args(max_steps=12, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, learning_rate=3e-2)
    trainer = Trainer(model, args, train_data, eval_data)
    trainer.train()
    step = trainer.state.best_global_step
    (best,) = [entry for entry in trainer.state.log_history if entry["step"] == step and "eval_loss" in entry]
    last = [entry for entry in trainer.state.log_history if "eval_loss" in entry][-1]
    assert best["eval_loss"] != last["eval_loss"], "the best is the last: the test shows nothing"
    results = trainer.model.card.training.results
    assert results == {"eval/loss": best["eval_loss"], "eval/accuracy": best["eval_accuracy"]}


class Online:
    """What makes a reporter one of a tracker on the net."""

    name = "online"

    def open(self, run, attach):
        return NativeRun("run-17", "https://user:secret@tracker.example/runs/17")


def test_the_card_says_where_each_tracker_has_the_run(
    model, make_args, train_data, recorder_class, only_run, tmp_path, monkeypatch
):
    """An address on the net as it is, without a password; a local store by the run's id, without its path."""
    online = type("OnlineRecorder", (Online, recorder_class), {})()
    trainer = Trainer(model, make_args(report_to=["tensorboard", online]), train_data)
    trainer.train()
    card = model.model_card()
    run = only_run()
    assert f"The training is run {run.run_id}." in html.unescape(card)
    assert f"| tensorboard | run {run.run_id} |" in card
    assert "tracker.example/runs/17>" in card
    assert "secret" not in card
    assert str(tmp_path) not in html.unescape(card)
    assert str(Path.home()) not in html.unescape(card)


HOSTILE = [
    "<script>alert('x')</script> a parcel",
    "a | b | c\n\n# late courier",
    "![pay](https://evil.example/pixel.png) *bold* _it_ `code` $x$ ~~old~~",
    "---\nlicense: mit\n--- {{ card_data }} &lt;b&gt; \\| @someone",
    "https://evil.example www.evil.example \u202etxet",
]


def test_texts_are_shown_as_they_are(model, make_args, train_data, tmp_path):
    """No HTML, link, table cell or metadata of a text takes effect in the card; it reads as it was written."""
    data = {"text": [*HOSTILE, *HOSTILE], "label": ["<b>one</b>"] * 5 + ["two | [x](y)"] * 5}
    trainer = Trainer(model, make_args(max_steps=1), data)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert card.data.get("license") is None
    parser = MarkdownIt("commonmark", {"html": True, "linkify": True}).enable("table").enable("strikethrough")
    tokens = [token for block in parser.parse(card.text) for token in [block, *(block.children or [])]]
    assert {token.content for token in tokens if token.type.startswith("html")} <= {"<br>"}
    assert not {"image", "link_open", "em_open", "strong_open", "s_open"} & {token.type for token in tokens}
    assert sum(token.type == "tr_open" for token in tokens) == 3  # the header and two labels
    shown = [html.unescape(part) for part in card.text.split("| ") for part in part.split("<br>")]
    cell = next(token for token in tokens if token.type == "inline" and "script" in token.content)
    text = "".join(child.content for child in cell.children if child.type in ("text", "text_special"))
    assert text.startswith("<script>alert('x')</script> a parcel")
    assert "a | b | c # late courier" in text
    assert any("<b>one</b>" in part for part in shown)


def test_long_and_invisible_things_are_left_out():
    """Of a long text its beginning; characters that nobody sees, or that turn others around, not at all."""
    assert escape("word " * 100).endswith("word…")
    assert len(escape("word " * 100)) <= 200
    assert escape("a\u202eb\u200bc\x00d\te") == "abcd e"


def test_a_loaded_classifier_keeps_its_card_until_it_is_trained_again(trainer, make_args, train_data, tmp_path):
    """Also what people wrote into it; a new training, or another head, writes a new one under the same licence."""
    trainer.save_model(str(tmp_path / "first"))
    readme = tmp_path / "first" / "README.md"
    ours = readme.read_text("utf-8").replace("---\n", "---\nlicense: mit\n", 1)
    readme.write_text(ours + "\n## Ours\n\nÄsk ☕ us.\n", "utf-8")
    again = FewShotClassifier.from_pretrained(tmp_path / "first", device="cpu")
    again.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second" / "README.md").read_bytes() == readme.read_bytes()
    evaluated = Trainer(again, make_args(), eval_dataset=train_data)
    evaluated.evaluate()
    assert again.model_card() == readme.read_text("utf-8")

    refitted = FewShotClassifier.from_pretrained(tmp_path / "first", device="cpu")
    refitted.fit_head(train_data["text"], train_data["label"])
    assert "## Results" not in refitted.model_card()
    retrained = Trainer(again, make_args(max_steps=2), train_data)
    retrained.train()
    assert "2 steps, with" in again.model_card()
    assert "Ours" not in again.model_card()
    assert ModelCard(again.model_card()).data.license == "mit"


def test_a_checkpoints_card_has_the_figures_of_its_step(make_args, model, train_data, eval_data, tmp_path):
    """Each checkpoint says how well it does, not how well a later one does."""
    options = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    args = make_args(max_steps=4, load_best_model_at_end=True, **options)
    trainer = Trainer(model, args, train_data, eval_data)
    trainer.train()
    for step in (2, 4):
        (entry,) = [entry for entry in trainer.state.log_history if entry["step"] == step and "eval_loss" in entry]
        text = (tmp_path / "output" / f"checkpoint-{step}" / "README.md").read_text("utf-8")
        assert f"{step} steps, with" in text
        assert f"| eval/loss | {entry['eval_loss']:.4g} |" in text


def test_the_base_model_is_named_if_the_hub_has_it(body_dir, monkeypatch, tmp_path):
    """A name on the hub, also a short one, is in the metadata; and stays there when the classifier is saved and loaded."""
    from runcast.fewshot import model as model_module

    monkeypatch.setattr(model_module, "resolve_model", lambda name: str(body_dir))
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        model = FewShotClassifier.from_pretrained(name, device="cpu")
        assert ModelCard(model.model_card()).data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    monkeypatch.undo()
    model.fit_head(["a parcel", "an invoice"], ["delivery", "billing"])
    model.save_pretrained(tmp_path / "saved")
    assert FewShotClassifier.from_pretrained(tmp_path / "saved", device="cpu").card.base_model == model.card.base_model


def test_several_labels_are_counted_each(model, make_args, train_data):
    """A text with several labels is an example of each of them; rows of 0 and 1 go by the labels' names."""
    labels = [[1, 1, 0] if text.startswith("my") else [0, 1, 0] for text in train_data["text"]]
    named = FewShotClassifier(model.body, labels=["mine", "any", "none"])
    Trainer(named, make_args(max_steps=1), {"text": train_data["text"], "label": labels}).train()
    assert named.card.training.data.counts == {"mine": 12, "any": 24, "none": 0}
    assert "several labels a text" in named.model_card()


def test_what_is_said_of_the_model_stays_in_its_card(trainer, tmp_path):
    """`create_model_card` writes the README beside the checkpoints, and later ones have the same metadata."""
    trainer.create_model_card(
        language="en", license="apache-2.0", tags="support", model_name="Support", dataset_tags="me/mails"
    )
    trainer.model.save_pretrained(tmp_path / "saved")
    for folder in (tmp_path / "output", tmp_path / "saved"):
        card = ModelCard.load(folder / "README.md")
        assert (card.data.language, card.data.license, card.data.datasets) == ("en", "apache-2.0", "me/mails")
        assert {"support", "runcast"} <= set(card.data.tags)
        assert card.text.startswith("\n# Support\n")


def test_a_hub_that_is_away_is_a_clear_error_and_the_folder_is_complete(body_dir, python, tmp_path):
    """Pushing says which repository and address, and what to do; what it would have uploaded loads and predicts the same."""
    code = f"""
import json, logging, sys
from runcast.fewshot import FewShotClassifier, Trainer, TrainingArguments
logging.basicConfig()
model = FewShotClassifier.from_pretrained({str(body_dir)!r}, device="cpu")
args = TrainingArguments("out/support", max_steps=2, report_to="none", disable_tqdm=True, use_cpu=True, hub_token="hf_hidden")
trainer = Trainer(model, args, {{"text": ["a parcel", "an invoice"], "label": ["delivery", "billing"]}})
trainer.train()
errors = []
for push in (lambda: model.push_to_hub("me/support"), trainer.push_to_hub, lambda: trainer.push_to_hub("me/other", license="mit")):
    try:
        push()
    except OSError as error:
        errors.append(str(error))
trainer._push_from_checkpoint("unused")
model.save_pretrained("pushed")
print(json.dumps([errors, model.predict(["a parcel", "invoice"]).tolist()]))
"""
    away = "http://127.0.0.1:9"
    done = python(code, HF_ENDPOINT=away, HF_HUB_OFFLINE="0", OMP_NUM_THREADS="1", HF_TOKEN="hf_nobodys")
    assert done.returncode == 0, done.stderr
    errors, predicted = json.loads(done.stdout.splitlines()[-1])
    assert [error.split(" can't")[0] for error in errors] == ["'me/support'", "'support'", "'me/other'"]
    assert all(away in error and "hf auth login" in error for error in errors)
    assert "the checkpoint of step 2 was not pushed" in done.stderr
    folder = tmp_path / "pushed"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"README.md", "classifier.json", "head.safetensors", "modules.json", "model.safetensors"} <= files
    assert not any(name.endswith((".bin", ".pkl", ".pt")) for name in files)
    assert not any(b"hf_hidden" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert FewShotClassifier.from_pretrained(folder).predict(["a parcel", "invoice"]).tolist() == predicted
    assert ModelCard.load(folder / "README.md").data.license == "mit"
