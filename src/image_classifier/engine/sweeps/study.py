"""An Optuna study that survives being killed, and its pictures."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import optuna
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import InterpolationResolutionError
from optuna.study import Study
from optuna.trial import TrialState

from image_classifier.engine.sweeps.objectives import objectives
from image_classifier.engine.terminal import say

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted"  # marks a trial whose process died; a new trial repeats it


class OptunaStudy(Callback):
    """Hydra callback; in `configs/sweep/optuna.yaml`."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            study = existing_study(config)
        except InterpolationResolutionError as error:  # the URL cannot be made
            say(f"error: {str(error).partition('interpolation: ')[2].splitlines()[0]}", sys.stderr)
            sys.exit(2)
        if study is None:
            return
        repeat_interrupted_trials(study)
        done = [trial for trial in study.trials if trial.state.is_finished() and INTERRUPTED not in trial.user_attrs]
        set_for_all_jobs(config, "hydra.sweeper.n_trials", max(config.hydra.sweeper.n_trials - len(done), 0))
        seed = OmegaConf.select(config, "hydra.sweeper.sampler.seed")
        if seed is not None:  # the same seed would draw the same trials again
            set_for_all_jobs(config, "hydra.sweeper.sampler.seed", (seed + len(study.trials)) % 2**32)
        say(f"The study has {len(done)} trials; {config.hydra.sweeper.n_trials} are left to run")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if isinstance(sys.exc_info()[1], SystemExit):
            return  # the sweep never started
        study = existing_study(config)
        if study is not None:
            save_pictures(study, list(objectives(config)), Path(config.hydra.sweep.dir))


def existing_study(config: DictConfig) -> Study | None:
    try:
        return optuna.load_study(study_name=config.hydra.sweeper.study_name, storage=config.hydra.sweeper.storage)
    except KeyError:
        return None


def repeat_interrupted_trials(study: Study) -> None:
    """Fail the trials that a killed sweep left running, and queue their parameters: their jobs resume."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.params:
            study.enqueue_trial(trial.params)
        study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
        study.tell(trial.number, state=TrialState.FAIL)


def set_for_all_jobs(config: DictConfig, key: str, value: Any) -> None:
    """Change a setting of Hydra's, also in the overrides from which the configuration of each job is composed."""
    with read_write(config.hydra), open_dict(config.hydra):
        OmegaConf.update(config, key, value)
        config.hydra.overrides.hydra.append(f"{key}={value}")


def save_pictures(study: Study, names: list[str], directory: Path) -> None:
    """Save history, importances and parallel coordinates of each objective, and the trade-offs between several.

    Optuna draws with pyplot; each figure is taken from pyplot's list again, where it would stay until the end.
    """
    if not any(trial.values for trial in study.trials):
        return
    import matplotlib as mpl

    mpl.use("Agg")  # also on a desktop: no windows
    from optuna.visualization import matplotlib as plots

    for index, name in enumerate(names):
        suffix = f"_{name.replace('/', '_')}" if len(names) > 1 else ""
        target: dict[str, Any] = {}
        if len(names) > 1:
            target = {"target": lambda trial, index=index: trial.values[index]}
        label = {"target_name": name}
        save(directory / f"optuna_history{suffix}.png", plots.plot_optimization_history, study, **target, **label)
        save(directory / f"optuna_importances{suffix}.png", plots.plot_param_importances, study, **target, **label)
        save(directory / f"optuna_parallel{suffix}.png", plots.plot_parallel_coordinate, study, **target, **label)
    if len(names) > 1:
        save(directory / "optuna_trade_offs.png", plots.plot_pareto_front, study, target_names=names)


def save(path: Path, plot: Any, study: Study, **settings: Any) -> None:
    from matplotlib import rc_context
    from matplotlib._pylab_helpers import Gcf

    # The functions warn that they are experimental, and set a style for whatever is drawn afterwards.
    with warnings.catch_warnings(), rc_context():
        warnings.simplefilter("ignore")
        try:
            axes = plot(study, **settings)
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            log.warning(f"{path.name} cannot be drawn from so few or so equal trials: {error}")
            return
        figure = getattr(axes, "flat", [axes])[0].figure
        for other in figure.axes[1:]:
            other.patch.set_visible(False)  # the axes of the parallel coordinates would hide the lines
        figure.savefig(path, bbox_inches="tight", dpi=100)
        Gcf.destroy_fig(figure)
