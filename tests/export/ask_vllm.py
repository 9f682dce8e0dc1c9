"""Run by a python that has vLLM: answers prompts greedily. Standard input:
{"model": …, "adapter": … or null, "rank": …,
"prompts": [[ids], …], "max_tokens": …}. The file that is named gets {"version": …, "answers": [[ids], …]}: standard
output is vLLM's."""

import json
import sys
from pathlib import Path

import vllm  # pyright: ignore[reportMissingImports]
from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]


def main() -> None:
    asked = json.load(sys.stdin)
    adapter = LoRARequest("tuned", 1, asked["adapter"]) if asked["adapter"] else None
    model = vllm.LLM(
        asked["model"], dtype="float32", max_model_len=512, max_num_seqs=4, enforce_eager=True,
        enable_lora=adapter is not None, max_lora_rank=asked["rank"],
    )  # fmt: skip
    greedy = vllm.SamplingParams(temperature=0, max_tokens=asked["max_tokens"])
    prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
    answers = [list(each.outputs[0].token_ids) for each in model.generate(prompts, greedy, lora_request=adapter)]
    Path(sys.argv[1]).write_text(json.dumps({"version": vllm.__version__, "answers": answers}))


if __name__ == "__main__":
    main()
