# shellcheck shell=bash
# What slurm/*.sh share: where scaledl is, how ranks are laid out, how they are stopped, and whether to start again.
# The scripts source it from the project, because sbatch copies away nothing but the script itself.
#
# SCALEDL_VENV                   the environment with scaledl; default: .venv in the project, else what is on PATH
# SCALEDL_CONTAINER              or a prefix for every scaledl command: "apptainer exec --nv image.sif"
# SCALEDL_MAX_STALLED_RESTARTS   give up after so many restarts in a row without a new step (2)
# SCALEDL_REQUEUE_SECONDS        how long to try to requeue where Slurm does not answer (300)

stage_steps=1000000000000 # more than a stage can have
stop=""     # the signal that asked this job to stop
step_pid="" # srun, or what runs instead of it, while it runs
launcher=() # what stands before scaledl: srun and its arguments, where it is to run on all ranks
workers="the ranks"
restart="${SLURM_RESTART_COUNT:-0}"
job="${SLURM_JOB_ID:-}"
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" # one element; a bare number may mean the whole array
fi

say() { echo "batch script: $*" >&2; }
die() {
    say "$2"
    exit "$1"
}

# scaledl as an array: the command, and what has to stand before it.
find_scaledl() {
    scaledl=(scaledl)
    if [ -n "${SCALEDL_CONTAINER:-}" ]; then
        read -r -a scaledl <<<"$SCALEDL_CONTAINER scaledl"
        command -v "${scaledl[0]}" >/dev/null ||
            die 2 "${scaledl[0]} was not found, which SCALEDL_CONTAINER begins with: load its module, or unset it"
    elif [ -n "${SCALEDL_VENV:-}" ] || [ -d .venv ]; then
        local venv="${SCALEDL_VENV:-$PWD/.venv}"
        [ -x "$venv/bin/scaledl" ] ||
            die 2 "no scaledl in $venv: make it with 'make demo', or set SCALEDL_VENV to the right environment"
        # shellcheck source=/dev/null
        . "$venv/bin/activate"
    elif ! command -v scaledl >/dev/null; then
        die 2 "no .venv in $PWD and no scaledl on PATH: submit from the project's folder, or set SCALEDL_VENV"
    fi
}

# The arguments of srun: one rank for each GPU of a node, else as many as were asked for.
lay_out_ranks() {
    local nodes="${SLURM_JOB_NUM_NODES:-1}" gpus="${SLURM_GPUS_ON_NODE:-0}" cpus="${SLURM_CPUS_PER_TASK:-1}"
    local each="${SLURM_NTASKS_PER_NODE:-}" tasks="${SLURM_NTASKS:-1}"
    layout=(--nodes="$nodes" --kill-on-bad-exit=1 --cpu-bind=cores --export=ALL)
    # Every rank sees all GPUs of its node and picks its own: NCCL needs to see its peers'.
    [ -z "${SLURM_GPUS_PER_TASK:-}" ] || die 2 "--gpus-per-task hides GPUs from NCCL: use --gpus-per-node"
    if [ "${each:-1}" -eq 1 ] && [ "$gpus" -gt 1 ]; then
        each="$gpus"
        cpus="$((${SLURM_CPUS_ON_NODE:-$gpus} / gpus))"
        [ "$cpus" -gt 0 ] || die 2 "$gpus GPUs but $SLURM_CPUS_ON_NODE CPUs on a node: add --cpus-per-task=$((4 * gpus))"
    fi
    if [ -n "$each" ]; then
        tasks="$((nodes * each))"
        layout+=(--ntasks-per-node="$each")
    fi
    layout+=(--ntasks="$tasks" --cpus-per-task="$cpus")
    launcher=(srun "${layout[@]}")
    export SRUN_CPUS_PER_TASK="$cpus" # from Slurm 22.05 on, srun does not take it over from sbatch by itself
}

