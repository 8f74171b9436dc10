#!/usr/bin/env bash
# PyYAML 6.0.3: yaml.safe_load of text that cannot be read does not always raise yaml.YAMLError. What a scalar's tag, or
# its look, promises and its text does not keep ends in three other classes, with no line number.
#
# A date needs no tag: a mistyped day in a file of settings is enough.
#
# For us: every file and --set of settings is read in one place, which takes them all for what they are, bad YAML.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check PyYAML==6.0.3
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import yaml

found = {}
for text in ("until: 2026-02-30", "until: !!timestamp tomorrow", "wanted: !!bool perhaps"):
    try:
        yaml.safe_load(text)
    except Exception as error:
        found[text] = (type(error).__name__, isinstance(error, yaml.YAMLError))
print(f"PyYAML {yaml.__version__}")
for text, (name, is_yaml_error) in found.items():
    print(f"{text!r}: {name}, {'a' if is_yaml_error else 'no'} YAMLError")
expected = [("ValueError", False), ("AttributeError", False), ("KeyError", False)]
sys.exit(0 if list(found.values()) == expected else "changed")
PYTHON
