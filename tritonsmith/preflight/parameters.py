"""Which keys a backend reads; Triton passes any key on, and a backend ignores what it does not know.

Sources: the READMEs of onnxruntime_backend ("Model Config Options", TensorRT and CUDA tables), openvino_backend and
python_backend; the options of ONNX Runtime's CUDA execution provider.
"""

from __future__ import annotations

OWN = frozenset({"bucket_lengths"})
"""What tritonsmith's own clients read: the lengths that requests are padded to."""
BACKEND = {
    "onnxruntime": frozenset(
        {
            "intra_op_thread_count",
            "inter_op_thread_count",
            "execution_mode",
            "enable_mem_arena",
            "enable_mem_pattern",
            "memory.enable_memory_arena_shrinkage",
            "session.use_device_allocator_for_initializers",
            "enable_global_threadpool",
            "share_session_between_instances",
            "profile_file_prefix",
            "optimized_model_filepath",
        }
    ),
    "openvino": frozenset(
        {
            "CPU_EXTENSION_PATH",
            "INFERENCE_NUM_THREADS",
            "NUM_STREAMS",
            "PERFORMANCE_HINT",
            "HINT_BF16",
            "SKIP_OV_DYNAMIC_BATCHSIZE",
            "ENABLE_BATCH_PADDING",
            "RESHAPE_IO_LAYERS",
            "TARGET_DEVICE",
            "CPU_THREADS_NUM",
            "ENFORCE_BF16",
            "CPU_BIND_THREAD",
            "CPU_THROUGHPUT_STREAMS",
        }
    ),
}
WHOLE_NUMBERS = frozenset({"intra_op_thread_count", "inter_op_thread_count", "INFERENCE_NUM_THREADS"})
DEPRECATED_CUDA = frozenset({"cudnn_conv_algo_search", "gpu_mem_limit", "arena_extend_strategy", "do_copy_in_default_stream"})
"""Top-level parameters that belong under the accelerator `cuda`."""

TENSORRT = frozenset(
    {
        "precision_mode",
        "max_workspace_size_bytes",
        "int8_calibration_table_name",
        "int8_use_native_calibration_table",
        "trt_max_partition_iterations",
        "trt_min_subgraph_size",
        "trt_dla_enable",
        "trt_dla_core",
        "trt_engine_cache_enable",
        "trt_engine_cache_path",
        "trt_engine_cache_prefix",
        "trt_dump_subgraphs",
        "trt_force_sequential_engine_build",
        "trt_context_memory_sharing_enable",
        "trt_layer_norm_fp32_fallback",
        "trt_timing_cache_enable",
        "trt_timing_cache_path",
        "trt_force_timing_cache",
        "trt_detailed_build_log",
        "trt_build_heuristics_enable",
        "trt_sparsity_enable",
        "trt_builder_optimization_level",
        "trt_auxiliary_streams",
        "trt_tactic_sources",
        "trt_extra_plugin_lib_paths",
        "trt_profile_min_shapes",
        "trt_profile_max_shapes",
        "trt_profile_opt_shapes",
        "trt_cuda_graph_enable",
        "trt_dump_ep_context_model",
        "trt_ep_context_file_path",
        "trt_ep_context_embed_mode",
    }
)
CUDA = frozenset(
    {
        *DEPRECATED_CUDA,
        "cudnn_conv_use_max_workspace",
        "cudnn_conv1d_pad_to_nc1d",
        "enable_cuda_graph",
        "enable_skip_layer_norm_strict_mode",
        "fuse_conv_bias",
        "prefer_nhwc",
        "sdpa_kernel",
        "tunable_op_enable",
        "tunable_op_tuning_enable",
        "tunable_op_max_tuning_duration_ms",
        "use_ep_level_unified_stream",
        "use_tf32",
    }
)
ACCELERATORS: dict[str, dict[str, frozenset[str]]] = {
    "gpu_execution_accelerator": {"tensorrt": TENSORRT, "cuda": CUDA},
    "cpu_execution_accelerator": {"openvino": frozenset()},
}
PRECISION_MODES = ("FP32", "FP16", "INT8")
