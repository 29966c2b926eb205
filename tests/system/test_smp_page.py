"""docs/smp.md: it has every option of SMP v2, and nothing of moec that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from moec import dsl, models
from moec.cli.main import app
from moec.dsl.catalogue import NOT_YET
from moec.dsl.diagnostics import SourceErrors
from moec.dsl.vocabulary import BLOCKS, CONSTRUCTS, find

PAGE = Path(__file__).parents[2] / "docs" / "smp.md"

OPTIONS = """
hybrid_shard_degree sm_activation_offloading activation_loading_horizon fsdp_cache_flush_warnings
allow_empty_shards tensor_parallel_degree context_parallel_degree expert_parallel_degree random_seed
smp_moe moe_load_balancing sinkhorn aux_loss balanced global_token_shuffle moe_all_to_all_dispatcher
moe_aux_loss_coeff moe_z_loss_coeff use_cpu_initialization
device dtype config load_state_dict_from_rank0 cp_comm_type
DelayedParamIniter get_param_init_fn get_post_param_init_fn count_num_params
validate_params_and_buffers_inited verbose
save async_save load maybe_finalize_async_calls checkpoint_id storage_writer storage_reader planner
process_group coordinator_rank wait_error_handling force_check_all_plans s3_region s3client_config queue
sharded_strategy check_keys_matched SM_LOCAL_STATE_DICT auto_checkpoint warmup_steps drop_n_warmup_steps
checkpoint_callback_params export_full_model
FlashSelfAttention FlashGroupedQueryAttention LlamaFlashAttention attention_dropout_prob scale
triton_flash_attention use_alibi attn_mask causal cast_dtype layout
init is_initialized empty_module_params move_buffers_to_device state.rank state.world_size
state.hybrid_shard_degree state.rep_rank_process_group state.tensor_parallel_degree state.tp_size
state.tp_rank state.tp_process_group state.ep_rank state.cp_process_group grad_norm.clip_grad_norm_
train_batch_size max_steps epochs seed same_seed bf16 fp8 fp8_amax_history_len fp8_amax_compute_algo
grad_clip weight_decay beta1 beta2 lr lr_decay_style lr_decay_iters min_lr warmup plateau
activation_checkpointing delayed_param patch_neox_rope enable_memory_profiling clean_cache
offload_activations logging_freq logging_freq_for_avg log_reduced_training_loss tensorboard_dir mlflow wandb
nsys_profile viztracer gpu_affinity num_kept_checkpoints checkpoint_freq checkpoint_dir
resume_from_checkpoint checkpoint_type model_dir save_final_model
dataset_type data_num_workers data_type use_synthetic_data zipped_data training_dir test_dir
model_type max_context_width vocab_size hidden_width num_layers num_heads num_key_value_heads
intermediate_size llama_intermediate_size sliding_window dropouts initializer_range rotary_pct
rotary_emb_base rope_scaling_type use_smp_flash_attn use_smp_implementation
moe num_experts_per_tok num_local_experts moe_fp8_checkpoint_attn moe_fp8_checkpoint_moe
limit_all_gathers forward_prefetch sharding_strategy use_orig_params backward_fetch_policy auto_wrap_policy
shard_degree validation_freq validation_batches preserve_np_state fast_validation val_batch_size
distributed_backend nccl_test_log profile_nsys framework lora qlora_4bit rank alpha dropout label_smoothing
precision nvte_attn_backend smddp
"""
"""The core JSON, MoEConfig, transform, delayed initialization, checkpoints, attention, utilities, scripts."""

LATER = ("parallel.tensor", "parallel.sequence")
"""Settings that the page names because there are none yet."""


def rows() -> list[tuple[str, str, str]]:
    """The three cells of every row."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0] != "SMP" and set(cells[0]) != {"-"}:
            assert len(cells) == 3, line
            found.append((cells[0], cells[1], cells[2]))
    return found


def codes(cell: str) -> list[str]:
    return [code.replace("\\|", "|") for code in re.findall(r"`([^`]+)`", cell)]


def test_every_option_has_a_row() -> None:
    named = {part for option, _, _ in rows() for code in codes(option) for part in re.split(r"[(]", code)[:1]}
    assert [option for option in OPTIONS.split() if option not in named] == []


def test_a_row_says_what_it_is_or_that_there_is_none() -> None:
    for option, ours, why in rows():
        assert codes(option) or option.startswith(("full", "sharded")), option
        assert ours == "none" or codes(ours) or why or option == "`moe_load_balancing`", option


def _texts(cell: int) -> list[str]:
    return sorted({code for row in rows() for code in codes(row[cell])})


@pytest.mark.parametrize("text", [code for code in _texts(1) if code.startswith("moec ")])
def test_commands_and_their_options_exist(text: str) -> None:
    command = get_command(app)
    words = text.split()[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= options


_SETTING = re.compile(rf"({'|'.join(BLOCKS)})\.(\w+)(?: = (.+))?")


@pytest.mark.parametrize("text", [t for t in sorted({*_texts(1), *_texts(2)}) if _SETTING.fullmatch(t)])
def test_settings_exist_and_take_these_values(text: str) -> None:
    found = _SETTING.fullmatch(text)
    assert found is not None
    block, name, value = found.groups()
    param = find(BLOCKS[block], name)
    assert param is not None
    if text in LATER:
        with pytest.raises(SourceErrors) as refused:
            dsl.load("tiny", [f"{text}=2"], models.read)
        assert [d.code for d in refused.value.diagnostics] == [NOT_YET.code]
        return
    assert param.supported
    if value is not None:
        dsl.load("tiny", [f"{block}.{name}={value}"], models.read)


_OTHERS = [t for t in _texts(1) if not t.startswith("moec ") and not _SETTING.fullmatch(t)]


@pytest.mark.parametrize("text", _OTHERS)
def test_constructs_have_these_arguments(text: str) -> None:
    name, _, arguments = text.partition("(")
    construct = CONSTRUCTS[name]
    assert construct.supported
    for argument in re.findall(r"(\w+):", arguments):
        assert construct.param(argument) is not None, argument
    if arguments and ":" not in arguments:
        assert construct.positional
