"""Forms in which a trained Qwen2.5-Omni leaves the project, and the code that loads each of them."""

from trainer_ext.students.base import ExportTarget
from trainer_ext.students.qwen2_5_omni_names import (
    to_full_model_name,
    to_thinker_name,
    to_vllm_name,
)

THINKER_CLASS = "Qwen2_5OmniThinkerForConditionalGeneration"

EXPORT_TARGETS = {
    "thinker": ExportTarget(
        kind="student",
        rename=to_thinker_name,
        architecture=THINKER_CLASS,
        usage=f"""The thinker alone: text and audio in, text out.

```python
from transformers import {THINKER_CLASS}

thinker = {THINKER_CLASS}.from_pretrained("{{name}}")
```""",
    ),
    "omni": ExportTarget(
        kind="full_model",
        pipeline_tag="any-to-any",
        usage="""The full model. The thinker is trained; talker, token2wav and voices are copies of the base's.
The talker was not trained with the new thinker: spoken output may be worse than the base's.

```python
from transformers import Qwen2_5OmniForConditionalGeneration

model = Qwen2_5OmniForConditionalGeneration.from_pretrained("{name}")
```""",
    ),
    "omni_adapter": ExportTarget(
        kind="adapter",
        rename=to_full_model_name,
        usage="""A LoRA adapter for the full model.

```python
from peft import PeftModel
from transformers import Qwen2_5OmniForConditionalGeneration

model = Qwen2_5OmniForConditionalGeneration.from_pretrained("{base}")
model = PeftModel.from_pretrained(model, "{name}")
```""",
    ),
    "vllm_adapter": ExportTarget(
        kind="adapter",
        rename=to_vllm_name,
        served_by_vllm=True,
        usage="""A LoRA adapter with the names that vLLM maps.

```bash
vllm serve {base} --enable-lora --max-lora-rank {max_lora_rank} --lora-modules distilled={name}
```""",
    ),
}
