"""Values of settings named like secrets stand in no file of a run and in nothing that it prints."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from readers import MLFlowReader
from sweeping import TINY, run

from image_classifier.engine import terminal
from image_classifier.engine.launch import objects
from image_classifier.engine.project import PROJECT_ROOT
from image_classifier.engine.secrets import hidden, hidden_override, is_secret

SECRET = "swordfish4711"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    terminal.secrets.clear()


@pytest.mark.parametrize(
    "key", ["token", "api_key", "a.access_token", "password", "client_secret", "WANDB_API_KEY", "apiKey", "ssh-key"]
)
def test_is_a_secret(key: str) -> None:
    assert is_secret(key)
    assert hidden({"a": [{key.rpartition(".")[2]: SECRET}]}) == {"a": [{key.rpartition(".")[2]: "***"}]}


@pytest.mark.parametrize(
    "key",
    [
        "monitor.metric",
        "tokenizer",
        "keypoints",
        "num_tokens",
        "data.label_key",
        "monkey",
        "key",
        "data.key",
        "key_of_images",
    ],
)
def test_is_none(key: str) -> None:
    assert not is_secret(key)


def test_secrets_in_overrides() -> None:
    assert hidden_override(f"++a.token={SECRET}") == "++a.token=***"
    assert hidden_override(f"+a={{b: 1, c: [{{password: {SECRET}}}]}}") == "+a={b:1,c:[{password:***}]}"
    assert hidden_override("data.label_key=fine") == "data.label_key=fine"


def found_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_no_file_of_a_run_has_it_and_a_resume_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    settings = (*TINY, "trainer.max_epochs=1", "logger=[csv,tensorboard,wandb]", f"hydra.run.dir={tmp_path}/run")
    secret = (f"+extra.service.password={SECRET}", "+extra.access_token=${oc.env:MY_TOKEN}")
    outcome = run(*settings, *secret, f"+other={{list: [{{api_key: {SECRET}}}]}}")
    assert outcome.status == 0, outcome.errors
    assert (tmp_path / "run" / "config.yaml").read_text().count("***") == 3
    assert found_in(tmp_path) == []
    assert SECRET not in outcome.output + outcome.errors
    kept = (tmp_path / "run" / ".hydra" / "overrides.yaml").read_text()
    assert "+extra.access_token=${oc.env:MY_TOKEN}" in kept  # so that a resume need not be told
    outcome = run(f"resume={tmp_path}/run", "trainer.max_epochs=2")
    assert outcome.status == 2
    assert outcome.errors.startswith("error: expected extra.service.password to be typed again")


def test_a_sweep_takes_secrets_from_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    settings = ("-m", *TINY, "trainer.max_epochs=1", "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    for typed in (f"+extra.token={SECRET}", f"+extra.token={SECRET},other"):
        refused = run(*settings, typed)
        assert refused.status == 2
        assert SECRET not in refused.errors
        assert "type '+extra.token=${oc.env:VARIABLE}'" in refused.errors
        assert list(tmp_path.iterdir()) == []
    swept = run(*settings, "+extra.token=${oc.env:MY_TOKEN}")
    assert swept.status == 0, swept.errors
    assert found_in(tmp_path) == []
    assert SECRET not in swept.output + swept.errors


def test_all_within_credentials_is_secret() -> None:
    assert hidden({"credentials": {"key": SECRET, "user": "me"}, "key": "images"}) == {
        "credentials": {"key": "***", "user": "***"},
        "key": "images",
    }
    assert hidden_override(f"+a.credentials.key={SECRET}") == "+a.credentials.key=***"
    assert hidden_override("+data.key=images") == "+data.key=images"


@pytest.mark.slow
def test_mlflow_and_trackio_have_none(tmp_path: Path) -> None:
    settings = (*TINY, "trainer.max_epochs=1", "logger=[mlflow,trackio]")
    ended = run(
        *settings, f"hydra.run.dir={tmp_path}/run", f"+extra.token={SECRET}", f"+extra.list=[{{api_key: {SECRET}}}]"
    )
    assert ended.status == 0, ended.errors
    params = MLFlowReader(tmp_path / "run").run.data.params
    assert [value for key, value in params.items() if "token" in key] == ["***"]
    store = Path(os.environ["TRACKIO_DIR"])  # of all tests of this process
    assert list(store.rglob("*.db")) and (tmp_path / "run" / "mlruns" / "mlflow.db").is_file()
    assert found_in(store) + found_in(tmp_path) == []


@pytest.fixture
def callbacks_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "EXECUTION_WHITELIST", (*objects.EXECUTION_WHITELIST, "moments.*"))


@pytest.mark.usefixtures("callbacks_of_tests")
@pytest.mark.parametrize("moment", ["init", "fit"])
def test_messages_of_others_do_not_show_it(tmp_path: Path, moment: str) -> None:
    leaks = f"+callbacks.leaks={{_target_: moments.Leaks, moment: {moment}, token: {SECRET}}}"
    ended = run(*TINY, leaks, f"hydra.run.dir={tmp_path}/run")
    assert ended.status == (2 if moment == "init" else 1)
    assert "the token *** is refused" in ended.errors
    assert SECRET not in ended.output + ended.errors
    assert found_in(tmp_path) == []


@pytest.mark.usefixtures("callbacks_of_tests")
def test_a_job_that_fails_does_not_show_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    leaks = "+callbacks.leaks={_target_: moments.Leaks, moment: fit, token: '${oc.env:MY_TOKEN}'}"
    ended = run("-m", *TINY, leaks, "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    assert ended.status == 1
    assert "the token *** is refused" in (tmp_path / "sweep" / "sweep_summary.csv").read_text()
    assert SECRET not in ended.output + ended.errors
    assert found_in(tmp_path) == []


@pytest.mark.slow
def test_processes_that_we_start_do_not_have_it_in_their_command_lines(tmp_path: Path) -> None:
    settings = (*TINY, "trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=1", f"+extra.token={SECRET}")
    command = [sys.executable, "train.py", *settings, f"hydra.run.dir={tmp_path}/run"]
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL)
    seen: set[bytes] = set()
    while process.poll() is None:
        for listed in Path("/proc").glob(f"{process.pid}/task/*/children"):
            for child in listed.read_text().split():
                with contextlib.suppress(OSError):
                    seen.add(Path(f"/proc/{child}/cmdline").read_bytes())
        time.sleep(0.05)
    assert process.returncode == 0
    assert len(seen) >= 2  # the ranks, and what looks after their shared memory
    assert not [line for line in seen if SECRET.encode() in line]
