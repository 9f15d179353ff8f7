#!/bin/bash
# Workers of one study as a Slurm array: sbatch --array=0-15 deploy/hpo/slurm.sh STUDY. See docs/pages/howto/tune.md.
#SBATCH --job-name=tune
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
# A task that is requeued has the same array and task number, so its worker has the same name and gets its trial again.
set -eu
: "${QSTREAM_BOOTSTRAP_SERVERS:?must name the brokers, as kafka:9092}"
# exec: the SIGTERM before the time limit goes to the worker, which stops its command and hands the trial back.
exec qstream hpo worker "$1" --grace 60s --logs "trials/$1" --command 'python train.py {args} --out {study}/{trial}'
