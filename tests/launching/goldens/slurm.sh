#!/bin/bash
# tiny.bundle on 8 ranks, 2 x 4. Written by moec 0.1.0.
#SBATCH --job-name=tiny
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=4
#SBATCH --mem=262144M
#SBATCH --partition=long
#SBATCH --account=physics
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --output=tiny-%j.log
#SBATCH --open-mode=append
#SBATCH --qos=high

cd /scratch/me || exit 74
type module > /dev/null 2>&1 || . /etc/profile
module load openmpi/5.0 || exit 78
module load python || exit 78
eval 'source ~/env/bin/activate' || exit 78
export OMP_NUM_THREADS=8
out=runs/tiny

# A run goes on from the checkpoint in "$out", or starts where there is none.
run=(/opt/moec/bin/python -m moec run tiny.bundle --out "$out" --resume --data 'corpus dir/a.jsonl')

# --mpi is the one of the MPI library; with another one every rank would be a job of its own. A rank that fails
# ends the job: others would wait for it.
ranks=(srun --ntasks=8 --ntasks-per-node=4 --cpus-per-task=8
       --cpu-bind=cores
       --mpi=pmix
       --kill-on-bad-exit=1 "${run[@]}")

# USR1 tells the ranks to save and stop; it is passed on to whom starts them, and the script waits for the end.
tell() {
    told=1
    [ -z "$starter" ] || kill -USR1 "$starter" 2> /dev/null
}
told= starter=
trap tell USR1

run_ranks() {
    verdict=$(stamp)
    "$@" &
    starter=$!
    while :; do
        told=
        wait "$starter"
        rc=$?
        { [ -n "$told" ] && [ "$rc" -gt 128 ]; } || break  # else a signal ended the wait, not the ranks
    done
    settle
}

# Launchers make other exit codes of those of ranks: what the run has written of its own end counts.
settle() {
    [ "$(stamp)" != "$verdict" ] || return  # it is of an earlier start
    local said
    said=$(sed -n 's/^ *"exit_code": \([0-9][0-9]*\),\{0,1\}$/\1/p' -- "$out/run_status.json")
    if [ -n "$said" ]; then
        rc=$said
    elif [ "$rc" -eq 0 ]; then
        rc=88  # it ended, and nobody has said so: a rank was lost
    fi
}

stamp() {
    stat -c '%i %y' -- "$out/run_status.json" 2> /dev/null
}

run_ranks "${ranks[@]}"
if [ "$rc" -eq 75 ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
        echo "moec: stopped early and saved: job $SLURM_JOB_ID goes back into the queue"
        scontrol requeue "$SLURM_JOB_ID"
    else
        echo "moec: stopped early and saved, after 100 restarts: submit it again to go on"
    fi
fi
exit "$rc"
