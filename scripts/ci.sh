#!/usr/bin/env bash
# What continuous integration does with a pipeline; the same on a laptop.
#
#   scripts/ci.sh install       the pinned dependencies, into .venv
#   scripts/ci.sh check         YAML, SQL files and definitions
#   scripts/ci.sh materialize   one partition by name, then what the models need
#   scripts/ci.sh train         the models of some regions; exit code 1 when a gate rejects one
#   scripts/ci.sh               check, materialize and train
#
# PIPELINE, PARTITION and REGIONS (separated by blanks) say what; .github/workflows/pipeline.yml
# sets them. Everything that is made lies in data/ci and is made anew each time.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${PIPELINE:=deliveries}" "${PARTITION:=2026-06-02-12:00}" "${REGIONS:=us_west}"
export PATH="$PWD/.venv/bin:$PATH"
export CI=true # Dagster would sleep between the retries of a step
export DAGSTER_HOME="$PWD/data/ci/dagster"
export ML_PATTERNS_WAREHOUSE="$PWD/data/ci/warehouse.duckdb"
export ML_PATTERNS_STATE_URL="sqlite:///$PWD/data/ci/state.sqlite"
export ML_PATTERNS_ARTIFACTS="$PWD/data/ci/artifacts"

install() {
    make .venv/bin/.ready
}

check() {
    fresh
    dg check yaml
    dg check defs
}

materialize() {
    fresh
    asset event_files
    asset event_aggregates --partition "$PARTITION"
    ml-patterns run "$PIPELINE" --steps aggregates,features
}

train() {
    local failed=0
    for region in $REGIONS; do
        if ! asset regional_model --partition "$region" 2>&1 | tee data/ci/train.log; then
            failed=1
            echo "FAILED: $(grep -oE "region $region .*" data/ci/train.log | tail -1)"
        fi
    done
    return $failed
}

fresh() {
    rm -rf data/ci
    mkdir -p "$DAGSTER_HOME"
    echo "telemetry: {enabled: false}" >"$DAGSTER_HOME/dagster.yaml"
}

asset() { # name, and which partition
    dagster asset materialize -m "$(root_module).definitions" --select "$PIPELINE/$1" "${@:2}"
}

root_module() {
    python -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print(tomllib.load(file)["tool"]["dg"]["project"]["root_module"])'
}

case "${1:-all}" in
install | check | materialize | train) "$1" ;;
all) check && materialize && train ;;
*)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 2
    ;;
esac
