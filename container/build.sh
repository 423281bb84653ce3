#!/usr/bin/env bash
# build.sh [--archive FILE] [TAG]
# Builds the image of the Dockerfile without a container engine or a registry: buildah runs the
# steps in a chroot, on a Debian that debootstrap has made and that carries the base image's tag.
# Needs root, and the Debian packages buildah and debootstrap; exit code 3 if they cannot be had.
# Mirrors and certificates of this machine's apt and pip serve the build and stay out of the image.
# $STORE (default: build/container) keeps the images; a base that lies there is used again.
set -euo pipefail
cd "$(dirname "$0")/.."

archive=
if [ "${1:-}" = --archive ]; then archive=$2; shift 2; fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
tag=${1:-sodiumprep:$version}
store=$(realpath --canonicalize-missing "${STORE:-build/container}")
base=$(sed -n 's/^FROM \(\S*\).*/\1/p' Dockerfile | sort --unique)
suite=bookworm

cannot() { echo "the image cannot be built here: $*" >&2; exit 3; }
[ "$(id -u)" = 0 ] || cannot 'it needs root'
for program in buildah debootstrap; do
    command -v "$program" >/dev/null || cannot "$program is missing (apt-get install $program)"
done

# vfs and chroot need neither overlay nor namespaces; slower and larger, but they run anywhere
buildah() { command buildah --root "$store/images" --runroot "$store/run" --storage-driver vfs "$@"; }
secrets=$(mktemp -d)
trap 'rm -rf "$secrets"' EXIT
mkdir -p "$store"

# --- what this machine knows of mirrors
mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME) $(ORIGIN)' 'Created-By: Packages' \
    | awk -v suite="$suite" '$2 == suite && $3 == "Debian" { print $1; exit }')
mirror=${MIRROR:-${mirror:-http://deb.debian.org/debian}}
echo "deb $mirror $suite main" > "$secrets/sources"
apt-config dump | grep -E '^Acquire::(https?::Proxy|Check-|Retries|https::CaInfo)' > "$secrets/apt" || true
python3 container/pip_settings.py > "$secrets/pip"
given=(--secret "id=sources,src=$secrets/sources" --secret "id=apt,src=$secrets/apt"
       --secret "id=pip,src=$secrets/pip")
certificates=/etc/ssl/certs/ca-certificates.crt
if [ -f "$certificates" ]; then given+=(--secret "id=certificates,src=$certificates"); fi

# --- the base
kept=$(buildah images --format '{{.Name}}:{{.Tag}}')
if ! grep -q "/$base\$" <<< "$kept"; then
    echo "== $base, by debootstrap"
    root=$store/base
    rm -rf "$root"
    debootstrap --variant=minbase "$suite" "$root" "$mirror" > "$store/debootstrap.log" \
        || { tail -n 3 "$store/debootstrap.log" >&2; cannot 'debootstrap failed'; }
    umount --recursive "$root/proc" "$root/sys" 2>/dev/null || true
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/log/* \
        "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/*
    echo "deb http://deb.debian.org/debian $suite main" > "$root/etc/apt/sources.list"
    : > "$root/etc/resolv.conf"
    echo localhost > "$root/etc/hostname"
    tar --create --one-file-system --numeric-owner --directory "$root" --file "$store/base.tar" \
        --exclude './proc/*' --exclude './sys/*' .
    printf 'FROM scratch\nADD base.tar /\n' > "$store/base.Dockerfile"
    buildah bud --quiet --layers=false --tag "docker.io/library/$base" \
        --file "$store/base.Dockerfile" "$store" > /dev/null
    rm -rf "$root" "$store/base.tar"
fi

# --- the image
echo "== $tag, by buildah"
buildah bud --layers=false --isolation chroot --pull-never "${given[@]}" --tag "$tag" \
    --build-arg "IMAGE=$tag" --build-arg "VERSION=$version" \
    --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" . > "$store/build.log" 2>&1 \
    || { tail -n 20 "$store/build.log" >&2; exit 1; }
buildah images --format '{{.Name}}:{{.Tag}} {{.Size}}' | grep "${tag%%:*}"
if [ -n "$archive" ]; then
    buildah push --quiet "$tag" "docker-archive:$archive:$tag"
    echo "archive: $archive"
fi
