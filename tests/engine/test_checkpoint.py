"""A checkpoint from anybody: nothing that its recipe says is called, but what stands on an exact list."""

import copy
import inspect
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from sweeping import run
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchvision.transforms import v2

from image_classifier import inference, pipeline
from image_classifier.engine import checkpoint as checkpoint_reader
from image_classifier.engine import former_names
from image_classifier.engine.checkpoint import allowed_targets, check_targets, read_checkpoint
from image_classifier.engine.errors import UserError
from image_classifier.engine.project import CONFIG_DIR
from picture_sources import write_folder
from tiny import TINY

PLAIN = ("logger=none", "confusion_matrix=none", "trainer.max_epochs=1", "callbacks.most_confused=null")
MARK = "/tmp/image_classifier_called"  # replaced by a path of the test


def shell(target: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": target, **arguments}


# Calls that would leave a mark. Each is put in every place below; some hide, are partial or carry positional arguments.
HOSTILE: list[dict[str, Any]] = [
    shell("image_classifier.engine.images.sources.run", _args_=["touch", MARK], cwd="/"),
    shell("torch.utils.collect_env.run", command=f"touch {MARK}"),
    shell("os.system", command=f"touch {MARK}"),
    shell("subprocess.run", args=["touch", MARK]),
    shell("subprocess.check_output", _args_=[["touch", MARK]]),
    shell("pathlib.Path.touch", self=MARK),
    shell("builtins.open", file=MARK, mode="w"),
    shell("builtins.eval", _args_=[f"open('{MARK}', 'w')"]),
    shell("builtins.exec", _args_=[f"open('{MARK}', 'w')"]),
    shell("io.open", file=MARK, mode="w"),
    shell("logging.FileHandler", filename=MARK),
    shell("logging.os.system", command=f"touch {MARK}"),
    shell("torch.hub.load", repo_or_dir=MARK, model="x", source="local"),
    shell("torch.load", f=MARK, weights_only=False),
    shell("torch.save", obj=[], f=MARK),
    shell("torch.utils.data.DataLoader", dataset=[1]),
    shell("torch.serialization.os.system", command=f"touch {MARK}"),
    shell("torch._inductor.codecache.write", content="x", extension="py", specified_dir="/tmp"),
    shell("torchvision.io.write_file", filename=MARK, data=[]),
    shell("torchvision.transforms.v2.functional.to_image", inpt=MARK),
    shell("torchvision.transforms.v2.Transform"),
    shell("torchvision.transforms.v2._misc.Lambda", lambd="os.system"),
    shell("torchvision.datasets.utils.download_url", url="file:///etc/hostname", root="/tmp"),
    shell("hydra.utils.call", config={"_target_": "os.system", "command": f"touch {MARK}"}),
    shell("hydra.utils.instantiate", config={"_target_": "os.system", "command": f"touch {MARK}"}),
    shell("hydra.utils.get_method", path="os.system"),
    shell("hydra.utils.get_object", path="os.system"),
    shell("hydra._internal.utils._locate", path="os.system"),
    shell("pytorch_lightning.Trainer", default_root_dir=MARK),
    shell("pytorch_lightning.loggers.CSVLogger", save_dir=MARK),
    shell("pytorch_lightning.callbacks.ModelCheckpoint", dirpath=MARK),
    shell("pytorch_lightning.utilities.rank_zero.rank_zero_only", fn="os.system"),
    shell("optuna.create_study", storage=f"sqlite:///{MARK}"),
    shell("numpy.save", file=MARK, arr=[]),
    shell("shutil.copy", src="/etc/hostname", dst=MARK),
    shell("shutil.rmtree", path=MARK),
    shell("runpy.run_path", path_name=MARK),
    shell("importlib.import_module", name="antigravity"),
    shell("functools.partial", _args_=["os.system", f"touch {MARK}"]),
    shell("image_classifier.engine.runs.files.write_atomically", path=MARK, content="x"),
    shell("image_classifier.callbacks.report.Report", run_dir=MARK),
    shell("image_classifier.engine.loggers.csv.CSVLogger", run_dir=MARK),
    shell("image_classifier.engine.launch.objects.make", config={"_target_": "os.system", "command": f"touch {MARK}"}),
    shell("image_classifier.engine.checkpoint.build", node={"_target_": "os.system", "command": f"touch {MARK}"}),
    shell("image_classifier.engine.checkpoint.import_module", name="antigravity"),
    shell("image_classifier.models.timm.F.os.system", command=f"touch {MARK}"),
    shell("image_classifier.data.fashion_mnist.ensure_files", raw_dir=MARK, dataset="FashionMNIST"),
    shell("torch.optim.lr_scheduler.warnings.os.system", command=f"touch {MARK}"),
    shell("torch.nn.Module.load_state_dict"),
    shell("torch.optim.Optimizer"),
    shell("not.there.at.all"),
    shell(""),
    shell("torch.optim.Adam "),
    {"_target_": 5},
    {"_target_": ["os", "system"]},
    {"_target_": {"_target_": "os.system"}},
    shell("os.system", _partial_=True, command=f"touch {MARK}"),
    shell("os.system", _recursive_=False, _convert_="all", command=f"touch {MARK}"),
]
PLACES = ("model", "model.net", "model.net.hidden", "model.net.list", "model.optimizer", "model.scheduler.x", "data",
          "data.augmentation", "data.extra.deep.er", "precision", "anything")  # fmt: skip


def put(recipe: dict[str, Any], place: str, hostile: dict[str, Any]) -> None:
    *path, last = place.split(".")
    node: Any = recipe
    for key in path:
        if not isinstance(node.get(key), dict):
            node[key] = {}
        node = node[key]
    node[last] = [[hostile]] if last == "list" else hostile


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("trained")
    assert run(*TINY, *PLAIN, "test=false", f"hydra.run.dir={run_dir}").status == 0
    return run_dir / "checkpoints" / "last.ckpt"


@pytest.fixture
def good(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(trained, tmp_path / "good.ckpt"))


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    mark = tmp_path / "called"
    yield mark
    assert not mark.exists(), "something was called"


def marked(node: Any, mark: Path) -> Any:
    if isinstance(node, dict):
        return {key: marked(value, mark) for key, value in node.items()}
    if isinstance(node, list):
        return [marked(value, mark) for value in node]
    return node.replace(MARK, str(mark)) if isinstance(node, str) else node


def test_every_hostile_recipe_is_refused_wherever_it_hides(good: Path, mark: Path, tmp_path: Path) -> None:
    original = torch.load(good, weights_only=True)
    tried = 0
    for hostile in HOSTILE:
        for place in PLACES:
            checkpoint = original | {"recipe": copy.deepcopy(original["recipe"])}
            put(checkpoint["recipe"], place, marked(hostile, mark))
            torch.save(checkpoint, tmp_path / "bad.ckpt")
            with pytest.raises(UserError, match="known networks, data sets and optimizers but found") as caught:
                read_checkpoint(str(tmp_path / "bad.ckpt"))
            assert "\n" not in str(caught.value)
            tried += 1
    assert tried == len(HOSTILE) * len(PLACES) > 500


LIBRARIES = ("torch", "torchvision", "numpy", "hydra", "logging", "optuna", "pytorch_lightning")
HARMLESS = (Optimizer, LRScheduler, torch.nn.Module, v2.Transform)  # losses, metrics and transforms are modules


def public_callables() -> dict[str, Any]:
    """All that is imported of the libraries and can be called, by every name that it has there."""
    for name in (*LIBRARIES, "torch.hub", "torch.utils.collect_env", "logging.config", "logging.handlers"):
        import_module(name)
    return {
        f"{module}.{name}": value
        for module, content in sorted(sys.modules.items())
        if module.split(".")[0] in LIBRARIES
        for name, value in list(vars(content).items())
        if not name.startswith("_") and callable(value)
    }


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.sampled(every=6)
def test_nothing_of_the_libraries_is_called_that_is_not_on_the_list(
    good: Path, place: str, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    callables = public_callables()
    recipe, allowed = read_checkpoint(str(good))["recipe"], allowed_targets()
    monkeypatch.setattr(checkpoint_reader, "import_module", lambda name: pytest.fail(f"imported {name}"))
    accepted = set()
    for number, name in enumerate(callables):
        hostile = {"_target_": name} | ({}, {"_partial_": True}, {"_args_": ["a"]}, {"a": "${oc.env:HOME}"})[number % 4]
        put(recipe, place, hostile)
        try:
            check_targets(recipe, allowed, good)
            accepted.add(name)
        except UserError as error:
            assert name in str(error)  # and not another one
    assert len(callables) > 10_000
    assert accepted == allowed & set(callables)
    assert all(inspect.isclass(callables[name]) and issubclass(callables[name], HARMLESS) for name in accepted)
    record_property("callables at each place", len(callables))


@pytest.mark.sampled(every=5)
@pytest.mark.parametrize("way", ["eval", "predict", "export", "load_model", "train_false", "resume"])
@pytest.mark.parametrize("place", ["model.net", "model.optimizer", "data.augmentation", "anything"])
def test_every_way_in_refuses(
    good: Path, mark: Path, tmp_path: Path, compose_config: Callable[..., Any], way: str, place: str
) -> None:
    checkpoint = torch.load(good, weights_only=True)
    shutil.copy(good, tmp_path / "bad.ckpt")  # composing looks at it, too
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    given = [f"ckpt_path={tmp_path}/bad.ckpt", f"paths.run_dir={tmp_path}/second"]
    if way == "eval":
        work = partial(pipeline.evaluate, compose_config(*given, config_name="eval"))
    elif way == "predict":
        given += [f"input={tmp_path}/a.png", f"output={tmp_path}/p.csv"]
        work = partial(pipeline.predict, compose_config(*given, config_name="predict"))
    elif way == "export":
        given.append(f"output={tmp_path}/second/a.pt2")
        work = partial(pipeline.export, compose_config(*given, config_name="export"))
    elif way == "load_model":
        work = partial(inference.load_model, tmp_path / "bad.ckpt")
    else:
        given += ["train=false"] if way == "train_false" else []
        work = partial(pipeline.train, compose_config(*TINY, *PLAIN, *given))
    for hostile in HOSTILE[:12]:
        bad = checkpoint | {"recipe": copy.deepcopy(checkpoint["recipe"])}
        put(bad["recipe"], place, marked(hostile, mark))
        torch.save(bad, tmp_path / "bad.ckpt")
        with pytest.raises(UserError, match="known networks, data sets and optimizers but found"):
            work()
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_former_name_of_the_package_opens_no_way(
    good: Path, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: dict[str, Any]
) -> None:
    """A former name stands for the package and is held to the same list, even if it is that of another package."""
    monkeypatch.setattr(former_names, "FORMER_NAMES", ("leaf_sorter", "os", "torch"))
    target = hostile["_target_"]
    if isinstance(target, str):
        hostile = hostile | {"_target_": target.replace("image_classifier.", "leaf_sorter.")}
    checkpoint = torch.load(good, weights_only=True)
    put(checkpoint["recipe"], "anything", marked(hostile, mark))
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match="known networks, data sets and optimizers but found"):
        read_checkpoint(str(tmp_path / "bad.ckpt"))


@pytest.mark.parametrize("command", ["eval", "export", "load_run", "train=false"])
def test_a_checkpoint_does_not_say_where_decoded_pictures_are_written(
    command: str, tmp_path: Path, mark: Path, compose_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = write_folder(tmp_path / "pictures", 6)
    data = (
        "data=image_folder",
        f"data.root={pictures}",
        "data.image_size=16",
        "data.batch_size=4",
        "data.num_workers=0",
    )
    tiny = [override for override in TINY if not override.startswith("data")]
    assert run(*tiny, *data, *PLAIN, "test=false", f"hydra.run.dir={tmp_path}/trained").status == 0
    path = tmp_path / "trained" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["recipe"]["data"]["cache"] = str(mark)
    torch.save(checkpoint, path)
    if command == "load_run":
        pipeline.load_run(str(path))[1].setup("test")
        pipeline.load_run(str(path), {"cache": str(tmp_path / "mine")})[1].setup("test")
        assert list((tmp_path / "mine").glob("*.pixels"))
    elif command == "train=false":
        pipeline.train(compose_config(*tiny, *PLAIN, "train=false", f"ckpt_path={path}"))
    else:
        cfg = compose_config(f"ckpt_path={path}", f"paths.run_dir={tmp_path}/{command}", config_name=command)
        pipeline.evaluate(cfg) if command == "eval" else pipeline.export(cfg)


def test_strings_stay_strings(good: Path, tmp_path: Path, compose_config: Callable[..., Any]) -> None:
    """An interpolation in a recipe is text: no resolver runs, no environment variable is read."""
    called: list[str] = []
    OmegaConf.register_new_resolver("leak", lambda: called.append("called") or "x", replace=True)
    checkpoint = torch.load(good, weights_only=True)
    checkpoint["recipe"]["model"]["monitor"] = "${leak:}"
    checkpoint["recipe"]["precision"] = "32-true"
    torch.save(checkpoint, tmp_path / "odd.ckpt")
    model, _ = pipeline.load_run(str(tmp_path / "odd.ckpt"))
    assert model.optimization.monitor == "${leak:}" and called == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "written by train.py but found"),
        (lambda path: path.write_bytes(b""), "written by train.py but found"),
        (lambda path: torch.save({"state_dict": {}}, path), "holds no recipe"),
        (lambda path: torch.save([1, 2], path), "holds no recipe"),
        (
            lambda path: torch.save({"recipe": {"model": {}, "data": {}}}, path),
            "this version of the project can rebuild",
        ),
        (lambda path: path.unlink(), "expected a checkpoint file but found none"),
    ],
)
def test_foreign_and_damaged_files_are_told(good: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(good)
    with pytest.raises(UserError, match=message) as caught:
        pipeline.load_run(str(good))
    assert "\n" not in str(caught.value)


def test_what_this_machine_trusts_by_name_is_built(good: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(good, weights_only=True)
    net = checkpoint["recipe"]["model"]["net"]
    net["_target_"] = "torch.nn.Flatten"
    torch.save(checkpoint, tmp_path / "own.ckpt")
    with pytest.raises(UserError, match=r"'torch.nn.Flatten'.*trusted: \[torch.nn.Flatten\]"):
        read_checkpoint(str(tmp_path / "own.ckpt"))
    with pytest.raises(UserError):
        read_checkpoint(str(tmp_path / "own.ckpt"), ["torch.nn.*", "torch.*"])  # a package is never enough
    assert read_checkpoint(str(tmp_path / "own.ckpt"), ["torch.nn.Flatten"])


def test_the_list_holds_every_model_and_data_set_of_the_project_and_of_torch() -> None:
    allowed = allowed_targets()
    for group in ("model", "data"):
        for file in Path(CONFIG_DIR, group).glob("*.yaml"):
            cfg = OmegaConf.load(file)
            for key in ("_target_", "net._target_", "augmentation._target_"):
                target = OmegaConf.select(cfg, key)
                assert target is None or target in allowed
    assert {"torch.optim.SGD", "torch.optim.lr_scheduler.OneCycleLR", "torch.nn.CrossEntropyLoss"} <= allowed
    assert not [name for name in allowed if "*" in name]


def test_rebuilding_for_prediction_makes_neither_data_nor_optimizer(
    good: Path, tmp_path: Path, compose_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("made")

    for name in ("image_classifier.data.synthetic.Synthetic.__init__", "torch.optim.AdamW.__init__"):
        monkeypatch.setattr(name, never)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    given = [f"ckpt_path={good}", f"input={tmp_path}/a.png", f"output={tmp_path}/p.csv"]
    pipeline.predict(compose_config(*given, f"paths.run_dir={tmp_path}/p", config_name="predict"))
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 2
