#!/bin/bash
# tiny.bundle on 8 ranks, 2 x 4. Written by moec 0.1.0.

cd /scratch/me || exit 74
export OMP_NUM_THREADS=1
out=runs/tiny

# A run goes on from the checkpoint in "$out", or starts where there is none.
run=(/opt/moec/bin/python -m moec run tiny.bundle --out "$out" --resume --data 'corpus dir/a.jsonl')
echo "output goes to" tiny.log
exec >> tiny.log 2>&1

ranks=(mpirun -n 8 -ppn 4
       -bind-to socket
       -hosts node-1,node-2
       "${run[@]}")

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

# TERM and HUP are for the whole: the ranks save and stop, and are not started again.
ended=
trap 'ended=1; tell' TERM HUP

restarts=0 rc=75
while :; do
    run_ranks "${ranks[@]}"
    { [ "$rc" -eq 75 ] && [ -z "$ended" ]; } || break
    if [ "$restarts" -ge 100 ]; then
        echo "moec: stopped early and saved, after 100 restarts: start it again to go on"
        break
    fi
    restarts=$((restarts + 1))
    echo "moec: stopped early and saved: restart $restarts"
done
exit "$rc"