# A collective that waits for a lost peer ends with an error, and what each rank did last is kept (torch >= 2.11).
set_nccl() {
    export TORCH_NCCL_ASYNC_ERROR_HANDLING="${TORCH_NCCL_ASYNC_ERROR_HANDLING:-3}"
    export TORCH_NCCL_DUMP_ON_TIMEOUT="${TORCH_NCCL_DUMP_ON_TIMEOUT:-1}"
    export TORCH_FR_BUFFER_SIZE="${TORCH_FR_BUFFER_SIZE:-2000}"
    export TORCH_FR_DUMP_TEMP_FILE="${TORCH_FR_DUMP_TEMP_FILE:-$SCALEDL_STATUS_DIR/nccl-trace-}"
    export TORCH_NCCL_DEBUG_INFO_TEMP_FILE="${TORCH_NCCL_DEBUG_INFO_TEMP_FILE:-$TORCH_FR_DUMP_TEMP_FILE}" # its older name
}

on_signal() {
    signalled=1
    # Always USR1: srun forwards it to all ranks, while a TERM would make it kill them.
    [ -z "$step_pid" ] || kill -s USR1 "$step_pid" 2>/dev/null || :
    [ -z "$stop" ] || return 0
    stop="$1"
    say "SIG$1 came with $(time_left) left: $workers save and leave"
}

time_left() {
    local left
    left="$(timeout 5 squeue --noheader --jobs="${SLURM_JOB_ID:-}" --format=%L 2>/dev/null)" || left=""
    echo "${left:-an unknown time}"
}

# Runs `scaledl "$@"`, on all ranks where they are laid out; its exit code in `code`.
run_step() {
    code=143
    [ -z "$stop" ] || return 0
    ${launcher[@]+"${launcher[@]}"} "${scaledl[@]}" "$@" &
    step_pid=$!
    [ -z "$stop" ] || kill -s USR1 "$step_pid" || : # it came just now
    while signalled=""; do
        code=0
        wait "$step_pid" || code=$?
        [ -n "$signalled" ] || break # else `wait` may have returned because of the signal
    done
    step_pid=""
}

# How the step ended, from what the ranks' guardians wrote: `verdict`, and in words `reason`.
# srun's own code does not carry it: after a kill -9 it may say 143, and the first rank that leaves decides.
judge() {
    local file key value base step start
    local -A seen=() exits=()
    reached=0 began=0
    for file in "$SCALEDL_STATUS_DIR"/cause-*.status "$SCALEDL_STATUS_DIR"/rank-*.status; do
        [ -r "$file" ] || continue
        local -A rank=()
        while IFS="=" read -r key value; do rank[${key:-none}]="$value"; done <"$file"
        case "${rank[launch]:-}" in
            slurm-"$SLURM_JOB_ID".*-r"$restart") ;;
            *) continue ;; # of an earlier attempt
        esac
        value="${rank[status]:-unknown}"
        [ "$value" != complete ] || [ "${rank[rank]:-}" = 0 ] || continue # rank 0 does what comes after the training
        base="$((${rank[stage]:-0} * stage_steps))" # the steps of each stage count from 0
        step="$((base + ${rank[step]:-0}))" start="$((base + ${rank[start_step]:-0}))"
        [ "$step" -le "$reached" ] || reached="$step"
        [ "$start" -le "$began" ] || began="$start"
        exits[$value]="${exits[$value]:-${rank[exit]:-}}" # a cause may be written before its rank has a code
        [ -z "${seen[$value]:-}" ] || continue
        seen[$value]="rank ${rank[rank]:-?} on ${rank[host]:-?}, step ${rank[step]:-0}${rank[signal]:+, ${rank[signal]}}\
${rank[message]:+: ${rank[message]}}"
    done
    for verdict in complete refused killed hung failed interrupted preempted; do
        [ -n "${seen[$verdict]:-}" ] || continue
        reason="$verdict: ${seen[$verdict]}"
        code="${exits[$verdict]:-$code}"
        return 0
    done
    judge_code # no rank said how it ended
}

judge_code() {
    case "$code" in
        0) verdict=complete ;;
        2 | 3 | 126 | 127) verdict=refused ;;
        75) verdict=preempted ;;
        130) verdict=interrupted ;;
        1) verdict=failed ;;
        *) verdict=killed ;;
    esac
    [ -z "$stop" ] || [ "$code" -le 128 ] || verdict=preempted
    reason="$verdict: ${launcher[0]:-scaledl} ended with $code"
}

