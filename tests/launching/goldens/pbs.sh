#!/bin/bash
# tiny.bundle on 8 ranks, 2 x 4. Written by moec 0.1.0.
#PBS -N tiny
#PBS -l select=2:ncpus=32:mpiprocs=4:ngpus=4:mem=262144mb
#PBS -l place=scatter
#PBS -l walltime=12:00:00
#PBS -q workq
#PBS -A physics
#PBS -r y
#PBS -j oe

cd /scratch/me || exit 74
export OMP_NUM_THREADS=8
out=runs/tiny

# A run goes on from the checkpoint in "$out", or starts where there is none.
run=(/opt/moec/bin/python -m moec run tiny.bundle --out "$out" --resume --data 'corpus dir/a.jsonl')
exec >> tiny.log 2>&1

ranks=(mpirun -n 8 --map-by ppr:4:node:PE=8 --rank-by slot
       --bind-to socket
       --hostfile "$PBS_NODEFILE"
       -x OMP_NUM_THREADS "${run[@]}")

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

# PBS has no early signal. The script sends it, 180 s before the time that it asks for above.
run_ranks timeout --foreground --preserve-status --signal=USR1 $((43020 - SECONDS)) "${ranks[@]}"
if [ "$rc" -eq 75 ]; then
    if [ "${MOEC_RESTARTS:-0}" -lt 100 ]; then
        echo "moec: stopped early and saved: the job is submitted again"
        qsub -v MOEC_RESTARTS=$((${MOEC_RESTARTS:-0} + 1)) /scratch/me/job.sh
    else
        echo "moec: stopped early and saved, after 100 restarts: submit it again to go on"
    fi
fi
exit "$rc"
