#!/bin/bash
# Data-parallel training on a Slurm cluster: one process per GPU, one run directory for all of them.
#
#   sbatch scripts/slurm_train.sh experiment=... trainer.max_epochs=20          two nodes with four GPUs each
#   sbatch --nodes=1 --ntasks-per-node=2 --gpus-per-node=2 scripts/slurm_train.sh      what stands here may be changed
#   sbatch --nodes=2 --ntasks-per-node=1 --gpus-per-node=0 scripts/slurm_train.sh trainer.accelerator=cpu
#
# The arguments are overrides, as after `python train.py`; trainer.devices and trainer.num_nodes come from Slurm.
# The project, with .venv, data/ and outputs/, must lie on a file system that all nodes share.
#SBATCH --job-name=image-classifier
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --output=slurm-%j.log

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this with: sbatch scripts/slurm_train.sh}"

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
# A fixed directory: a job that Slurm starts again goes on where it was.
run_dir="outputs/train/slurm_${SLURM_JOB_ID}"
resume=()
if [[ -f "$run_dir/checkpoints/last.ckpt" ]]; then
    resume=("ckpt_path=$run_dir/checkpoints/last.ckpt")
fi

# --kill-on-bad-exit: when one process fails, the others would wait for it. (exec: scancel reaches srun directly.)
exec srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    .venv/bin/python train.py trainer=ddp "hydra.run.dir=$run_dir" "${resume[@]}" "$@"
