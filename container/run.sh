#!/usr/bin/env bash
# run.sh TAG [-v SOURCE:TARGET[:ro]]... [--user UID] [--no-tmp] -- COMMAND...
# Runs a command in an image of build.sh as engines do with
#   --read-only --tmpfs /tmp --network none --user UID (default: 54321, which nobody knows)
# by mounts and namespaces of the kernel alone. --no-tmp leaves /tmp out. Needs root.
set -euo pipefail
store=$(realpath "${STORE:-$(dirname "$0")/../build/container}")
tag=$1 user=54321 tmp=yes volumes=()
shift
while [ "$1" != -- ]; do
    case "$1" in
        -v) volumes+=("$2"); shift 2 ;;
        --user) user=$2; shift 2 ;;
        --no-tmp) tmp=; shift ;;
        *) echo "$1 is not known; accepted: -v, --user, --no-tmp, --" >&2; exit 2 ;;
    esac
done
shift

buildah() { command buildah --root "$store/images" --runroot "$store/run" --storage-driver vfs "$@"; }
told='{{.FromImageID}}{{println}}{{.OCIv1.Config.WorkingDir}}{{println}}'
told+='{{range .OCIv1.Config.Env}}{{println .}}{{end}}'
mapfile -t known < <(buildah inspect --type image --format "$told" "$tag" | sed '/^$/d')
identity=${known[0]} workdir=${known[1]} environment=("${known[@]:2}")

# a container is a copy of the image: one is kept for each image
container=run-${identity:0:12}
kept=$(buildah containers --format '{{.ContainerName}}')
grep -qx "$container" <<< "$kept" || buildah from --pull-never --name "$container" "$tag" > /dev/null
root=$(buildah mount "$container")
for volume in "${volumes[@]}"; do
    IFS=: read -r _ target _ <<< "$volume"
    mkdir -p "$root$target"
done
mkdir -p "$root/proc" "$root/dev" "$root/tmp"

export root tmp user workdir
# shellcheck disable=SC2016 # expanded by the inner shell
exec unshare --mount --net --pid --ipc --fork --kill-child bash -euc '
    mount --make-rprivate /
    mount --bind "$root" "$root"
    volumes=()
    while [ "$1" != -- ]; do volumes+=("$1"); shift; done
    shift
    for volume in "${volumes[@]}"; do
        IFS=: read -r source target mode <<< "$volume"
        mount --bind "$source" "$root$target"
        if [ "$mode" = ro ]; then mount -o remount,bind,ro "$root$target"; fi
    done
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=755 dev "$root/dev"
    for device in null zero random urandom; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    ln -s /proc/self/fd "$root/dev/fd"
    mkdir "$root/dev/shm"
    mount -t tmpfs -o mode=1777,size=64m shm "$root/dev/shm"
    if [ -n "$tmp" ]; then mount -t tmpfs -o mode=1777 tmp "$root/tmp"; fi
    mount -o remount,bind,ro "$root"
    environment=()
    while [ "$1" != -- ]; do environment+=("$1"); shift; done
    shift
    exec env -i "${environment[@]}" /usr/sbin/chroot --userspec="$user:$user" --groups= "$root" \
        bash -c "cd \"\$0\" && exec \"\$@\"" "$workdir" "$@"
' inner "${volumes[@]}" -- "${environment[@]}" -- "$@"
