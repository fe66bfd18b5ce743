"""A full disk costs events, not the training: they are counted and said, and what comes later is whole.

The kernel itself refuses the bytes here, in a process of its own: beyond the limit on a file's size (RLIMIT_FSIZE) it
first cuts a write(2) short, and then takes none at all, just as where no block is left.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import runcast
from runcast import events
from runcast.errors import RunFolderError
from runcast.journal import FILE_NAME, Damage, Journal

PRELUDE = """
import json, logging, os, resource, sys
from pathlib import Path
import runcast
from runcast.reporter import Reporter

class Listed(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())

messages = []
logging.getLogger("runcast").addHandler(Listed())
logging.getLogger("runcast").propagate = False

def limit(path, spare):
    "The file may grow by so many bytes; None: as it likes."
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    soft = hard if spare is None else os.path.getsize(path) + spare
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

class Memory(Reporter):
    name = "memory"
    steps = []
    status = None
    def log_metrics(self, metrics, step, time):
        self.steps.append(step)
    def close(self, status):
        Memory.status = status
"""


@pytest.fixture
def child(python):
    """Runs code in a process of its own; the answer is the dict that it calls `answer`."""

    def call(code: str, *arguments: str):
        done = python(PRELUDE + code + "\nprint('\\n' + json.dumps(answer))", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return call


def read(run_dir: str | Path) -> tuple[list[events.Event], list[Damage]]:
    damage: list[Damage] = []
    return [entry.event for entry in Journal(Path(run_dir) / FILE_NAME).read(on_damage=damage.append)], damage


def steps(found: list[events.Event]) -> list[int]:
    return [event.step for event in found if isinstance(event, events.Metrics)]


def test_run_goes_on_through_a_full_disk(child):
    """Wherever it strikes in a line: nothing raises, the lost are counted and said, later events are written and delivered."""
    answer = child("""
run = runcast.start_run(Memory(), delivery="inline")
journal = run.dir / "journal.jsonl"
for step in range(100):
    run.log({"loss": 0.5}, step=step)
size = os.path.getsize(journal)
run.log({"loss": 0.5}, step=100)
line = os.path.getsize(journal) - size
logged = list(range(101))
lost_at = []
for spare in range(line + 3):
    limit(journal, spare)
    for _ in range(3):
        logged.append(len(logged))
        run.log({"loss": 0.5}, step=logged[-1])
    limit(journal, None)
    logged.append(len(logged))
    run.log({"loss": 0.5}, step=logged[-1])
    lost_at.append(logged[-1] - 1)
lost = run._lost
run.finish()
answer = dict(dir=str(run.dir), logged=logged, line=line, lost=lost, messages=messages, steps=Memory.steps,
              status=Memory.status, after=[step + 1 for step in lost_at])
""")
    found, damage = read(answer["dir"])
    assert steps(found) == sorted(set(steps(found)))
    assert len(steps(found)) + answer["lost"] == len(answer["logged"])
    assert answer["lost"] >= 2 * answer["line"]
    assert set(steps(found)) >= {*range(101), *answer["after"]}
    assert 0 < len(damage) <= answer["line"] + 3  # at most one torn line each time
    assert runcast.read_run(answer["dir"]).status == "completed"
    assert answer["steps"] == steps(found)
    assert answer["status"] == "completed"
    first, last = answer["messages"]
    assert "can't be written to the run folder" in first
    assert "Training goes on; losses are counted" in first
    assert last == f"{answer['lost']} events of this run could not be written to its journal and are lost"


def test_run_that_cannot_be_begun_says_so_at_once(child, tmp_path):
    """No space for the first event: an error before training starts, and no folder that would look like a run."""
    answer = child("""
answer = []
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    runcast.start_run(Memory(), delivery="inline", config={"a": 1})
except runcast.errors.RunFolderError as error:
    answer = [str(error), runcast.current_run() is None]
""", "10")  # fmt: skip
    assert "can't write the journal" in answer[0]
    assert "dir=" in answer[0]
    assert answer[1]
    assert list((tmp_path / "runs").iterdir()) == []


def test_run_that_cannot_be_resumed_says_so_at_once(child):
    """No space for the word that a new process goes on: an error, and the run stays as it was."""
    answer = child("""
run = runcast.start_run(Memory(), delivery="inline")
run.finish()
limit(run.dir / "journal.jsonl", 5)
try:
    runcast.start_run(Memory(), delivery="inline", resume=run.dir)
except runcast.errors.RunFolderError as error:
    answer = dict(error=str(error), dir=str(run.dir))
limit(run.dir / "journal.jsonl", None)
runcast.start_run(Memory(), delivery="inline", resume=run.dir).finish("killed")
""")
    assert "can't write the journal" in answer["error"]
    assert runcast.read_run(answer["dir"]).status == "killed"


def test_end_that_does_not_fit_is_said_and_not_waited_for(child):
    """Without its end in the journal no tracker can be through: `finish` returns, and says what mends it."""
    answer = child("""
run = runcast.start_run(Memory(), delivery="inline", finish_timeout=10_000)
run.log({"loss": 0.5}, step=0)
limit(run.dir / "journal.jsonl", 20)
run.finish()
answer = dict(dir=str(run.dir), messages=messages, status=Memory.status, steps=Memory.steps)
""")
    assert runcast.read_run(answer["dir"]).status == "crashed"
    assert answer["steps"] == [0]
    advice = next(message for message in answer["messages"] if "the end of this run" in message).rpartition(": ")[2]
    assert any(message.startswith("1 events of this run") for message in answer["messages"])
    child(f"runcast.register_reporter(Memory)\n{advice}\nanswer = {{}}")
    assert runcast.read_run(answer["dir"]).status == "completed"


MEDIA = {
    "images": ("run.log_image('key', png)", "image"),
    "tables": ("run.log_table('key', ['a'], [[n] for n in range(2000)])", "table"),
    "files": ("run.log_artifact('big.bin')", "artifact"),
}


@pytest.mark.parametrize("kind", MEDIA)
def test_file_that_does_not_fit_is_not_taken_for_whole_later(child, kind):
    """It is lost and leaves nothing behind; logged again when there is space, it is stored with all its bytes."""
    call, what = MEDIA[kind]
    answer = child(
        f"""
png = b"\\x89PNG\\r\\n\\x1a\\n" + os.urandom(20_000)
Path("big.bin").write_bytes(os.urandom(20_000))
run = runcast.start_run(Memory(), delivery="inline")
limit("/dev/null", 5_000)
{call}
left = [str(path) for path in (run.dir / "artifacts").rglob("*") if path.is_file()]
lost, limited = run._lost, [*messages]
limit("/dev/null", None)
{call}
run.finish()
answer = dict(dir=str(run.dir), left=left, lost=lost, messages=limited)
"""
    )
    assert answer["left"] == []
    assert answer["lost"] == 1
    assert "can't be written to the run folder" in answer["messages"][0]
    found, _ = read(answer["dir"])
    (event,) = [event for event in found if event.__struct_config__.tag == what]
    file = event.files[0] if isinstance(event, events.Artifact) else event
    content = (Path(answer["dir"]) / event.path).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_device_without_space_is_an_os_error():
    """What the kernel says of a full device reaches the caller, and the journal can be closed."""
    journal = Journal("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        journal.append(events.Tags(time=0.0, tags=("a",)))
    assert not isinstance(caught.value, RunFolderError)
    journal.close()
