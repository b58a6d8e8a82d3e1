"""Tokenizer, chat templates and model shapes of the tiny lab."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
)

HIDDEN, LAYERS, HEADS, KEY_VALUE_HEADS = 128, 3, 4, 2
TOWER_WIDTH, TOWER_LAYERS = 160, 3
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|vision_bos|>",
    "<|vision_eos|>", "<|IMAGE|>", "<|VIDEO|>",
)  # fmt: skip
TEACHER_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STUDENT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(rows: list[dict]) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = ["system\nYou are a helpful assistant.", "user\n", "assistant\n"] * 50
    texts += [row[key] for row in rows for key in ("question", "answer", "gold_response")] * 10
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
    )


def make_student(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5OmniThinkerForConditionalGeneration:
    head = HIDDEN // HEADS
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    config = Qwen2_5OmniThinkerConfig(
        audio_config=dict(
            d_model=TOWER_WIDTH, encoder_layers=TOWER_LAYERS, encoder_attention_heads=4,
            encoder_ffn_dim=4 * TOWER_WIDTH, num_mel_bins=128, output_dim=HIDDEN, n_window=100,
        ),
        # Never fed; as small as the class allows.
        vision_config=dict(
            depth=1, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=HIDDEN,
            fullatt_block_indexes=[0],
        ),
        text_config=dict(
            **text_shape(len(tokenizer)),
            rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[head // 4, head // 8, head // 8]),
        ),
        audio_token_id=ids["<|AUDIO|>"], image_token_id=ids["<|IMAGE|>"], video_token_id=ids["<|VIDEO|>"],
        audio_start_token_id=ids["<|audio_bos|>"], audio_end_token_id=ids["<|audio_eos|>"],
        vision_start_token_id=ids["<|vision_bos|>"], vision_end_token_id=ids["<|vision_eos|>"],
    )  # fmt: skip
    return Qwen2_5OmniThinkerForConditionalGeneration(config)


def text_shape(vocabulary: int) -> dict:
    return dict(
        vocab_size=vocabulary, hidden_size=HIDDEN, intermediate_size=4 * HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KEY_VALUE_HEADS, max_position_embeddings=1024,
        tie_word_embeddings=False,
    )  # fmt: skip


def make_teacher(vocabulary: int) -> Qwen2ForCausalLM:
    rotary = dict(rope_type="default", rope_theta=1e6)
    return Qwen2ForCausalLM(Qwen2Config(**text_shape(vocabulary), rope_parameters=rotary))
