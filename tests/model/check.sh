#!/usr/bin/env bash
# Checks the models with spin: each as it is, and each with every mutation that breaks one of its rules, which must be caught. Needs spin and gcc; takes a minute or two.
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v spin >/dev/null; then
  echo "tests/model: spin is missing (Debian: apt-get install spin)" >&2
  exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# explore MODEL DEFINES prints what spin's verifier says, with all defines; LIVE among them asks for the liveness property with weak fairness.
explore() {
  local model=$1 defines=$2 flags=(-DSAFETY) run=(-m200000) dir
  dir=$(mktemp -d -p "$work")
  cp "$model.pml" "$dir"
  cd "$dir"
  case " $defines " in *" LIVE "*) flags=(-DNFAIR=4) run=(-m200000 -a -f) ;; esac
  # shellcheck disable=SC2046 # one word for each define
  spin $(printf -- '-D%s ' $defines) -a "$model.pml" >spin.log 2>&1 || { cat spin.log; return 1; }
  gcc -O2 -w -DCOLLAPSE -DMEMLIM=4000 "${flags[@]}" -o pan pan.c 2>gcc.log || { cat gcc.log; return 1; }
  timeout 600 ./pan "${run[@]}"
}

# expect holds|caught MODEL DEFINES
expect() {
  local want=$1 model=$2 defines=$3 out got states
  out=$(explore "$model" "$defines" 2>&1) || true
  states=$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' <<<"$out" | head -n 1)
  if grep -q 'errors: 0$' <<<"$out" && ! grep -qE 'out of memory|max search depth too small' <<<"$out"; then
    got=holds
  elif grep -qE 'errors: [1-9]' <<<"$out"; then
    got=caught
  else
    got=broken
  fi
  printf '%-10s %-28s %-7s %10s states  %s\n' "$model" "${defines#SELF}" "$got" "${states:-0}" "$(sed -n 's/^pan:1: //p' <<<"$out" | cut -c1-70 | head -n 1)"
  if [ "$got" != "$want" ]; then
    echo "tests/model: $model with \"$defines\": expected $want, got $got" >&2
    if [ "$got" = broken ]; then tail -n 20 <<<"$out" >&2; fi
    failed=1
  fi
}

expect holds ownership SELF
for mutation in NO_WAIT_OUT WAIT_NOT_INHERITED NO_EPOCH_CHECK CHECK_LAST_SEEN; do
  expect caught ownership "$mutation"
done

for variant in SELF PUTS READER STAYS 'STAYS PUTS' LIVE 'LIVE STAYS'; do
  expect holds commit "$variant"
done
for mutation in HOLD_AT_PROPOSAL 'STAYS ANCHOR_FIRST' 'LIVE STAYS ANCHOR_FIRST' NO_PREPARE_COMPARE NO_ABORT_ENTRY LATCHES_VANISH 'READER READ_NO_WAIT'; do
  expect caught commit "$mutation"
done

expect holds sequencer SELF
for mutation in NO_LEASE WINDOW_EARLY RELEASE_FORGETS; do
  expect caught sequencer "$mutation"
done

for variant in SELF LIVE; do
  expect holds split "$variant"
done
for mutation in CHILD_EMPTY SERVES_UNTIL_APPLIED SERVES_AGAIN STARTS_EARLY; do
  expect caught split "$mutation"
done

for variant in SELF LIVE; do
  expect holds merge "$variant"
done
for mutation in SERVES_UNTIL_FROZEN COPY_EARLY NO_ATTEMPT UNFREEZE_LATE DISCARD_EARLY ABSORB_EARLY; do
  expect caught merge "$mutation"
done

if [ "$failed" != 0 ]; then exit 1; fi
echo "all models hold, and every mutation is caught"
