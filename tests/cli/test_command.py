"""Signals, pipes and terminals: how every command ends."""

import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from pictures import write_pictures
from records import a_record

from ensemble_transfer.cli.command import command, interruptible
from ensemble_transfer.errors import Interrupted, require_uninterrupted
from ensemble_transfer.report.record import Record

MESSAGE = "interrupted; the same command goes on where this one stopped"
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
LONG = ["recipe.ancestor.steps=100000"]
CHECKPOINT = "store/unfinished/*/*.ckpt"


@pytest.fixture
def usual_handlers():
    """Handle Ctrl-C as in a terminal: a shell's background jobs, and so the tests in one, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler, signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("encoding", "written"), [("utf-8", b"caf\xe9 \xe2\x82\xac"), ("latin-1", b"caf\\udce9 \\u20ac")]
)
def test_names_of_files_are_written_as_they_are_and_letters_that_are_missing_as_escapes(monkeypatch, encoding, written):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)

    @command
    def names() -> int:
        print(os.fsdecode(b"caf\xe9"), "€", end="")  # noqa: T201
        return 0

    assert names() == 0
    stream.flush()
    assert stream.buffer.getvalue() == written


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_command_with_its_exit_code(number, capsys, usual_handlers):

    @command
    def stopped() -> int:
        os.kill(os.getpid(), number)
        time.sleep(10)
        return 0

    assert stopped() == SIGNALS[number]
    assert capsys.readouterr().err == "interrupted\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == usual_handlers


def test_a_handler_of_somebody_else_is_left():
    got = []
    before = signal.signal(signal.SIGTERM, lambda *_: got.append("theirs"))
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == ["theirs"]


def test_a_run_that_is_stopped_in_training_says_so_and_leaves_a_record(forks, quick, tmp_path):
    words = ["strategy=head", *quick, *LONG, "trainer.checkpoint_seconds=0.1", "hydra.run.dir=run"]
    run = forks.start("ensemble_transfer", *words, cwd=tmp_path)
    run.wait_for(tmp_path, CHECKPOINT)
    run.send_signal(signal.SIGINT)  # a sweep is stopped by SIGTERM below
    done = run.wait(60)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, MESSAGE), done.stderr
    assert "Traceback" not in done.stderr
    record = Record.load(tmp_path / "run" / "record.json")
    assert (record.status, record.error) == ("interrupted", MESSAGE)


def test_a_sweep_that_is_stopped_writes_its_comparison(cli, forks, quick, tmp_path):
    sweep = ["-m", "strategy=head", "seed=0", "hydra.sweep.dir=s", *quick]
    assert cli(*sweep)[0] == 0
    (tmp_path / "s" / "comparison" / "index.html").unlink()
    longer = ["recipe.ancestor.steps=12,100000", "trainer.checkpoint_seconds=0.1"]
    run = forks.start("ensemble_transfer", *sweep, *longer, cwd=tmp_path)
    run.wait_for(tmp_path, CHECKPOINT)
    run.send_signal(signal.SIGTERM)
    done = run.wait(60)
    assert done.returncode == 143, done.stderr
    assert done.stderr.count(MESSAGE) == 1
    assert f"interrupted: head, digits_to_mnist, seed 0: {MESSAGE}" in " ".join(done.stdout.split())
    assert (tmp_path / "s" / "comparison" / "table.csv").read_text().splitlines()[1].startswith("head,1,0,")
    assert not (tmp_path / "s" / "comparison" / "index.html").exists(), "figures take longer than somebody waits"
    assert "1 of 2 done, 1 interrupted" in done.stderr
    assert "failed" not in done.stderr


def test_a_reader_that_stops_reading_ends_a_command_quietly(forks, tmp_path):
    """As it ends ``cat``: with the exit code of a process that SIGPIPE has ended."""
    a_record().save(tmp_path)
    np.savez(tmp_path / "p.npz", probabilities=np.full((2, 3, 2), 0.5), labels=np.zeros(3, int))
    os.mkfifo(tmp_path / "pipe")
    for words in (["--help"], ["compare", "--help"], ["compare", "."], ["evaluate", "p.npz"]):
        run = forks.start("ensemble_transfer", *words, cwd=tmp_path, stdout=tmp_path / "pipe")
        (tmp_path / "pipe").open().close()
        done = run.wait()
        codes = (0, 128 + signal.SIGPIPE) if "--help" in words else (128 + signal.SIGPIPE,)
        assert (done.returncode in codes, done.stderr) == (True, ""), (words, done)  # argparse drops errors of its help


SAID = """
import os, sys
from importlib import import_module
def run(name, *arguments):
    sys.argv = [name, *arguments]
    try: import_module(f"ensemble_transfer.cli.{name}").main(*[] if name == "main" else [arguments])
    except SystemExit: pass
    heavy = {"torch", "numpy", "scipy", "pandas", "PIL", "timm", "pytorch_lightning", "torchmetrics", "matplotlib"}
    assert not heavy & set(sys.modules), (name, arguments, heavy & set(sys.modules))
for name in ("compare", "evaluate", "extend", "export", "predict", "rivals", "main"):
    run(name, "--help")
run("main", "strategy=few", "trainer.max_epochs=3")
run("predict", ".", "x.png", "--risk=1")
run("export", "nowhere", "out.onnx")
"""


def test_help_and_mistakes_are_answered_before_anything_heavy_is_imported(tmp_path):
    done = subprocess.run([sys.executable, "-c", SAID], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "strategy: auto, few, full, head, lp_ft, random_shift, scratch, shift" in done.stdout
    assert "ood/<name>/probabilities" in done.stdout
    assert "trainer.max_epochs=3: " in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_argument_that_is_no_text_in_this_locale_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ensemble_transfer", "strategy=head", 'dataset.target.path="/tmp/каталог"'],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.endswith("is not text in this locale; set PYTHONUTF8=1\n")
    assert done.stderr.count("\n") == 1


CLOSED = """
import os, sys
for number in (1, 2):
    os.close(number)
sys.stdin = sys.stdout = sys.stderr = None  # as Python has them where they are closed
from ensemble_transfer.cli.main import main
raise SystemExit(main())
"""


def test_streams_that_the_shell_has_closed_take_nothing_from_a_command(finished_shift, forks, tmp_path):
    write_pictures(tmp_path / "images", torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    (tmp_path / "closed.py").write_text(CLOSED)
    rows = ["predict", finished_shift / "run", "images", "--output", "rows.csv"]
    for words, code in ((["--help"], 0), (["seed=1"], 2), (rows, 0)):
        done = forks.run(tmp_path / "closed.py", *words, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    assert (tmp_path / "rows.csv").read_text().count("\n") == 4


class Deleted:
    """Something that a signal interrupts while it is deleted."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)  # Python handles the signal here, and drops what its handler raises


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_swallowed_is_seen_at_the_next_step():
    with interruptible():
        require_uninterrupted()
        _ = [Deleted()].pop()
        del _
        with pytest.raises(Interrupted) as stop:
            require_uninterrupted()
    assert stop.value.exit_code == 143
    require_uninterrupted()
