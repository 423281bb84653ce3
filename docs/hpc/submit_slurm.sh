#!/bin/bash
# One subject per task of a Slurm array, then the group level: bash submit_slurm.sh BIDS_DIR OUT_DIR
# WORK_DIR [options of sodiumprep]. All three folders must lie on a disk that the nodes share.
set -euo pipefail

# how sodiumprep is called: the command, or a container as the README has it
SODIUMPREP=${SODIUMPREP:-sodiumprep}
CPUS=${CPUS:-2}            # of each subject: --nprocs follows it
MEM=${MEM:-8G}            # of each subject: --mem follows it
TIME=${TIME:-06:00:00}    # of each subject
AT_ONCE=${AT_ONCE:-50}    # subjects that run at a time
EXTRA=${EXTRA:-}          # more for sbatch, such as --partition=long --account=brain

if [ $# -lt 3 ]; then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
bids=$(realpath "$1") out=$(realpath -m "$2") work=$(realpath -m "$3")
shift 3
options=$(printf '%q ' "$@")
[ $# -gt 0 ] || options=''
jobs=$work/slurm-$(date +%Y%m%d-%H%M%S)
mkdir -p "$jobs" "$out"

# the subjects are in the order of the tasks; SUBJECTS="01 07" takes those alone
if [ -n "${SUBJECTS:-}" ]; then
    printf '%s\n' $SUBJECTS
else
    # raw data of some may lie in sourcedata alone, which need not be there
    { find "$bids" "$bids/sourcedata" -maxdepth 1 -name 'sub-*' -xtype d -printf '%f\n' 2>/dev/null \
        || true; } | sort -u
fi > "$jobs/subjects.txt"
count=$(wc -l < "$jobs/subjects.txt")
[ "$count" -gt 0 ] || { echo "no sub-* in $bids" >&2; exit 2; }

cat > "$jobs/subject.sh" <<JOB
#!/bin/bash
cd $(printf '%q' "$PWD")
subject=\$(sed -n "\$((\$1 + SLURM_ARRAY_TASK_ID))p" $(printf '%q' "$jobs/subjects.txt"))
exec $SODIUMPREP $(printf '%q ' "$bids" "$out")participant --participant-label "\$subject" \\
    -w $(printf '%q' "$work") --skip-bids-validation $options
JOB
cat > "$jobs/group.sh" <<JOB
#!/bin/bash
cd $(printf '%q' "$PWD")
exec $SODIUMPREP $(printf '%q ' "$bids" "$out")group
JOB

# a cluster bounds the numbers of tasks: more subjects are several arrays, one after the other
limit=$(scontrol show config 2>/dev/null | awk '$1 == "MaxArraySize" { print $3 - 1 }' || true)
MOST=${MOST:-${limit:-1000}}
[ "$MOST" -gt 0 ] || { echo "MOST=$MOST tasks in an array; accepted: 1 and more" >&2; exit 2; }
last='' arrays=''
for ((before = 0; before < count; before += MOST)); do
    tasks=$((count - before < MOST ? count - before : MOST))
    # shellcheck disable=SC2086  # EXTRA holds several words
    if ! array=$(sbatch --parsable $EXTRA --job-name=sodiumprep --array="1-$tasks%$AT_ONCE" \
            --cpus-per-task="$CPUS" --mem="$MEM" --time="$TIME" ${last:+--dependency=afterany:$last} \
            --output="$jobs/subject-%A_%a.out" "$jobs/subject.sh" "$before"); then
        echo "only the first $before of $count subjects are submitted (job${arrays:- none}), and no group level" >&2
        exit 1
    fi
    last=${array%%;*} arrays+=" ${array%%;*}"
done
# after all subjects, also after those that failed: the others have results
# shellcheck disable=SC2086
group=$(sbatch --parsable $EXTRA --job-name=sodiumprep-group --dependency="afterany:$last" \
    --cpus-per-task=1 --mem=4G --time=01:00:00 --output="$jobs/group-%j.out" "$jobs/group.sh")
group=${group%%;*}
echo "$count subject(s): job$arrays; group level: job $group; scripts and output: $jobs"
