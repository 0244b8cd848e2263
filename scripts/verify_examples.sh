#!/usr/bin/env bash
# Judge the examples of docs/tdd/receipts: the positive one must be accepted, each negative one rejected. PYTHONPATH says with which judge.
set -uo pipefail
judge=(python -m tritium.gates)
wrong=0
echo "### Examples of receipts"
echo
echo "| receipt | expected | exit |"
echo "|---|---|---|"
for file in docs/tdd/receipts/*.json; do
  case $file in *positive*) expected=0 ;; *) expected=1 ;; esac
  "${judge[@]}" "$file" >/dev/null 2>&1
  got=$?
  echo "| $(basename "$file") | $expected | $got |"
  [ "$got" = "$expected" ] || wrong=1
done
exit $wrong
