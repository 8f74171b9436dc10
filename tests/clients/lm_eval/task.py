"""Run in lm-eval's environment: this package's task as lm-eval runs it, and as ``gqasearch evaluate`` hands it over."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))  # the task's loader imports gqasearch, as with PYTHONPATH=ROOT

from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402


def answer(request: dict) -> dict:
    task, limit = request["task"], request["limit"]
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": request["model"], "dtype": "float32"},
        tasks=[task],
        limit=limit,
        device="cpu",
        batch_size=4,
        task_manager=TaskManager(include_path=request["include_path"]),
    )
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    return {
        "version": version("lm_eval"),
        "values": [[value for value, _greedy in sample["filtered_resps"]] for sample in samples],
        "right": [sample["acc"] for sample in samples],
        "results": found["results"][task],
        "handed_over": handed_over(request),
    }


def handed_over(request: dict) -> dict:
    """What ``run_harness`` gives, and what it says of an unknown task."""
    import torch

    from gqasearch.errors import UserError
    from gqasearch.evaluation.harness import check_tasks, run_harness
    from gqasearch.models.loading import load_model, load_tokenizer

    folder = Path(request["model"])
    model = load_model(folder, torch.float32, "cpu")
    scores = run_harness(model, load_tokenizer(folder), [request["task"]], limit=request["limit"], batch=4)
    try:
        check_tasks(["hellaswga"])
        refused = ""
    except UserError as error:
        refused = str(error)
    return {"scores": [[s.metric, s.value, s.stderr, s.items] for s in scores], "refused": refused}


if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    got.write_text(json.dumps(answer(json.loads(asked.read_text()))))
