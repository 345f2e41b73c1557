#!/bin/bash
# The actors of a run, an array of jobs of SLURM; see learner.sh. One that fails may be submitted again by its number:
#
#   sbatch --array=3 examples/slurm/actors.sh
#SBATCH --job-name=pirl-actor
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --output=%x-%A-%a.log
set -euo pipefail

read -r -a extra <<< "${PIRL_ARGUMENTS:-}"
for ((waited = 0; waited < ${PIRL_LEARNER_WAIT_S:-3600}; waited++)); do
  [[ -s $PIRL_RUN.learner-host ]] && break
  sleep 1
done
host=$(< "$PIRL_RUN.learner-host")

srun python -m pirl.actor --config_path "$PIRL_CONFIG" "--output_dir=$PIRL_RUN" --rank "$SLURM_ARRAY_TASK_ID" \
  "--runtime.host=$host" "${extra[@]}"