# Counts restarts in a row without progress, in a file beside the ranks'. False when there were too many.
may_restart() {
    local value file="$SCALEDL_STATUS_DIR/restarts" best=0 stalled=0 most="${SCALEDL_MAX_STALLED_RESTARTS:-2}"
    [ ! -r "$file" ] || read -r best stalled <"$file" || :
    if [ "$reached" -gt "$best" ] || { [ "$verdict" = preempted ] && [ "$reached" -gt "$began" ]; }; then
        best="$reached" stalled=0
    else
        stalled="$((stalled + 1))"
    fi
    echo "$best $stalled" >"$file" || say "cannot count restarts in $file"
    if [ "$stalled" -gt "$most" ]; then
        value=""
        [ "$best" -lt "$stage_steps" ] || value="stage $((best / stage_steps)), "
        say "not started again: $most restarts in a row got no further than ${value}step $((best % stage_steps))"
        return 1
    fi
}

# True when the job is to run again; else `cause` says why not. A silent or lost slurmctld is tried again for a while.
requeue() {
    local limit="${SCALEDL_REQUEUE_SECONDS:-300}" pause=2 state failed
    local deadline="$((SECONDS + limit))" patience="$((limit < 30 ? limit : 30))"
    while :; do
        failed=0
        state="$(timeout "$patience" scontrol --oneliner show job "$job" 2>&1)" || failed=$?
        if [ "$failed" -eq 0 ]; then
            [[ "$state" != *" JobState=PENDING "* ]] || return 0 # somebody else requeued it
            ! [[ "$state" =~ \ Restarts=([0-9]+) ]] || [ "${BASH_REMATCH[1]}" -le "$restart" ] || return 0
            if [[ "$state" == *JobState=COMPLETING* || "$state" == *JobState=CANCELLED* ]]; then
                cause="Slurm is ending this job: it was cancelled, or ran out of time"
                return 1
            fi
            state="$(timeout "$patience" scontrol requeue "$job" 2>&1)" || failed=$?
            [ "$failed" -ne 0 ] || return 0
        fi
        cause="scontrol said: ${state:-nothing}"
        case "$failed:$state" in
            124:*) cause="scontrol did not answer within $patience s" ;;
            127:* | 126:*) cause="scontrol was not found on this node" && return 1 ;;
            *disabled*) cause="Slurm does not allow it; was it submitted with --no-requeue? ($state)" && return 1 ;;
            *Invalid* | *denied* | *"not supported"*) return 1 ;;
        esac
        [ "$((SECONDS + pause))" -lt "$deadline" ] || return 1
        say "requeue failed, trying again in $pause s: $cause"
        sleep "$pause"
        [ "$pause" -ge 30 ] || pause="$((pause * 2))"
    done
}

# Everything: `scaledl "$@"` on all ranks, and requeue where that helps. Does not return.
run_job() {
    trap_signals
    lay_out_ranks
    set_nccl
    run_step "$@"
    end_job "$1"
}

# The same for a verb that brings its own processes to the other nodes: it runs once, here.
run_job_here() {
    workers="trials"
    trap_signals
    run_step "$@"
    end_job "$1"
}

trap_signals() {
    trap 'on_signal USR1' USR1
    trap 'on_signal TERM' TERM
}

# Tells how `scaledl VERB` ended, and requeues where that helps. Does not return.
end_job() {
    local same_run=""
    [[ "$1" != train && "$1" != tune ]] || same_run=" with run.id=$job" # a run's id is the job's where none is given
    trap '' USR1 TERM # nothing is left to stop
    judge
    case "$verdict" in
        complete)
            rm -rf -- "$SCALEDL_STATUS_DIR"
            exit 0
            ;;
        refused | interrupted) die "$code" "$reason; not started again" ;;
    esac
    say "$reason"
    may_restart || exit "$([ "$verdict" = preempted ] && echo 75 || echo "$((code ? code : 1))")"
    requeue || die 75 "not requeued: $cause. What was saved is kept; to go on, submit the same command again$same_run"
    say "requeued: restart $((restart + 1)) of job $job goes on from the last checkpoint"
    exit 75
}

[ -n "$job" ] || die 2 "this is no Slurm job: start it with sbatch, or use launch/local.sh without Slurm"
command -v srun >/dev/null || die 2 "srun was not found: this node cannot start the ranks; without Slurm use launch/local.sh"
find_scaledl
export SCALEDL_STATUS_DIR="$PWD/runs/.slurm/$job"
mkdir -p -- "$SCALEDL_STATUS_DIR" || die 2 "cannot make $SCALEDL_STATUS_DIR: submit from a folder that all nodes can write"
