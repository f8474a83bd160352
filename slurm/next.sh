# shellcheck shell=bash disable=SC2154 # job and scaledl come from common.sh
# A chain of jobs: `--then compress` in the arguments of slurm/train.sh.

next=""        # the script that follows
arguments=()   # of `scaledl train`
next_options=() # of the script that follows: --method, --recipe
described=()   # the arguments that tell what the run will be, as `scaledl config` takes them

# Sorts the arguments of train.sh; --then may stand anywhere among them.
take_next() {
    while [ "$#" -gt 0 ]; do
        case "$1" in
            --then | --method | --recipe | --id | --name)
                [ "$#" -gt 1 ] || die 2 "$1 needs a value"
                take_option "$1" "$2"
                shift
                ;;
            --then=* | --method=* | --recipe=* | --id=* | --name=*) take_option "${1%%=*}" "${1#*=}" ;;
            *)
                arguments+=("$1")
                [[ "$1" == -* ]] || described+=("$1")
                ;;
        esac
        shift
    done
    [ -n "$next" ] || [ "${#next_options[@]}" -eq 0 ] || die 2 "${next_options[0]} belongs to --then compress"
}

take_option() {
    case "$1" in
        --then)
            [ "$2" = compress ] || die 2 "--then: got '$2'; allowed: compress"
            next="$2"
            ;;
        --method | --recipe) next_options+=("$1" "$2") ;;
        *)
            arguments+=("$1" "$2")
            described+=("run.${1#--}=$2")
            ;;
    esac
}

# Submits the next job, once, with the nodes, CPUs and GPUs of this one: it starts when this one has ended well, and is
# dropped when that can no longer be.
submit_next() {
    local config note="$SCALEDL_STATUS_DIR/then" run_id root submitted
    [ ! -e "$note" ] || return 0 # this is a restart
    config="$("${scaledl[@]}" config show "${described[@]}")" || exit 2
    run_id="$(key_of "$config" id)"
    root="$(key_of "$config" root)"
    if [[ "${#next_options[@]}" -eq 0 && "$config" == *$'\n  stages: []\n'* ]]; then
        die 2 "--then compress: the config has no compress.stages; add --method distill,prune,qat"
    fi
    local options=(--dependency="afterok:$job" --kill-on-invalid-dep=yes)
    same_as --partition "${SLURM_JOB_PARTITION:-}"
    same_as --account "${SLURM_JOB_ACCOUNT:-}"
    same_as --qos "${SLURM_JOB_QOS:-}"
    same_as --nodes "${SLURM_JOB_NUM_NODES:-}"
    same_as --ntasks-per-node "${SLURM_NTASKS_PER_NODE:-}"
    same_as --cpus-per-task "${SLURM_CPUS_PER_TASK:-}"
    same_as --gpus-per-node "${SLURM_GPUS_ON_NODE:-}"
    [ "$run_id" != null ] || run_id="$job"
    submitted="$(
        for name in "${!SLURM_@}"; do [ "$name" = SLURM_CONF ] || unset "$name"; done # it is a job of its own
        sbatch --parsable "${options[@]}" "slurm/$next.sh" "$run_id" --root "$root" "${next_options[@]}"
    )" || die 2 "--then $next: sbatch refused it, and nothing was started"
    echo "$submitted" >"$note"
    say "job $submitted: slurm/$next.sh $run_id, after this one"
}

same_as() { [ -z "$2" ] || options+=("$1=$2"); }

# A key of the section `run` in what `scaledl config show` prints.
key_of() {
    local value
    value="$(sed -n "s/^  $2: //p" <<<"$1" | head -n 1)"
    value="${value#[\"\']}"
    echo "${value%[\"\']}"
}
