#!/usr/bin/env bash
# safetensors 0.8.0: save_file writes aside and renames, and the file that it leaves can be read by its owner alone (mode
# 0600), whatever the umask says and whatever mode the file had before. A symbolic link in its place is replaced, not
# followed; so is anything else that had the name. Files beside it (config.json, tokenizer.json) have the usual mode: a
# checkpoint that transformers saved looks whole to another user, a serving account say, who cannot open its weights.
#
# For us: gqasearch.files.save_tensors gives files the mode that any other new file gets, so that a cache of statistics on
# a shared disk is of use to all; converted checkpoints are written by our own writer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
umask 022
"$folder/venv/bin/python" - <<'PYTHON'
import os
import stat
import sys
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save_file

new, old, target, link = map(Path, ("new.safetensors", "old.safetensors", "target.safetensors", "link.safetensors"))
Path("config.json").write_text("{}")
old.write_bytes(b"")
old.chmod(0o664)
target.write_bytes(b"what the link points to")
link.symlink_to(target)
for path in (new, old, link):
    save_file({"a": np.zeros(3)}, path)
modes = [oct(stat.S_IMODE(os.stat(path).st_mode)) for path in ("config.json", new, old)]
print(f"safetensors {safetensors.__version__}, umask 022")
print(f"config.json {modes[0]}, a new file {modes[1]}, one that had 0664 {modes[2]}")
print(f"the link is still one: {link.is_symlink()}; what it pointed to was written: {target.stat().st_size > 50}")
same = modes == ["0o644", "0o600", "0o600"] and not link.is_symlink() and target.stat().st_size < 50
sys.exit(0 if same else "changed")
PYTHON
