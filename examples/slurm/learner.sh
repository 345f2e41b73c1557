#!/bin/bash
# The learner of a run on one or several GPU machines, as one job of SLURM:
#
#   export PIRL_CONFIG=pirl_libero_10.yaml PIRL_RUN=/shared/runs/first PIRL_TOKEN=...
#   sbatch --nodes=2 --gpus-per-node=8 examples/slurm/learner.sh
#   sbatch --array=0-15 examples/slurm/actors.sh
#
# The config says parallelism.dp_replicate (machines times processes on each), runtime.actors (the size of the array),
# runtime.config_identity=hash, runtime.reconnect_s (how long actors wait for a learner that is submitted again), and
# runtime.tls_cert or runtime.insecure; PIRL_RUN is on a file system that all machines see. Submitted again, the learner
# goes on from its last checkpoint. PIRL_ARGUMENTS: further fields, for both scripts.
#SBATCH --job-name=pirl-learner
#SBATCH --ntasks-per-node=1
#SBATCH --output=%x-%j.log
set -euo pipefail

processes=${PIRL_PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
read -r -a extra <<< "${PIRL_ARGUMENTS:-}"
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

last=$PIRL_RUN/checkpoints/last/pretrained_model/train_config.json
if [[ -e $last ]]; then
  config=(--config_path "$last" --resume=true)
else
  config=(--config_path "$PIRL_CONFIG" "--output_dir=$PIRL_RUN")
fi

# Beside the run and not in it: a new run wants its folder empty. Actors wait for this file.
echo "$host" > "$PIRL_RUN.learner-host"

# Static: the process of rank 0, which actors dial, is on the first machine. SLURM_NODEID is known inside srun only.
export PIRL_MASTER=$host PIRL_PROCESSES=$processes
srun bash -c 'exec python -m torch.distributed.run --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" \
  --master-addr "$PIRL_MASTER" --master-port "${PIRL_MASTER_PORT:-29500}" --nproc-per-node "$PIRL_PROCESSES" \
  -m pirl.learner "$@"' learner "${config[@]}" "--runtime.host=$host" "${extra[@]}"
