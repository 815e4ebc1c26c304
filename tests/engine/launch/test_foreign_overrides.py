"""What comes out of a run directory, which may be somebody else's, is held to a list; what is typed is the user's."""

import shutil
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from sweeping import run

from image_classifier.engine.checkpoint import targets_in
from image_classifier.engine.errors import UserError
from image_classifier.engine.launch import foreign_overrides
from image_classifier.engine.launch.foreign_overrides import check_overrides
from image_classifier.engine.project import CONFIG_DIR, PROJECT_ROOT
from image_classifier.engine.sweeps.folds import number_of_folds
from image_classifier.engine.sweeps.jobs import claim_directory, read_job
from tiny import TINY

CALLED = (
    *("os.system", "subprocess.run", "builtins.exec", "my_package.Mine"),
    *("torch.hub.load", "torch.load", "torch.jit.load", "torch.utils.cpp_extension.load", "torch.ops.load_library"),
    *("torch.package.PackageImporter", "torch.nn.Module.__init__", "torch.save", "torch.compile"),
    *("hydra.utils.instantiate", "hydra.utils.get_method", "logging.FileHandler", "logging.config.dictConfig"),
    *("image_classifier.engine.checkpoint.locate", "image_classifier.engine.checkpoint.build"),
    *("image_classifier.callbacks.report.Path", "image_classifier.models.timm.import_module"),
    *("image_classifier.data..pictures.PictureDataModule", "pytorch_lightning.seed_everything", "timm.create_model"),
    *("image_classifier.models.classifier.Classifier.load_from_checkpoint", "${data._target_}", "null", "[os.system]"),
)
GROUPS = ("callbacks", "confusion_matrix", "data", "logger", "model", "pruning", "trainer")
FORMS = (
    "+callbacks.x={{_target_: {0}, monitor: val/acc}}",
    "+callbacks.x._target_={0}",
    "model.net._target_={0}",
    "+callbacks.x={{_target_: pytorch_lightning.callbacks.LambdaCallback, on_fit_start: {{_target_: {0}}}}}",
    "+trainer.plugins=[[{{'_target_': {0}}}]]",
    "+metrics.x={{a: [1, {{_target_: {0}, _partial_: true}}]}}",
)
REFUSED = (
    *("hydra.run.dir=/tmp/x", "hydra.job.env_set={PATH: /tmp}", "hydra.searchpath=[file:///tmp]", "+hydra.x=1"),
    *("hydra/launcher=joblib", "hydra/callbacks=x", "hydra[a]=1", "trainer@hydra.launcher=cpu", "~hydra.callbacks"),
    *("++trusted=['os.*']", "trusted=x", "model@trusted=cnn", "local=/tmp/x", "trusted.x=1"),
    *("--experimental-rerun=x.pickle", "--config-dir=/tmp", "-m", "-cd=/tmp", "--multirun", "nothing", "a=b=c,{"),
    *("seed=1,2", "seed=range(1,3)", "model=glob(*)", "seed=interval(1,2)"),
    *("callbacks=../../tmp/x", "callbacks=/tmp/x", "logger=[csv,../../tmp/x]", "model/loss=../x", "+mine=../../x"),
    *("callbacks/../../tmp=x", "/tmp/x=y", "callbacks='${seed}'", "experiment='file:///tmp/x'", "+mine=/tmp/x"),
    *("+x=${oc.env:HOME}", "+x.token='a${oc.env:HOME}'", "data.root=${oc.env:HOME}/x", "+x=${oc.decode:'1'}"),
    *("+x=${oc.create:'{_target_: os.system}'}", r"+x='\${oc.env:HOME}'", "+x=${${y}:z}", "+x='${y}{oc.env:HOME}'"),
    *("+x=${y}${z}", "+x=${hydra:runtime.cwd}", "+x=${job_directory:}", "+x={a: ['${oc.env:HOME}']}"),
    *("paths.run_dir=/tmp/x", "paths.root_dir=/tmp", "callbacks.model_checkpoint.dirpath=/tmp/x", "+x.y='~/x'"),
    *("callbacks.report.run_dir=../../../../../../../../tmp", "+logger.mlflow={tracking_uri: 'file:///tmp/x'}"),
    *(
        "+trainer.default_root_dir='${paths.root_dir}/../../x'",
        "+logger.x={save_dir: /tmp}",
        "+x.url='sqlite:////tmp/a'",
    ),
    *("paths.output_dir=/tmp/another", "+callbacks.x={_execution_whitelist_: ['os.*']}", "+x._execution_whitelist_=a"),
)
ACCEPTED = (
    *(
        "seed=3",
        "model=mlp",
        "logger=[csv,tensorboard]",
        "model/optimizer=sgd",
        "experiment=best_cpu",
        "~callbacks.report",
    ),
    *("data.root=/somewhere/pictures", "data.cache=/scratch", "model.init_from='~/a.ckpt'", "paths.data_dir=/mnt/data"),
    *("+extra.access_token=${oc.env:MY_TOKEN}", "data.root='${paths.data_dir}/x'", "+x=${project_root:}/y"),
    *("model.scheduler.max_lr=${model.optimizer.lr}", "+note='costs 5 $ a day'", "callbacks.report=null"),
    *("objectives={val/acc: max}", "++model.lr_factors={blocks: 0.1}", "confusion_matrix.forms=[image,table]"),
    *("+logger.mlflow.tracking_uri='http://localhost:5000'", "confusion_matrix.forms=extend_list(scalar)"),
    *("+callbacks.x={_target_: pytorch_lightning.callbacks.EMAWeightAveraging, decay: 0.9}", "model.freeze=[stem]"),
    *("model.optimizer._target_=torch.optim.SGD", "+logger.x={_target_: pytorch_lightning.loggers.CSVLogger}"),
    "+metrics.top3={_target_: torchmetrics.classification.MulticlassAccuracy, top_k: 3, average: micro}",
    "+callbacks.x={_target_: image_classifier.callbacks.calibration.Calibration, bins: 5}",
    *("model.net._target_=image_classifier.models.mlp.MLP", "+logger.x={save_dir: ${paths.run_dir}/x}"),
    *(
        f"+logger.x={{save_dir: {PROJECT_ROOT}/outputs}}",
        "trainer.max_epochs=int(3)",
        "+trainer.max_time='00:01:00:00'",
    ),
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("called", CALLED)
def test_code_that_no_checkpoint_may_name(tmp_path: Path, form: str, called: str) -> None:
    text = form.format(called)
    with pytest.raises(UserError, match=r"^expected .* found .* in .*; if you trust it, type it again: ") as caught:
        check_overrides(["seed=1", text], tmp_path)
    assert text in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", REFUSED)
def test_what_only_the_user_may_say(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        UserError, match=r"^expected (an override|a |one of).* found .*; if you trust it, type it again"
    ):
        check_overrides([text], tmp_path)


@pytest.mark.parametrize("text", ACCEPTED)
def test_settings_of_ones_own_runs(tmp_path: Path, text: str) -> None:
    check_overrides([text], tmp_path)


def test_places_of_the_run_itself(tmp_path: Path) -> None:
    run_dir = tmp_path / "outputs" / "train" / "1"
    check_overrides([f"paths.output_dir={tmp_path}/outputs", f"+logger.x={{save_dir: {run_dir}/x}}"], run_dir)
    with pytest.raises(UserError, match="a place within the run or the project"):
        check_overrides([f"+logger.x={{save_dir: {tmp_path}/outputs}}"], run_dir)


def test_trusted_names_count_when_they_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(CONFIG_DIR, tmp_path / "configs")
    (tmp_path / "configs" / "local").mkdir(exist_ok=True)
    local = "# @package _global_\ntrusted: [my_package.Mine, torch.hub.load, other.*]\n"
    (tmp_path / "configs" / "local" / "default.yaml").write_text(local)
    monkeypatch.setattr(foreign_overrides, "CONFIG_DIR", str(tmp_path / "configs"))
    for name in ("my_package.Mine", "torch.hub.load"):
        check_overrides([f"+callbacks.x={{_target_: {name}}}"], tmp_path)
    with pytest.raises(UserError, match="a class that a run's files may name"):
        check_overrides(["+callbacks.x={_target_: other.Mine}"], tmp_path)


def test_what_the_files_of_the_project_name_may_be_named(tmp_path: Path) -> None:
    contents = [
        yaml.safe_load(file.read_text()) for group in GROUPS for file in Path(CONFIG_DIR, group).rglob("*.yaml")
    ]
    names = set(targets_in(contents))
    assert len(names) > 40
    for name in names:
        check_overrides([f"+callbacks.x={{_target_: {name}}}"], tmp_path)


@pytest.mark.parametrize("typed", [False, True])
def test_a_run_directory_runs_no_code_of_its_own(tmp_path: Path, typed: bool) -> None:
    """As somebody else's download would: torch.hub runs a file that lies in the directory."""
    run_dir, mark = tmp_path / "run", tmp_path / "was_run"
    assert run(*TINY, "logger=none", "trainer.max_epochs=1", f"hydra.run.dir={run_dir}").status == 0
    (run_dir / "hub").mkdir()
    code = f"import pathlib\nfrom pytorch_lightning import Callback as m\npathlib.Path({str(mark)!r}).touch()\n"
    (run_dir / "hub" / "hubconf.py").write_text(code)
    call = f"+callbacks.x={{_target_: torch.hub.load, repo_or_dir: {run_dir}/hub, model: m, source: local}}"
    kept = run_dir / ".hydra" / "overrides.yaml"
    kept.write_text(yaml.safe_dump([*yaml.safe_load(kept.read_text()), call]))
    before = kept.read_text()
    outcome = run(f"resume={run_dir}", "trainer.max_epochs=2", *([call] if typed else []))
    assert mark.exists() == typed
    assert outcome.status == (0 if typed else 2), outcome.errors
    if not typed:
        assert outcome.errors.startswith("error: expected a class that a run's files may name but found +callbacks.x=")
        assert len(outcome.errors.splitlines()) == 1 and kept.read_text() == before


def test_nothing_in_the_configuration_of_a_job_is_resolved(tmp_path: Path) -> None:
    directory = claim_directory(tmp_path, 0, ["a=1"])
    called = []
    OmegaConf.register_new_resolver("leak", lambda: called.append(1) or 3)
    for text, folds in (("${leak:}", 0), (5, 5), (None, 0)):
        (directory / "config.yaml").write_text(yaml.safe_dump({"data": {"folds": text}}))
        job = read_job(directory)
        assert job is not None and number_of_folds(job) == folds
    assert called == [] and [path.name for path in tmp_path.iterdir()] == ["0"]
