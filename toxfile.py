"""The environments of trackers and of oldest versions, for tox.

They are made of the one table that also feeds the extras and `Requirement`, and of the bounds in pyproject.toml:

    <python>-<tracker>              its folder in integrations/, with the version that constraints.txt pins
    <python>-setfit                 beside SetFit itself
    py311-<tracker>-oldest          the oldest version that is supported, on the oldest Python
    py311-train-oldest              the trainer with the oldest transformers and sentence-transformers
    py311-transformers-oldest       the callback for trainers that people have, with transformers 4

None but the last two and ``setfit`` have torch. ``tox run`` runs what fits half an hour: the newest versions of the trackers
most used, and all trackers beside each other; ``tox run -m matrix`` runs everything, on one Python.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from tox.config.loader.memory import MemoryLoader
from tox.config.set_env import SetEnv
from tox.config.sets import ConfigSet
from tox.config.types import Command, EnvList
from tox.plugin import impl
from tox.session.state import State

ROOT = Path(__file__).parent
VERSIONS = tomllib.loads((ROOT / "src" / "runcast" / "reporters" / "versions.toml").read_text())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]["custom"]["extras"]
PYTHONS = ("py311", "py312", "py313", "py314")
# Images and histograms are tested, and need these two.
MEDIA = ["numpy", "pillow"]
MAIN = ("tensorboard", "wandb", "mlflow", "comet", "clearml")
# What the tests of a folder need beside its extra: Neptune's own client, which makes what is then imported.
TESTS_NEED = {"neptune": ["neptune"]}
OLDEST_NEEDS = {"neptune": ["numpy<2"]}
OLDEST_TRAINER = ("transformers", "sentence-transformers", "datasets", "accelerate")
# The callback asks less of transformers than the trainer, and needs no extra.
OLDEST_CALLBACK = ["transformers==4.56.0", "sentence-transformers==5.0.0", "accelerate==1.10.1", "datasets==3.0.0"]


def trackers() -> list[str]:
    """Those that have a proof, by the names of their folders."""
    return sorted({path.parent.name for path in ROOT.glob("integrations/*/test_*.py")})


def _tracker(name: str, oldest: bool) -> dict[str, Any]:
    row = VERSIONS.get(name, {})
    if row:
        pins = [f"{row['distribution']}=={row['oldest']}", *row.get("oldest_needs", [])]
    else:
        pins = [line.replace(">=", "==") for line in EXTRAS.get(name, [])] + OLDEST_NEEDS.get(name, [])
    # Faults have an environment of their own, where all trackers are that can be beside each other.
    elsewhere = [] if row.get("alone") else ["--ignore", f"integrations/{name}/test_faults.py"]
    kit = "{env_tmp_dir}/capabilities.json"
    return {
        "description": f"{name}, {'oldest' if oldest else 'newest'} version, against its real local or offline backend",
        "extras": [name] if row or name in EXTRAS else [],
        "deps": [*MEDIA, *row.get("tests_need", []), *TESTS_NEED.get(name, []), *(pins if oldest else [])],
        "pinned": not oldest and not row.get("alone"),
        # More processes than cores: much of it is waiting. The tests of a class share a run, and so a process.
        "commands": [
            [
                "pytest",
                "-n",
                "3",
                "--dist",
                "loadscope",
                "--capabilities",
                kit,
                f"integrations/{name}",
                *elsewhere,
            ]
        ],
    }


def _oldest_trainer() -> dict[str, Any]:
    bounds = [Requirement(line) for line in EXTRAS["train"]]
    pins = [str(bound).replace(">=", "==") for bound in bounds if bound.name in OLDEST_TRAINER]
    return {
        "description": "the few-shot trainer and the callback, oldest versions",
        "extras": ["train", "tensorboard", "wandb"],
        "deps": [*pins, _torch()],
        "pinned": False,
        "commands": [["pytest", "tests/fewshot", "tests/frameworks", "tests/cli/train", "tests/probes"]],
    }


def _oldest_callback() -> dict[str, Any]:
    return {
        "description": "the callback for trainers that people have, with the oldest transformers",
        "extras": ["tensorboard", "wandb"],
        "deps": [*OLDEST_CALLBACK, _torch()],
        "pinned": False,
        "commands": [["pytest", "tests/frameworks"]],
    }


def _setfit() -> dict[str, Any]:
    return {
        "description": "beside SetFit itself: its pairs, losses, folders, and its trainer with our callback",
        "extras": ["train", "tensorboard"],
        "deps": ["setfit"],
        "commands": [["pytest", "tests/fewshot/test_beside_setfit.py", "tests/frameworks"]],
    }


def _torch() -> str:
    return next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))


def _faults(*, main: bool) -> dict[str, Any]:
    names = [path.parent.name for path in sorted(ROOT.glob("integrations/*/test_faults.py"))]
    together = [name for name in names if not VERSIONS.get(name, {}).get("alone")]
    tests = [f"integrations/{name}/test_faults.py" for name in together if (name in MAIN) == main]
    results = "{env_tmp_dir}/faults.xml"
    run = ["pytest", "-n", "3", "--dist", "worksteal", "--junitxml", results]
    page = "faults" if main else "faults-others"
    table = ["python", "integrations/fault_table.py", results, page]
    which = "five trackers and yours" if main else "the other trackers"
    return {
        "description": f"everything that can break, once, with {which}; writes docs/{page}.md",
        "extras": ["trackers"],
        "deps": MEDIA,
        "commands": [[*run, *(["tests/delivery"] if main else []), *tests], table],
    }


def _capabilities() -> dict[str, Any]:
    return {
        "description": "puts together what the environments of the trackers have proven; writes docs/capabilities.md",
        "commands": [["python", "integrations/capability_table.py", str(ROOT / ".tox")]],
    }


def _runs_on(python: str, name: str) -> bool:
    below = VERSIONS.get(name, {}).get("python_below")
    return below is None or int(python.removeprefix("py3")) < int(below.removeprefix("3."))


def _environments() -> dict[str, dict[str, Any]]:
    found = {}
    for python in PYTHONS:
        for name in trackers():
            if not _runs_on(python, name):
                continue
            found[f"{python}-{name}"] = _tracker(name, oldest=False)
        found[f"{python}-setfit"] = _setfit()
        found[f"{python}-faults"] = _faults(main=True)
        found[f"{python}-faults-others"] = _faults(main=False)
        found[f"{python}-capabilities"] = _capabilities()
    oldest = {name: _tracker(name, oldest=True) for name in trackers() if name in VERSIONS or name in EXTRAS}
    oldest |= {"train": _oldest_trainer(), "transformers": _oldest_callback()}
    return found | {f"{PYTHONS[0]}-{name}-oldest": values for name, values in oldest.items()}


ENVIRONMENTS = _environments()


@impl
def tox_extend_envs() -> tuple[str, ...]:
    """Their names."""
    return tuple(ENVIRONMENTS)


@impl
def tox_add_core_config(core_conf: ConfigSet, state: State) -> None:
    """What they are, and which of them run together."""
    python = PYTHONS[0]
    ends = ("capabilities", "together", "train", "faults")
    usual = ["lint", "types", *(f"{python}-{part}" for part in ("core", *MAIN, *ends))]
    parts = ("core", *trackers(), *ends, "setfit", "faults-others")
    oldest = [name for name in ENVIRONMENTS if name.startswith(python) and name.endswith("-oldest")]
    matrix = ["lint", "types", *(f"{python}-{part}" for part in parts), *oldest]
    core_conf.loaders.insert(0, MemoryLoader(env_list=EnvList(usual), labels={"matrix": EnvList(matrix)}))
    for name, values in ENVIRONMENTS.items():
        state.conf.memory_seed_loaders[name].append(_loader(name, **values))


def _loader(name: str, commands: list[list[str]], pinned: bool = True, **values: Any) -> MemoryLoader:
    if not pinned:  # constraints.txt has the newest, and what can be installed together
        free = "PIP_CONSTRAINT =\nPYTHONHASHSEED = 0\nHF_HUB_OFFLINE = 1\nDO_NOT_TRACK = 1\nOMP_NUM_THREADS = 2"
        values["set_env"] = SetEnv(free, "set_env", name, ROOT)
    return MemoryLoader(commands=[Command([_placed(name, part) for part in line]) for line in commands], **values)


def _placed(name: str, text: str) -> str:
    """The text with tox's place for an environment's temporary files, which a value from memory must name itself."""
    return text.replace("{env_tmp_dir}", str(ROOT / ".tox" / name / "tmp"))
