# The forward pass and all between the matrices. Units of a level are compiled with its flags, and
# with -O3: their loops over lanes must be unrolled completely.
set(QH_FORWARD_FILES
  cpu/attention.c cpu/attention_scalar.c cpu/attn_work.c cpu/cpu_backend.c cpu/cpu_model.c
  cpu/float_ops.c cpu/float_ops_scalar.c cpu/forward.c cpu/meminfo.c cpu/ref.c cpu/rope_table.c
  cpu/team.c)
set(level_files cpu/attention_scalar.c cpu/float_ops_scalar.c)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND level_files
    cpu/attention_avx2.c cpu/attention_avx512.c cpu/attention_avx512bf16.c
    cpu/float_ops_avx2.c cpu/float_ops_avx512.c)
  set_property(SOURCE cpu/attention_avx2.c cpu/float_ops_avx2.c
    APPEND PROPERTY COMPILE_OPTIONS ${QH_FLAGS_AVX2})
  set_property(SOURCE cpu/attention_avx512.c cpu/float_ops_avx512.c
    APPEND PROPERTY COMPILE_OPTIONS ${QH_FLAGS_AVX512})
  set_property(SOURCE cpu/attention_avx512bf16.c APPEND PROPERTY COMPILE_OPTIONS ${QH_FLAGS_AVX512BF16})
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  list(APPEND level_files cpu/attention_neon.c cpu/float_ops_neon.c)
endif()
set_property(SOURCE ${level_files} APPEND PROPERTY COMPILE_OPTIONS -O3)
list(APPEND QH_FORWARD_FILES ${level_files})
list(REMOVE_DUPLICATES QH_FORWARD_FILES)
