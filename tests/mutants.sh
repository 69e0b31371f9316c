#!/bin/sh
# Print the small changes of a module that its quick tests do not notice: `sh tests/mutants.sh MODULE TESTS...`.
# Every change is made in a clone of what is committed, one at a time, which takes one test run each.
set -eu
module=$1
shift
clone=$(mktemp -d)
trap 'rm -rf "$clone"' EXIT INT TERM
git clone --quiet . "$clone"
cd "$clone"
sed "s|MODULE|$module|; s|TESTS|$*|" tests/mutants.toml > mutants.toml
export PYTHONPATH="$clone/src:$clone"
cosmic-ray baseline mutants.toml
cosmic-ray init mutants.toml mutants.sqlite
cr-filter-operators mutants.sqlite mutants.toml
cosmic-ray exec mutants.toml mutants.sqlite
cr-report --surviving-only --show-diff mutants.sqlite
