#!/usr/bin/env bash
# Runs recipe=slurm on the nodes of a Slurm allocation; what stands behind the script's name are overrides.
#
#   sbatch --nodes=4 slurm.sbatch.sh worker.nproc=8
#
# The commands must be on the PATH of the nodes (`. .venv/bin/activate` before sbatch), and the working directory shared.
#SBATCH --job-name=orchestrate
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --signal=USR1@60
set -euo pipefail

# In the environment, and not on a command line, where everybody on the nodes could read it.
REDIS_PASSWORD=$(od -An -tx1 -N16 /dev/urandom | tr -d ' \n')
ORCHESTRATE_HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
ORCHESTRATE_PORT=${ORCHESTRATE_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
export REDIS_PASSWORD ORCHESTRATE_HEAD ORCHESTRATE_PORT

# One task on each node. The first begins the run; the others join it as soon as it is there. SLURM_STEP_ID is srun's.
exec srun --ntasks-per-node=1 --kill-on-bad-exit=0 bash -c '
  if [ "$SLURM_NODEID" -eq 0 ]; then
    exec orchestrate recipe=slurm "rendezvous.listen=0.0.0.0:$ORCHESTRATE_PORT" "$@"
  fi
  run=("redis://$ORCHESTRATE_HEAD:$ORCHESTRATE_PORT" "$SLURM_JOB_ID.$SLURM_STEP_ID")
  for ((waited = 0; waited < 300; waited++)); do
    orchestratectl status "${run[@]}" >/dev/null 2>&1 && break
    sleep 1
  done
  exec orchestratectl join "${run[@]}"
' orchestrate "$@"
