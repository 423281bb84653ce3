#!/usr/bin/env bash
# run.sh lowest|latest [pytest arguments]
# Runs the fast tests with the lowest versions that pyproject.toml allows, or with the latest.
# Python: $PYTHON, else python3. The virtual environment is made anew and removed at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."

case "${1:-}" in
    lowest) resolution=lowest-direct extras=(--extra tests) ;;
    latest) resolution=highest extras=(--extra tests --extra siemens --extra templates) ;;
    *) echo "usage: $0 lowest|latest [pytest arguments]; got '${1:-}'" >&2; exit 2 ;;
esac
versions=$1
shift

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=$folder/venv/bin/python
echo "== the $versions versions that pyproject.toml allows"
"${PYTHON:-python3}" -m venv "$folder/tools"
"$folder/tools/bin/python" -m pip install --quiet --disable-pip-version-check uv 'setuptools >= 77'
uv=$folder/tools/bin/uv
"${PYTHON:-python3}" -m venv --without-pip "$folder/venv"
cp -r pyproject.toml README.md LICENSE bids_app workflows interfaces sodium "$folder"
"$folder/tools/bin/python" -m pip wheel --quiet --no-deps --no-build-isolation \
    --wheel-dir "$folder" "$folder"
# named from the file, since only what is named itself counts as direct
"$uv" pip install --quiet --python "$python" --resolution "$resolution" \
    "${extras[@]}" --requirements pyproject.toml
"$uv" pip install --quiet --python "$python" --no-deps "$folder"/*.whl

echo '== what pyproject.toml names'
"$python" - <<'END'
import re
from importlib.metadata import requires, version
named = {re.match(r"[\w.-]+", text)[0] for text in requires("sodiumprep") if "extra" not in text}
print(*(f"{name}=={version(name)}" for name in sorted(named)))
END

export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1
export NIPYPE_NO_ET=1 NO_ET=1 MPLBACKEND=Agg PYTHONDONTWRITEBYTECODE=1
echo "== fast tests"
"$python" -m pytest -q -p no:cacheprovider -m "not slow" --no-header "${@:-tests}"
