#!/bin/bash
# tiny.bundle on 8 ranks, 2 x 4. Written by moec 0.1.0.
#BSUB -J tiny
#BSUB -n 8
#BSUB -R "span[ptile=4]"
#BSUB -R "affinity[core(8)]"
#BSUB -gpu "num=4"
#BSUB -R "rusage[mem=262144MB/host]"
#BSUB -W 720
#BSUB -wa USR1
#BSUB -wt 4
#BSUB -q normal
#BSUB -P physics
#BSUB -r
#BSUB -Q 75
#BSUB -o tiny-%J.log

cd /scratch/me || exit 74
export OMP_NUM_THREADS=8
out=runs/tiny

# A run goes on from the checkpoint in "$out", or starts where there is none.
run=(/opt/moec/bin/python -m moec run tiny.bundle --out "$out" --resume --data 'corpus dir/a.jsonl')

ranks=(mpirun -n 8 --map-by ppr:4:node:PE=8 --rank-by slot
       --bind-to core
       --hostfile "$LSB_DJOB_HOSTFILE"
       --with-ft ulfm
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

run_ranks "${ranks[@]}"
# LSF puts a job that ends with 75 back into the queue, however often: the script counts.
if [ "$rc" -eq 75 ]; then
    count=.tiny-$LSB_JOBID.restarts
    echo >> "$count"
    if [ "$(wc -l < "$count")" -le 100 ]; then
        echo "moec: stopped early and saved: job $LSB_JOBID goes back into the queue"
    else
        echo "moec: stopped early and saved, after 100 restarts: submit it again to go on"
        rc=1
    fi
fi
exit "$rc"
