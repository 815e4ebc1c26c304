"""Values of settings named like secrets stand in no file of a run and in nothing that it prints."""

from pathlib import Path

import pytest
from sweeping import TINY, run

from image_classifier.engine.secrets import hidden, hidden_override, is_secret

SECRET = "swordfish4711"


@pytest.mark.parametrize(
    "key", ["token", "api_key", "a.access_token", "password", "client_secret", "WANDB_API_KEY", "key", "apiKey"]
)
def test_is_a_secret(key: str) -> None:
    assert is_secret(key)
    assert hidden({"a": [{key.rpartition(".")[2]: SECRET}]}) == {"a": [{key.rpartition(".")[2]: "***"}]}


@pytest.mark.parametrize("key", ["monitor.metric", "tokenizer", "keypoints", "num_tokens", "data.label_key", "monkey"])
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
