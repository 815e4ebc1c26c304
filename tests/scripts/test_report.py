import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import report

from handmade import make_run, make_table
from image_classifier.engine.errors import UserError

NAMES = ("cat", "dog")


def test_the_page_is_made_again(tmp_path: Path, run_script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    run_dir = make_run(tmp_path / "run", NAMES, test=make_table(NAMES, 50))
    answer = run_script("scripts/report.py", str(run_dir))
    assert answer.returncode == 0, answer.stderr
    page = run_dir / "report" / "report.html"
    assert answer.stdout == f"Report: {page}\n"
    assert "test/acc" in page.read_text()


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        report.main([str(tmp_path / "nowhere")])
    assert ended.value.code == 2
    assert "expected the directory of a run but found no metrics.json" in capsys.readouterr().err
    job = make_run(tmp_path / "sweep" / "0", NAMES, test=make_table(NAMES, 50))
    with pytest.raises(UserError, match=f"name one of its jobs, such as {job}"):
        report.remake(tmp_path / "sweep")
