#!/bin/bash
# One subject per task of a PBS array, then the group level: bash submit_pbs.sh BIDS_DIR OUT_DIR
# WORK_DIR [options of sodiumprep]. All three folders must lie on a disk that the nodes share.
set -euo pipefail

# how sodiumprep is called: the command, or a container as the README has it
SODIUMPREP=${SODIUMPREP:-sodiumprep}
CPUS=${CPUS:-2}            # of each subject
MEM_GB=${MEM_GB:-8}       # of each subject
TIME=${TIME:-06:00:00}    # of each subject
EXTRA=${EXTRA:-}          # more for qsub, such as -q long -A brain

if [ $# -lt 3 ]; then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
bids=$(realpath "$1") out=$(realpath -m "$2") work=$(realpath -m "$3")
shift 3
options=$(printf '%q ' "$@")
[ $# -gt 0 ] || options=''
jobs=$work/pbs-$(date +%Y%m%d-%H%M%S)
mkdir -p "$jobs" "$out"

# the subjects are numbered as the tasks are; SUBJECTS="01 07" takes those alone
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
subject=\$(sed -n "\${PBS_ARRAY_INDEX}p" $(printf '%q' "$jobs/subjects.txt"))
exec $SODIUMPREP $(printf '%q ' "$bids" "$out")participant --participant-label "\$subject" \\
    -w $(printf '%q' "$work") --skip-bids-validation --nprocs $CPUS --mem ${MEM_GB}GB $options
JOB
cat > "$jobs/group.sh" <<JOB
#!/bin/bash
cd $(printf '%q' "$PWD")
exec $SODIUMPREP $(printf '%q ' "$bids" "$out")group
JOB

# An array of one is none for PBS. Torque: -t instead of -J, PBS_ARRAYID instead of PBS_ARRAY_INDEX,
# -l nodes=1:ppn=$CPUS,mem=${MEM_GB}gb instead of -l select=…, and afteranyarray.
if [ "$count" -gt 1 ]; then range=(-J "1-$count"); else range=(-v PBS_ARRAY_INDEX=1); fi
# shellcheck disable=SC2086  # EXTRA holds several words
array=$(qsub $EXTRA -N sodiumprep "${range[@]}" -l "select=1:ncpus=$CPUS:mem=${MEM_GB}gb" \
    -l walltime="$TIME" -j oe -o "$jobs/" "$jobs/subject.sh")
# after all subjects, also after those that failed: the others have results
# shellcheck disable=SC2086
group=$(qsub $EXTRA -N sodiumprep-group -W depend="afterany:$array" \
    -l select=1:ncpus=1:mem=4gb -l walltime=01:00:00 -j oe -o "$jobs/" "$jobs/group.sh")
echo "$count subject(s): job $array; group level: job $group; scripts and output: $jobs"
